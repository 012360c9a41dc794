"""The cluster of the end-to-end run: the one that KUBECONFIG names, else a node on this machine with KubeRay on it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.fake_kuberay import part
from support.kubernetes import ROOT, Cluster, ControlPlane
from support.node import image as images
from support.node.image import Image
from support.node.machine import READY_S, Node
from support.processes import wait_until

KUBERAY_IMAGE = "quay.io/kuberay/operator:v1.6.0"
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


def missing() -> str:
    """What keeps a node from running on this machine; empty when nothing does."""
    if os.geteuid() != 0:
        return "a node takes root; or set KUBECONFIG to a cluster with KubeRay"
    packages = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not _PLUGIN.exists():
        packages.add("containernetworking-plugins")
    if packages:
        return f"a node takes more programs: apt-get install {' '.join(sorted(packages))}; or set KUBECONFIG"
    trial = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "ip", "link", "add", "type", "veth"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"namespaces cannot be made here ({done.stderr.strip()}); set KUBECONFIG to a cluster with KubeRay"
    return ""


def image(component: str) -> str:
    """The image that the chart and the examples name."""
    version = yaml.safe_load((ROOT / "charts/autoglm/Chart.yaml").read_text())["appVersion"]
    return f"ghcr.io/autoglm/{component}:{version}"


@contextmanager
def running(directory: Path) -> Iterator[tuple[Cluster, Callable[[], str]]]:
    """A cluster with KubeRay, and what tells of its parts when something went wrong."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(directory, Path(given)), lambda: ""
        return
    why = missing()
    if why:
        pytest.skip(why)
    node = Node("autoglm-node", 1, directory / "node")
    try:
        node.connect()
        api = ControlPlane(directory / "kubernetes", address=node.outside, for_nodes=True)
        try:
            api.start()
            kuberay = part("operator")
            pictures = [images.shipped(each, image(each)) for each in images.DOCKERFILES]
            pictures.append(Image(KUBERAY_IMAGE, links={"/manager": str(kuberay)}))
            install_kuberay(api)
            node.start(api, pictures, images.mounts(kuberay.parent))
            wait_for_kuberay(api)
            yield api, node.log_tails
        finally:
            api.stop()
    finally:
        node.stop()


def install_kuberay(api: Cluster) -> None:
    """KubeRay as its own manifests install it (config/default), without kustomize, which takes minutes for megabytes."""
    config = part("config")
    for path in sorted((config / "crd/bases").glob("*.yaml")):
        wait_until(lambda path=path: _is_applied(api, path), f"{path.name} is taken", 4 * READY_S)  # type: ignore[misc]
    wait_until(
        lambda: "rayservices.ray.io" in api.kubectl("api-resources", "--cached=false", "-o", "name").split(),
        "the API server knows RayServices",
        READY_S,
    )
    api.apply(*kuberay_objects(config))


def kuberay_objects(config: Path) -> list[dict[str, Any]]:
    """KubeRay's account, rights and operator, in the namespace default."""
    found: list[dict[str, Any]] = []
    for folder in ("rbac", "manager"):
        names = yaml.safe_load((config / folder / "kustomization.yaml").read_text())["resources"]
        for name in names:
            found += filter(None, yaml.safe_load_all((config / folder / name).read_text()))
    for each in found:
        if not each["kind"].startswith("Cluster"):
            each["metadata"]["namespace"] = "default"
        for subject in each.get("subjects") or ():
            subject["namespace"] = "default"
        if each["kind"] == "Deployment":
            each["spec"]["template"]["spec"]["containers"][0]["image"] = KUBERAY_IMAGE
    return found


def wait_for_kuberay(api: Cluster) -> None:
    """Wait until KubeRay's operator is ready."""
    rolled_out = ("rollout", "status", "deployment/kuberay-operator", f"--timeout={READY_S:g}s")
    api.kubectl(*rolled_out, timeout=READY_S + 60)


def _is_applied(api: Cluster, definition: Path) -> bool:
    """The API server gives a request 34 s, and a loaded machine may need more for so large a definition."""
    told = api.kubectl("apply", "--server-side", "-f", str(definition), check=False, timeout=READY_S)
    assert "Invalid" not in told, told
    return "serverside-applied" in told
