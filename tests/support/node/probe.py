"""Whether this machine can hold a node, found out by doing in small what a node does: the one place where that is decided."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from support.node.namespaces import CGROUPS, NEW, hierarchies, remove_group

REPORT = "AUTOGLM_NOT_RUN"
"""Variable with the path of a file: what is not run on this machine, and why, is told there for the summary of the run."""

# Programs that a node needs, and the Debian packages that bring them.
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "wget": "wget",
}
_PLUGIN = Path("/usr/lib/cni/ptp")
_TRIAL = "autoglm-trial"
# Without one of them the kubelet does not start; with version 1 each is a hierarchy of its own.
_CONTROLLERS = {"cpu", "cpuset", "memory", "pids"}
_TIMEOUT_S = 120.0
# In namespaces of their own, in this order; the first one that fails is what is missing.
_TRIALS = {
    "mounts cannot be made in a namespace": "mount --make-rshared / && mount -t tmpfs tmpfs /run",
    "overlayfs cannot be mounted over the temporary folder": (
        "mkdir lower upper work all && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all"
    ),
    "a network of its own cannot be set up": (
        "ip link set lo up && ip link add trial type veth peer name other && sysctl -qw net.ipv4.ip_forward=1"
    ),
    "iptables cannot write the rules of kube-proxy": (
        "iptables -t nat -A POSTROUTING -m comment --comment trial -m mark --mark 1"
        " -m statistic --mode random --probability 0.5 -j MASQUERADE"
    ),
    "connections are not tracked": "conntrack -L >/dev/null 2>&1",
    "runc cannot run a container": f"runc run --bundle . {_TRIAL}",
}


@cache
def obstacle() -> str:
    """What keeps a node from running on this machine; empty when nothing does."""
    if os.geteuid() != 0:
        return "a node takes root; or set KUBECONFIG to a cluster with KubeRay"
    packages = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not _PLUGIN.exists():
        packages.add("containernetworking-plugins")
    if packages:
        return f"a node takes more programs: apt-get install {' '.join(sorted(packages))}; or set KUBECONFIG"
    why = told(lambda: _control_groups() or _namespaces())
    return f"{why}; set KUBECONFIG to a cluster with KubeRay" if why else ""


def told(trial: Callable[[], str]) -> str:
    """What a trial says. One that breaks off is an obstacle too: raised during collection it would end the whole layer."""
    try:
        return trial()
    except (OSError, subprocess.SubprocessError, AssertionError, ValueError) as error:
        return f"what a node does cannot be tried here ({type(error).__name__}: {' '.join(str(error).split())})"


def report(what: str, why: str) -> None:
    """Tell the summary of the run that something was not run here."""
    path = os.environ.get(REPORT)
    if path:
        with Path(path).open("a") as out:
            print(f"{what}: {why}", file=out)


def _control_groups() -> str:
    mounted = hierarchies()
    if not mounted:
        return "no control groups are mounted here"
    for hierarchy in mounted:
        group = hierarchy / _group()
        try:
            group.mkdir()
            missing = _CONTROLLERS - _controllers(group) if hierarchy == CGROUPS else set()
            group.rmdir()
        except OSError as error:
            return f"control groups cannot be made here ({error})"
        if missing:
            return f"control groups made here have no {', '.join(sorted(missing))} (see {hierarchy}/cgroup.subtree_control)"
    return ""


def _controllers(group: Path) -> set[str]:
    return set((group / "cgroup.controllers").read_text().split())


def _group() -> str:
    return f"{_TRIAL}-{os.getpid()}"


def _namespaces() -> str:
    with tempfile.TemporaryDirectory(prefix="autoglm-trial-") as folder:
        _write_bundle(Path(folder))
        steps = (f"{{ {script}; }} || {{ echo {what!r} >&2; exit 1; }}" for what, script in _TRIALS.items())
        command = ["unshare", *NEW, "--", "bash", "-c", "\n".join(steps)]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"a trial container did not end in {_TIMEOUT_S:g} s"
        finally:
            remove_group(_group())
    if done.returncode == 0:
        return ""
    words = done.stderr.split("\n")
    what = next((line for line in words if line in _TRIALS), "namespaces cannot be made here")
    return f"{what} ({' '.join(' '.join(line for line in words if line != what).split())})"


def _write_bundle(folder: Path) -> None:
    """A container of this machine's own programs that does nothing, in the control group of a node."""
    root = folder / "rootfs"
    for name in ("usr", "proc", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run(["runc", "spec"], cwd=folder, check=True, capture_output=True)
    spec: dict[str, Any] = json.loads((folder / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/usr/bin/true"]}
    usr = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    spec["mounts"] = [one for one in spec["mounts"] if one["destination"] in ("/proc", "/dev")] + [usr]
    spec["linux"]["cgroupsPath"] = f"/{_group()}/container"
    (folder / "config.json").write_text(json.dumps(spec))
