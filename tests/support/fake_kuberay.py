"""KubeRay on a real API server: its custom resource definitions, and a stand-in that writes what its operator would report."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from support.kubernetes import ROOT, ControlPlane
from support.operator import ACCOUNT, SYSTEM, Installation
from support.processes import wait_until

Json = dict[str, Any]
RAY = "/apis/ray.io/v1"


def part(name: str) -> Path:
    """A part of KubeRay on this machine: "crds" or "operator"; the operator is built the first time (minutes)."""
    done = subprocess.run([ROOT / "tests/cluster/kuberay.sh", name], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def install_crds(api: ControlPlane) -> None:
    """RayService and its kin. Server-side, because they are larger than the annotation of client-side apply may be."""
    api.kubectl("apply", "--server-side", "-f", str(part("crds")))
    wait_until(
        lambda: "rayservices.ray.io" in api.kubectl("api-resources", "--cached=false", "-o", "name").split(),
        "the API server knows RayServices",
    )


def grant(api: ControlPlane, namespace: str) -> None:
    """What config/rbac/site-kuberay.yaml grants, in this namespace."""
    documents = list(yaml.safe_load_all((ROOT / "config/rbac/site-kuberay.yaml").read_text()))
    for document in documents:
        if not document["kind"].startswith("Cluster"):
            document["metadata"]["namespace"] = namespace
    assert documents[1]["subjects"][0] == {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}
    api.apply(*documents)


class FakeKubeRay:
    """Reports on RayServices of one namespace, as KubeRay's operator does, when it is told to."""

    def __init__(self, installation: Installation, namespace: str) -> None:
        self._installation = installation
        self.namespace = namespace

    def services(self) -> list[Json]:
        """All RayServices of the namespace."""
        found = self._installation.request("GET", self._path("rayservices"))
        return list(found["items"]) if found else []

    def service(self) -> Json | None:
        """The one RayService, if there is one."""
        found = self.services()
        assert len(found) <= 1, [one["metadata"]["name"] for one in found]
        return found[0] if found else None

    def cluster(self) -> Json | None:
        """A RayCluster of the RayService, if one was made."""
        return next(iter(self._clusters()), None)

    def cluster_count(self) -> int:
        """How many RayClusters there are."""
        return len(self._clusters())

    def _clusters(self) -> list[Json]:
        found = self._installation.request("GET", self._path("rayclusters"))
        return list(found["items"]) if found else []

    def child(self, group: str, plural: str) -> Json | None:
        """The one object of a kind in the namespace."""
        found = self._installation.request("GET", f"/apis/{group}/namespaces/{self.namespace}/{plural}")
        return next(iter(found["items"] if found else ()), None)

    def of_applications(self) -> dict[str, Json]:
        """The RayServices that are to stay, by the Serve application in them."""
        there = [one for one in self.services() if "deletionTimestamp" not in one["metadata"]]
        return {str(_application(one)["name"]): one for one in there}

    def work(self) -> None:
        """Whatever is asked for comes to be: each RayService gets its RayCluster, and all of its replicas run."""
        there = {one["metadata"]["name"] for one in self._clusters()}
        for service in self.of_applications().values():
            if f"{service['metadata']['name']}-abcde" not in there:
                self.make_cluster(service)
            if (service.get("status") or {}).get("observedGeneration") != service["metadata"]["generation"]:
                self.report(endpoints=_application(service)["deployments"][0]["num_replicas"], service=service)

    def make_cluster(self, service: Json | None = None) -> None:
        """The RayCluster of a RayService, with its labels, as KubeRay makes it. Without one it is that of the only one."""
        service = service or self.service()
        assert service is not None
        metadata, name = service["metadata"], f"{service['metadata']['name']}-abcde"
        owner = {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": name, "labels": metadata["labels"], "ownerReferences": [owner]},
            "spec": service["spec"]["rayClusterConfig"],
        }
        self._installation.request("POST", self._path("rayclusters"), body)

    def report(
        self,
        status: str = "RUNNING",
        engine: str = "HEALTHY",
        message: str = "",
        endpoints: int = 1,
        service: Json | None = None,
    ) -> None:
        """The status of the application, on the spec that is stored now."""
        service = service or self.service()
        assert service is not None
        args = _application(service)
        told = {
            "observedGeneration": service["metadata"]["generation"],
            "numServeEndpoints": endpoints,
            "activeServiceStatus": {
                "rayClusterName": f"{service['metadata']['name']}-abcde",
                "applicationStatuses": {
                    args["name"]: {
                        "status": status,
                        "message": message,
                        "serveDeploymentStatuses": {"Engine": {"status": engine}, "Ingress": {"status": "HEALTHY"}},
                    }
                },
            },
        }
        path = f"{self._path('rayservices')}/{service['metadata']['name']}/status"
        self._installation.request("PATCH", path, {"status": told})

    def _path(self, plural: str) -> str:
        return f"{RAY}/namespaces/{self.namespace}/{plural}"


def _application(service: Json) -> Json:
    found: Json = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    return found
