"""Logs across sites: of the operator, the gateways, the pods of Ray clusters in this cluster, and of replicas elsewhere."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoglm_operator.kuberay.names import DEPLOYMENT, SITE
from autoglm_operator.plugin import ray_logs
from autoglm_operator.plugin.cluster import Cluster, ClusterFailed
from autoglm_operator.store import JsonObject

PART = "app.kubernetes.io/part-of=autoglm,app.kubernetes.io/component"


@dataclass(frozen=True)
class Wish:
    """How much of each log, and from which sites; no sites means all."""

    lines: int = 50
    since_s: int | None = None
    sites: tuple[str, ...] = ()

    @property
    def query(self) -> dict[str, str]:
        """As the API server takes it for a pod's log."""
        since = {} if self.since_s is None else {"sinceSeconds": str(self.since_s)}
        return {"tailLines": str(self.lines), "timestamps": "false", **since}


@dataclass(frozen=True)
class Piece:
    """The end of one log, or why there is none."""

    source: str
    text: str = ""
    problem: str = ""

    def lines(self) -> Iterator[str]:
        """Each line after the name of its source."""
        if self.problem:
            yield f"[{self.source}] (no log: {self.problem})"
        for line in self.text.splitlines():
            yield f"[{self.source}] {line}"


def of_component(cluster: Cluster, component: str, wish: Wish) -> Iterator[Piece]:
    """The operator or the gateways, in whatever namespace the chart put them."""
    for pod in cluster.pods(f"{PART}={component}"):
        yield from _of_pod(cluster, pod, f"{component}/{pod['metadata']['name']}", wish)


def of_deployment(
    cluster: Cluster, deployment: JsonObject, sites: Mapping[str, JsonObject], wish: Wish
) -> Iterator[Piece]:
    """Its replicas at every site where it is, or at the chosen ones."""
    metadata = deployment["metadata"]
    for entry in (deployment.get("status") or {}).get("sites") or ():
        name = entry["name"]
        site = sites.get(name)
        if wish.sites and name not in wish.sites:
            continue
        if site is None:
            yield Piece(name, problem="there is no AutoGLMSite of this name")
        elif "kubeRay" in site["spec"]["backend"]:
            yield from _of_kuberay(cluster, site, metadata["name"], wish)
        else:
            yield from _of_ray(cluster, site, metadata["uid"], wish)


def _of_kuberay(cluster: Cluster, site: JsonObject, deployment: str, wish: Wish) -> Iterator[Piece]:
    backend, name = site["spec"]["backend"]["kubeRay"], site["metadata"]["name"]
    if backend.get("kubeconfigSecret"):
        yield Piece(name, problem="it is in another Kubernetes cluster: use --kubeconfig of that one")
        return
    pods = cluster.pods(f"{SITE}={name},{DEPLOYMENT}={deployment}", backend["namespace"])
    if not pods:
        yield Piece(name, problem=f"there are no pods in namespace {backend['namespace']}")
    for pod in pods:
        yield from _of_pod(cluster, pod, f"{name}/{pod['metadata']['name']}", wish)


def _of_pod(cluster: Cluster, pod: JsonObject, source: str, wish: Wish) -> Iterator[Piece]:
    container = pod["spec"]["containers"][0]["name"]
    try:
        yield Piece(source, cluster.log(pod, container, wish.query))
    except ClusterFailed as error:
        yield Piece(source, problem=str(error))


def _of_ray(cluster: Cluster, site: JsonObject, uid: str, wish: Wish) -> Iterator[Piece]:
    name, ray = site["metadata"]["name"], site["spec"]["backend"]["ray"]
    try:
        token, ca = _secret(cluster, ray.get("tokenSecret")), _secret(cluster, (ray.get("tls") or {}).get("caSecret"))
        dashboard = ray_logs.Dashboard(ray["address"], token, ca)
        found = ray_logs.replicas(ray_logs.serve_document(dashboard), uid)
    except (ClusterFailed, ray_logs.RayUnreachable) as error:
        yield Piece(name, problem=str(error))
        return
    if not found:
        yield Piece(name, problem="it has no replicas there")
    for replica in found:
        source = f"{name}/{replica.name}"
        try:
            yield Piece(source, ray_logs.log(dashboard, replica, wish.lines))
        except ray_logs.RayUnreachable as error:
            yield Piece(source, problem=str(error))


def _secret(cluster: Cluster, reference: Mapping[str, Any] | None) -> str | None:
    """A value of a Secret, with the rights of whoever runs the command."""
    if reference is None:
        return None
    found = cluster.json(f"/api/v1/namespaces/{reference['namespace']}/secrets/{reference['name']}")
    try:
        encoded = found["data"][reference.get("key", "token")]
        return base64.b64decode(encoded, validate=True).decode().strip()
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        raise ClusterFailed(f"Secret {reference['namespace']}/{reference['name']} has no such key") from None
