"""A RayService on a simulated site with KubeRay: its Serve application, its RayCluster and the worker pods there. No I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from autoglm_operator.kuberay import observed
from autoglm_operator.kuberay.names import MANAGER, WORKERS
from autoglm_operator.state import ApplicationStatus, ApplicationView

Json = dict[str, Any]


@dataclass
class PodApplication:
    """What KubeRay and Ray make of a RayService. `workers` bounds the pods of the RayCluster, `pods` are there."""

    manifest: Mapping[str, Any]
    site: str
    uid: str
    children: list[Json] = field(default_factory=list)
    status: ApplicationStatus = "DEPLOYING"
    ready: int = 0
    serving: str | None = None
    message: str = ""
    workers: int = 0
    pods: int = 0
    generation: int = 1
    applied_at: datetime | None = None
    """When the operator last changed it, where anybody asks."""
    seen: int | None = None
    """The generation that KubeRay has acted on, if not this one."""
    made_from: Mapping[str, Any] | None = None
    """The pod template of the workers that are there; other pods are another Ray cluster."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The Serve application."""
        document = json.loads(self.manifest["spec"]["serveConfigV2"])
        found: Mapping[str, Any] = document["applications"][0]
        return found

    @property
    def replicas(self) -> int:
        """The wanted replicas."""
        return int(self.config["deployments"][0]["num_replicas"])

    @property
    def held(self) -> int:
        """Worker pods that have accelerators, or are asked for."""
        return max(self.pods, self.workers if self.status != "DELETING" else 0)

    def put(self, manifests: Sequence[Mapping[str, Any]], workers: int | None) -> None:
        """Server-side apply of the RayService and its children, and of the bounds of its RayCluster."""
        first, *children = manifests
        if first["spec"] != self.manifest["spec"]:
            self.generation += 1
            self.status = "DEPLOYING"
        self.manifest = first
        if children:
            self.children = [dict(child) for child in children]
        if workers is not None:
            self.workers = workers

    def view(self) -> ApplicationView:
        """What the operator reads of it."""
        return observed.applications(self.listing(), self.site)[0]

    def listing(self) -> observed.Listing:
        """The objects as the API server holds them."""
        return observed.Listing([self.ray_service()], [self.ray_cluster()] if self.made_from else [], self.children)

    def ray_service(self) -> Json:
        """The RayService with KubeRay's report."""
        metadata = {**self.manifest["metadata"], "uid": self.uid, "generation": self.generation}
        if self.applied_at is not None:
            entry = {"manager": MANAGER, "operation": "Apply", "time": self.applied_at.isoformat()}
            metadata["managedFields"] = [entry]
        if self.status == "DELETING":
            metadata["deletionTimestamp"] = "2026-03-01T11:59:00Z"
        told = {
            "status": self.status,
            "message": self.message,
            "serveDeploymentStatuses": {"Engine": {"status": "UPDATING" if self.message else "HEALTHY"}},
        }
        status = {
            "observedGeneration": self.generation if self.seen is None else self.seen,
            "numServeEndpoints": self.ready,
            "activeServiceStatus": {
                "rayClusterName": self.cluster,
                "applicationStatuses": {self.config["name"]: told},
            },
        }
        return {"kind": "RayService", "metadata": metadata, "spec": self.manifest["spec"], "status": status}

    @property
    def name(self) -> str:
        """Name of the RayService."""
        return str(self.manifest["metadata"]["name"])

    @property
    def cluster(self) -> str:
        """Name of the RayCluster."""
        return f"{self.name}-abcde"

    def ray_cluster(self) -> Json:
        """The RayCluster, with the pods that KubeRay counts."""
        group = {
            "groupName": WORKERS,
            "replicas": self.workers,
            "minReplicas": self.workers,
            "maxReplicas": self.workers,
        }
        owner = {"kind": "RayService", "name": self.name, "uid": self.uid}
        return {
            "metadata": {
                "name": self.cluster,
                "labels": self.manifest["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": {"workerGroupSpecs": [group]},
            "status": {"availableWorkerReplicas": self.pods},
        }

    def finish(self, room: float) -> None:
        """Ends what is under way, as far as the site has room for pods. Pods of another kind are those of another cluster."""
        group = self.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        if self.made_from is None:
            self.workers = int(group["replicas"])
        assert self.made_from in (None, group["template"]) or self._may_surge, "no pod changes under a running cluster"
        self.made_from = group["template"]
        self.pods = int(min(self.workers, room))
        self.ready = min(self.replicas, self.pods)
        short = self.replicas - self.ready
        self.status = "DEPLOYING" if short else "RUNNING"
        self.message = f"Engine has {short} replicas that take long to be scheduled" if short else ""
        self.serving = self.config["args"].get("revision")

    @property
    def _may_surge(self) -> bool:
        return bool(self.manifest["spec"]["upgradeStrategy"]["type"] == "NewCluster")
