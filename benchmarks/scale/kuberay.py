"""KubeRay's own operator with RayServices, whose pods are said to run and whose Ray clusters are simulated by the farm.

RayServices are KubeRay's own sample (a head, a worker, two Serve applications), the operator's settings those of its chart.
"""

import copy
import http.client
import json
import random
from pathlib import Path

import yaml
from benchmarks.scale.api import Client, Json, Watcher
from benchmarks.scale.helper import Helper

from support.fake_kuberay import install_crds, part
from support.kubernetes import ControlPlane
from support.ports import free_port
from support.processes import Process
from support.ray_farm import Ports

NAMESPACE, NODE = "scale-kuberay", "simulated"
SERVICES = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayservices"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/ray-operator-leader"
# Beside the usual ones: the Service of a RayService is Ready by its endpoints.
CONTROLLERS = ("endpointslice-controller",)


class KubeRay:
    """RayServices of one namespace."""

    title = "KubeRay"

    def __init__(self, folder: Path, plane: ControlPlane, farm: Ports) -> None:
        self._folder = folder
        self._kubeconfig = plane.kubeconfig
        self._farm = farm
        self._holder = ""
        self._process: Process
        self.client = Client(plane)
        install_crds(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        self._sample: Json = yaml.safe_load((part("config") / "samples/ray-service.sample.yaml").read_text())
        cluster = self._sample["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            group["template"]["spec"]["nodeName"] = NODE
        self.watcher = Watcher(self.client, SERVICES)
        self.helpers: tuple[Helper, ...] = (
            Helper("what says of KubeRay's pods that they run", self._run_pods),
            self.watcher.start(),
        )

    @property
    def process(self) -> Process:
        return self._process

    def start(self) -> None:
        self._holder = self._lease_holder()
        command = [
            str(part("operator")),
            f"--leader-election-namespace={NAMESPACE}",
            f"--metrics-addr=127.0.0.1:{free_port()}",
            f"--health-probe-bind-address=127.0.0.1:{free_port()}",
        ]
        # Its Ray clusters have names that only a cluster's DNS knows, and addresses of pods: a proxy needs neither.
        env = {"KUBECONFIG": str(self._kubeconfig), "HTTP_PROXY": f"http://127.0.0.1:{self._farm.proxy}"}
        self._process = Process("kuberay", command, log=self._folder / "kuberay.log", env=env).start()

    def leads(self) -> bool:
        return self._lease_holder() not in ("", self._holder)

    def settled(self) -> bool:
        return True

    def manifest(self, number: int, _: random.Random) -> Json:
        return {**copy.deepcopy(self._sample), "metadata": {"name": f"scale-{number}", "namespace": NAMESPACE}}

    def change(self, generation: int) -> Json:
        text = self._sample["spec"]["serveConfigV2"].replace("price: 3", f"price: {3 + generation}")
        return {"spec": {"serveConfigV2": text}}

    def mark(self) -> Json:
        return self._looks()

    def looked_at_all(self, mark: Json) -> bool:
        """The applications of every Ray cluster were read since then."""
        looks = self._looks()
        return all(looks[host] > count for host, count in mark.items())

    def _looks(self) -> Json:
        connection = http.client.HTTPConnection("127.0.0.1", self._farm.proxy, timeout=30)
        try:
            connection.request("GET", "/farm/looks")
            found: Json = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return {host: count for host, count in found.items() if ".svc." in host}

    def _lease_holder(self) -> str:
        found = json.loads(self.client.request("GET", LEASE.rpartition("/")[0]))["items"]
        name = LEASE.rpartition("/")[2]
        return next(
            (str(one["spec"].get("holderIdentity") or "") for one in found if one["metadata"]["name"] == name), ""
        )

    def _run_pods(self) -> None:
        """What a kubelet would report a moment after a pod was made."""
        number = 0
        for event in self.client.events(PODS):
            pod = event["object"]
            if event["type"] != "ADDED" or (pod.get("status") or {}).get("phase") == "Running":
                continue
            number += 1
            address = f"10.{200 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
            self.client.request("PATCH", f"{PODS}/{pod['metadata']['name']}/status", {"status": _running(pod, address)})


def _running(pod: Json, address: str) -> Json:
    now = pod["metadata"]["creationTimestamp"]
    states = [
        {
            "name": one["name"],
            "image": one["image"],
            "imageID": one["image"],
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }
        for one in pod["spec"]["containers"]
    ]
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        "containerStatuses": states,
    }
