"""Linux namespaces in which a node lives: network, mounts, processes. When their first process ends, all of it is gone.

Nothing that the node does reaches this machine: its firewall rules, bridges and routes are in a network of its own, its
mounts in a tree of its own, and its processes end with the first one, also when the test run is killed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from support.cluster import started_at
from support.processes import POLL_S, Process, wait_until

CGROUPS = Path("/sys/fs/cgroup")
_KINDS = ("--net", "--mount", "--pid", "--ipc", "--uts")
NEW = (*_KINDS, "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
"""Options with which `unshare` makes such a set."""
# Waits for its children, whoever started them: shims of ended containers are handed to it.
_FIRST = "sleep infinity & wait"
# A group gets as much of the CPUs as one process beside it, unless it is told that it is many: a node is a dozen busy ones.
_SHARES = {"cpu.shares": "8192", "cpu.weight": "800"}
# Pods have a cable each too; those are not called eth.
_CUT = [f"{rule} eth+ -j DROP" for rule in ("INPUT -i", "OUTPUT -o", "FORWARD -i", "FORWARD -o")]
_SETUP = """set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p {files}/lib {files}/log
mount --bind {files}/lib /var/lib
mount --bind {files}/log /var/log
hostname {name}
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
"""


class Namespaces:
    """A set of namespaces, and a control group for what runs there. `name` also names its control group."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        self._first = Process(name, ["unshare", *NEW, "--", "bash", "-c", _FIRST], log=directory / "namespaces.log")
        # Where a later run looks for what this one leaves when it is killed together with its reaper, whatever its TMPDIR.
        self._record = Path(f"/tmp/{name}.process")

    @property
    def cgroup(self) -> str:
        """Control group in every hierarchy, as the kubelet names it."""
        return f"/{self.name}"

    def start(self) -> None:
        """Make them, and the control group. Nobody else has a set of this name: what is there of one was left behind."""
        self._end_leftover()
        self._first.start()
        self._record.write_text(json.dumps([self._first.pid, started_at(self._first.pid)]))
        self._first.wait_for(lambda: self._child() is not None, "the namespaces are there")
        # /proc of the namespaces is mounted last.
        self._first.wait_for(lambda: self.run("test -e /proc/1/comm").returncode == 0, "they can be entered")
        self.checked(_SETUP.format(files=self._directory, name=self.name))
        remove_group(self.name)  # a run that was killed leaves its groups, empty
        for hierarchy in hierarchies():
            group = hierarchy / self.name
            group.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists():
                    (group / setting).write_text((hierarchy / setting).read_text())
            for setting, share in _SHARES.items():
                if (group / setting).exists():
                    (group / setting).write_text(share)

    def stop(self) -> None:
        """End everything in them, and take the control groups away."""
        self._first.kill()
        self._record.unlink(missing_ok=True)
        remove_group(self.name)
        for folder in ("lib", "log"):
            shutil.rmtree(self._directory / folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The first process in them, as this machine numbers it."""
        found = self._child()
        assert found is not None, "the namespaces are not there"
        return found

    def inside(self, *command: str | Path) -> list[str]:
        """A command that runs in them."""
        return ["nsenter", f"--target={self.pid}", *_KINDS, "--", *map(str, command)]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in them."""
        return subprocess.run(self.inside("bash", "-c", script), capture_output=True, text=True, check=False)

    def checked(self, script: str) -> str:
        """What a shell script prints there; it must succeed."""
        done = self.run(f"set -e; {script}")
        assert done.returncode == 0, f"{script}\nexit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def link(self, inside: str, outside: str, prefix: int, device: str) -> None:
        """A cable to this machine: an address at either end. It goes with the namespaces, some time after their end."""
        subprocess.run(["ip", "link", "delete", device], capture_output=True, check=False)
        _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _ip("address", "add", f"{outside}/{prefix}", "dev", device)
        _ip("link", "set", device, "up")
        self.checked(
            f"ip address add {inside}/{prefix} dev eth0; ip link set eth0 up; ip route add default via {outside}"
        )

    def wire(self, other: "Namespaces", ours: str, theirs: str) -> None:
        """A cable to other namespaces, as eth1 at either end."""
        _ip("link", "add", "eth1", "netns", str(self.pid), "type", "veth", "peer", "eth1", "netns", str(other.pid))
        for end, address in ((self, ours), (other, theirs)):
            end.checked(f"ip address add {address}/30 dev eth1; ip link set eth1 up")

    def cut(self) -> None:
        """Nothing comes in or goes out by any cable any more; what is inside goes on."""
        self.checked("; ".join(f"iptables -I {rule}" for rule in _CUT))

    def mend(self) -> None:
        """Undo `cut`."""
        self.checked("; ".join(f"iptables -D {rule}" for rule in _CUT))

    def _end_leftover(self) -> None:
        """End the first process of a run that was killed; the kernel ends all others in its namespaces."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid, started = json.loads(self._record.read_text())
            if started is not None and started_at(pid) == started:
                os.killpg(pid, signal.SIGKILL)
                wait_until(lambda: started_at(pid) != started, f"process {pid} of an earlier run has ended")

    def _child(self) -> int | None:
        try:
            listed = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        except OSError:
            return None
        return int(listed[0]) if listed else None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def hierarchies() -> list[Path]:
    """Mounted hierarchies; with version 2 alone there is one, `CGROUPS` itself."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    if not CGROUPS.is_dir():
        return []
    return [path for path in sorted(CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


def remove_group(name: str) -> None:
    """Take a control group and those in it out of every hierarchy, once the last processes in them have ended."""
    for hierarchy in hierarchies():
        wait_until(lambda group=hierarchy / name: _removed(group), f"no process is left in {name}")  # type: ignore[misc]


def _removed(group: Path) -> bool:
    """Remove a control group and those in it; False while processes in them have not ended."""
    if not group.exists():
        return True
    time.sleep(POLL_S)
    for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        _remove(path)
    return _remove(group)


def _remove(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True
