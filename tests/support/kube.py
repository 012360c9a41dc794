"""Sites with the back end kubeRay for tests of the operator's decisions: what the API server would hold there. No I/O."""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from autoglm_operator import clusters
from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite
from autoglm_operator.kuberay import observed
from autoglm_operator.state import ApplyApplication, Observed, SiteView
from autoglm_operator.subject import Subject
from support import fleet

Json = dict[str, Any]

NAMESPACE = "ray"
UID = "uid-of-the-ray-service"
BACKEND: Json = {"namespace": NAMESPACE, "image": "registry.example/autoglm-serving:1"}


def site(name: str, backend: Mapping[str, Any] | None = None, **metadata: Any) -> AutoGLMSite:
    """A site on which KubeRay runs."""
    return fleet.site(name, {"backend": {"kubeRay": BACKEND | dict(backend or {})}}, **metadata)


def view(
    name: str,
    *found: observed.Listing,
    backend: Mapping[str, Any] | None = None,
    age: float = 2.0,
    now: datetime = fleet.NOW,
) -> SiteView:
    """A site that was read `age` seconds ago, with what the listings hold."""
    applications = tuple(one for listing in found for one in observed.applications(listing, name))
    return SiteView(site(name, backend), applications=applications, observed_at=now - timedelta(seconds=age))


def node(
    name: str,
    *,
    cpu: str = "4",
    memory: str = "1Gi",
    gpu: int = 0,
    pods: str = "110",
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Json] = (),
    ready: bool = True,
    cordoned: bool = False,
    devices: Mapping[str, str] | None = None,
) -> Json:
    """A node as the API server holds it; `devices` are further resources."""
    offers = {
        "cpu": cpu,
        "memory": memory,
        "pods": pods,
        **({"nvidia.com/gpu": str(gpu)} if gpu else {}),
        **(devices or {}),
    }
    return {
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
        "status": {"allocatable": offers, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def pod(
    on: str | None, *, cpu: str | None = None, memory: str | None = None, gpu: int = 0, phase: str = "Running"
) -> Json:
    """A pod with one container, bound to a node or not."""
    asked = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": str(gpu) if gpu else None}
    requests = {key: amount for key, amount in asked.items() if amount is not None}
    spec: Json = {"containers": [{"name": "main", "resources": {"requests": requests}}]}
    return {"spec": spec | ({"nodeName": on} if on else {}), "status": {"phase": phase}}


def manifests(of: AutoGLMDeployment, name: str, backend: Mapping[str, Any] | None = None) -> tuple[Json, ...]:
    """What the operator applies for a deployment at a site, its children included."""
    first = _applied(of, view(name, backend=backend))
    second = _applied(of, view(name, Stored(first.manifests[0]).listing(), backend=backend))
    return tuple(copy.deepcopy(dict(one)) for one in second.manifests)


def stored(of: AutoGLMDeployment, name: str, backend: Mapping[str, Any] | None = None) -> observed.Listing:
    """A deployment at a site as it is when all runs."""
    made = Stored(*manifests(of, name, backend))
    made.runs()
    return made.listing()


class Stored:
    """The objects of one deployment at one site, as the API server holds them. Change `ray_service` and `children`."""

    def __init__(self, ray_service: Mapping[str, Any], *children: Mapping[str, Any]) -> None:
        self.ray_service: Json = copy.deepcopy(dict(ray_service))
        self.ray_service["metadata"] |= {"uid": UID, "generation": 1}
        self.children = [copy.deepcopy(dict(child)) for child in children]
        group = self.ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        owner = {"kind": "RayService", "name": self.name, "uid": UID}
        self.ray_cluster: Json = {
            "metadata": {"name": f"{self.name}-abcde", "ownerReferences": [owner]},
            "spec": {"workerGroupSpecs": [copy.deepcopy(group)]},
        }

    @property
    def name(self) -> str:
        """Name of the RayService."""
        return str(self.ray_service["metadata"]["name"])

    def status(self, **told: Any) -> None:
        """What KubeRay reports; it has seen the newest spec."""
        generation = self.ray_service["metadata"]["generation"]
        self.ray_service["status"] = {"observedGeneration": generation, **told}

    def runs(
        self, status: str = "RUNNING", engine: str = "HEALTHY", message: str = "", endpoints: int | None = None
    ) -> None:
        """KubeRay reports the application in this status, on the one cluster that there is."""
        self.status(
            activeServiceStatus=service(self.application, status, engine, message),
            numServeEndpoints=self.replicas if endpoints is None else endpoints,
        )

    @property
    def application(self) -> str:
        """Name of the Serve application."""
        return str(observed.applications(self.listing(), self.site)[0].name)

    @property
    def site(self) -> str:
        """The site that the objects are for."""
        return str(self.ray_service["metadata"]["labels"]["serving.autoglm.dev/site"])

    @property
    def replicas(self) -> int:
        """Wanted worker pods."""
        return int(self.ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"])

    def listing(self) -> observed.Listing:
        """What a look at the namespace finds."""
        return observed.Listing(
            copy.deepcopy([self.ray_service]), copy.deepcopy([self.ray_cluster]), copy.deepcopy(self.children)
        )


def service(application: str, status: str, engine: str = "HEALTHY", message: str = "") -> Json:
    """KubeRay's words on the applications of one Ray cluster."""
    return {
        "rayClusterName": "cluster-1",
        "applicationStatuses": {
            application: {
                "status": status,
                "message": message,
                "serveDeploymentStatuses": {"Engine": {"status": engine}, "Ingress": {"status": "HEALTHY"}},
            }
        },
    }


def _applied(of: AutoGLMDeployment, where: SiteView) -> ApplyApplication:
    subject = Subject(of, Observed(sites=(where,)), fleet.NOW)
    wanted = subject.wanted_at(where.name)
    return clusters.apply(clusters.Place(subject, where, wanted, next(iter(where.applications or ()), None)))
