"""Our operator with deployments at simulated Ray clusters and a simulated gateway, which are other processes."""

import http.client
import json
import random
from pathlib import Path

from benchmarks.scale.api import Client, Json, Watcher
from benchmarks.scale.helper import Helper

from support import manifests, ray_farm
from support.kubernetes import ROOT, ControlPlane
from support.operator import ACCOUNT, SYSTEM, OperatorProcess, right_to_read
from support.processes import Process

SITES = 100
SITES_EACH = 2
NAMESPACE, SECRET = "scale", "farm"
SCOPE = ("--all-namespaces", "--lease-duration", "15")
GROUP = "/apis/serving.autoglm.dev/v1alpha1"
DEPLOYMENTS = f"{GROUP}/namespaces/{NAMESPACE}/autoglmdeployments"
SITES_PATH = f"{GROUP}/autoglmsites"


class Ours:
    """Deployments over 100 sites, each at two of them."""

    title = "AutoGLM"

    def __init__(self, folder: Path, plane: ControlPlane, farm: ray_farm.Ports) -> None:
        self._folder = folder
        self._farm = farm
        self._started = 0
        self._operator: OperatorProcess
        self.client = Client(plane)
        plane.kubectl("apply", "-f", str(ROOT / "config/rbac/operator.yaml"))
        self._kubeconfig = plane.service_account_kubeconfig(SYSTEM, ACCOUNT)
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.apply(*_secret(farm.token), *(self._site(number) for number in range(SITES)))
        self._token_file = folder / "token"
        self._token_file.write_text(farm.gateway_token)
        self.watcher = Watcher(self.client, DEPLOYMENTS)
        self.helpers: tuple[Helper, ...] = (self.watcher.start(),)

    @property
    def process(self) -> Process:
        return self._operator.process

    def start(self) -> None:
        gateway = [f"http://127.0.0.1:{self._farm.gateway}", "--gateway-token-file", str(self._token_file)]
        name = f"operator-{self._started}"
        self._started += 1
        self._operator = OperatorProcess(name, self._folder, self._kubeconfig, [*SCOPE, "--gateway", *gateway])
        self._operator.process.start()

    def leads(self) -> bool:
        return self._operator.role() == "leading"

    def settled(self) -> bool:
        """Every site has its status: at the first start that is a hundred writes, behind which new deployments would wait."""
        found = json.loads(self.client.request("GET", SITES_PATH))["items"]
        return all((one.get("status") or {}).get("phase") for one in found)

    def manifest(self, number: int, dice: random.Random) -> Json:
        sites = [f"site-{site}" for site in sorted(dice.sample(range(SITES), SITES_EACH))]
        model = {"name": f"model-{number}", "uri": "builtin://autoglm-tiny"}
        made = manifests.deployment(f"scale-{number}", model=model, sites={"names": sites})
        made["metadata"]["namespace"] = NAMESPACE
        return made

    def change(self, generation: int) -> Json:
        return {"spec": {"limits": {"maxQueue": 10 + generation}}}

    def mark(self) -> Json:
        return {"epoch": self._epoch()}

    def looked_at_all(self, mark: Json) -> bool:
        """The gateway has a new table; there is none before every deployment and site was looked at."""
        return self._epoch() > int(mark["epoch"])

    def _epoch(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._farm.gateway, timeout=30)
        try:
            connection.request("GET", "/farm/epoch")
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def _site(self, number: int) -> Json:
        host = ray_farm.host(number)
        backend = manifests.ray(
            address=f"http://{host}:{self._farm.clusters}",
            serveAddresses=[f"http://{host}:8000"],
            tokenSecret={"namespace": NAMESPACE, "name": SECRET},
        )
        return manifests.site(f"site-{number}", backend={"ray": backend})


def _secret(token: str) -> tuple[Json, ...]:
    metadata = {"name": SECRET, "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}
    return secret, *right_to_read(SECRET, NAMESPACE)
