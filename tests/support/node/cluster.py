"""The cluster of the end-to-end run: the one that KUBECONFIG names, else a node on this machine with KubeRay on it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.fake_kuberay import part
from support.kubernetes import ROOT, Cluster, ControlPlane
from support.node import image as images
from support.node import probe
from support.node.alone import alone
from support.node.image import Image
from support.node.machine import READY_S, Node
from support.processes import wait_until

KUBERAY_IMAGE = "quay.io/kuberay/operator:v1.6.0"


def image(component: str) -> str:
    """The image that the chart and the examples name."""
    version = yaml.safe_load((ROOT / "charts/autoglm/Chart.yaml").read_text())["appVersion"]
    return f"ghcr.io/autoglm/{component}:{version}"


@dataclass
class Running:
    """A cluster with KubeRay. `nodes` are those made here: none where KUBECONFIG leads to another cluster."""

    api: Cluster
    nodes: list[Node] = field(default_factory=list)

    def tell(self) -> str:
        """What the cluster's own parts say, for the message of a failure."""
        return "\n".join(node.log_tails() for node in self.nodes)


@contextmanager
def running(directory: Path, names: Sequence[str] = ("autoglm-node",), patience_s: int = 300) -> Iterator[Running]:
    """A cluster with nodes of these names; KubeRay's operator is on the first one.

    A node made here that is silent for `patience_s` is not Ready, and after as long again its pods are taken away.
    """
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Running(Cluster(directory, Path(given)))
        return
    why = probe.obstacle()
    if why:
        probe.report("a real node", why)
        pytest.skip(why)
    with alone():
        yield from _made_here(directory, names, patience_s)


def _made_here(directory: Path, names: Sequence[str], patience_s: int) -> Iterator[Running]:
    nodes = [Node(name, number, directory / name) for number, name in enumerate(names, 1)]
    try:
        for node in nodes:
            node.connect()
        for node in nodes[1:]:
            nodes[0].join(node)
        api = ControlPlane(
            directory / "kubernetes", address=nodes[0].outside, for_nodes=True, node_patience_s=patience_s
        )
        try:
            api.start()
            kuberay = part("operator")
            pictures = [images.shipped(each, image(each)) for each in images.DOCKERFILES]
            pictures.append(Image(KUBERAY_IMAGE, links={"/manager": str(kuberay)}))
            install_kuberay(api)
            nodes[0].start(api, pictures, images.mounts(kuberay.parent))
            wait_for_kuberay(api)
            for node in nodes[1:]:
                node.start(api, pictures, images.mounts(kuberay.parent))
            yield Running(api, nodes)
        finally:
            api.stop()
    finally:
        for node in nodes:
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
            (container,) = each["spec"]["template"]["spec"]["containers"]
            container["image"] = KUBERAY_IMAGE
            # A tenth of a CPU, a second for each probe, and a Lease that is lost when an answer takes 5 s: on a busy machine it
            # would be ended again and again. There is no second one that could lead.
            container.pop("resources", None)
            container["args"] = [*container.get("args", ()), "--enable-leader-election=false"]
            for check in ("livenessProbe", "readinessProbe"):
                container[check]["timeoutSeconds"] = 30
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
