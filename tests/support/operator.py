"""The operator as a real process against a real API server, with fake Ray clusters and a fake gateway around it."""

import json
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import manifests
from support.fake_gateway import FakeGateway
from support.fake_ray import FakeRay
from support.kubernetes import ROOT, ControlPlane
from support.ports import free_port
from support.processes import DEADLINE_S, POLL_S, Process, wait_until

Json = dict[str, Any]

SYSTEM = "autoglm-system"
ACCOUNT = "autoglm-operator"
GROUP = "/apis/serving.autoglm.dev/v1alpha1"
LEASE_S = 6.0
KINDS = ("autoglmdeployments", "autoglmsites")


def right_to_read(secret: str, namespace: str) -> tuple[Json, Json]:
    """The operator's right to read one Secret, as config/rbac/site-secrets.yaml shows it."""
    metadata, group = {"name": secret, "namespace": namespace}, "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]}]
    return (
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": secret},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        },
    )


class OperatorProcess:
    """One `python -m autoglm_operator run`, as the ServiceAccount of config/rbac."""

    def __init__(self, name: str, directory: Path, kubeconfig: Path, arguments: list[str]) -> None:
        self.health_port, self.metrics_port = free_port(), free_port()
        command = [
            *(sys.executable, "-m", "autoglm_operator", "run", "--host", "127.0.0.1", "--lease-namespace", SYSTEM),
            *("--health-port", str(self.health_port), "--metrics-port", str(self.metrics_port)),
            *("--lease-duration", str(LEASE_S), *arguments),
        ]
        self.process = Process(
            name, command, log=directory / f"{name}.log", env={"KUBECONFIG": str(kubeconfig)}, cwd=directory
        )

    def start(self) -> "OperatorProcess":
        """Start it; returns when it is ready to lead or to stand by."""
        self.process.start()
        self.process.wait_for(lambda: self.role() is not None, "it is ready")
        return self

    def role(self) -> str | None:
        """ "leading", "standing by", or None while it is not ready."""
        try:
            return _fetch(f"http://127.0.0.1:{self.health_port}/readyz").strip()
        except OSError:
            return None

    def metric(self, line: str) -> float:
        """The value of one line of its metrics, such as 'autoglm_operator_leader'; 0 if it is not there."""
        for found in _fetch(f"http://127.0.0.1:{self.metrics_port}/metrics").splitlines():
            if found.startswith(f"{line} "):
                return float(found.rpartition(" ")[2])
        return 0.0

    def log_entries(self) -> list[Json]:
        """What it has logged. A line that is not JSON fails the test."""
        return [json.loads(line) for line in self.process.log_text().splitlines()]


class Installation:
    """An API server with the operator's account, and what an operator process needs to be started."""

    def __init__(self, api: ControlPlane) -> None:
        api.kubectl("apply", "-f", str(ROOT / "config/rbac/operator.yaml"))
        self.api = api
        self.kubeconfig = api.service_account_kubeconfig(SYSTEM, ACCOUNT)
        self._tls = ssl.create_default_context(cafile=str(api.ca_file))

    def operator(self, name: str, directory: Path, gateway: FakeGateway, scope: list[str]) -> OperatorProcess:
        """An operator process, not started yet."""
        token_file = directory / "gateway-token"
        token_file.write_text(gateway.token)
        gateways = ["--gateway", gateway.url, "--gateway-token-file", str(token_file)]
        return OperatorProcess(name, directory, self.kubeconfig, [*scope, *gateways])

    def request(self, method: str, path: str, body: Json | None = None) -> Json | None:
        """One call of the API server as its administrator; None when there is no such object."""
        request = urllib.request.Request(self.api.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.api.token}")
        request.add_header("Accept", "application/json")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header(
                "Content-Type", "application/merge-patch+json" if method == "PATCH" else "application/json"
            )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                found: Json = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str) -> list[Json]:
        """All objects of a kind in all namespaces."""
        found = self.request("GET", f"{GROUP}/{kind}")
        return list(found["items"]) if found else []

    def clean(self) -> None:
        """Takes away every deployment and site without an operator's help."""
        for kind in KINDS:
            wait_until(lambda kind=kind: self._none_left(kind), f"no {kind} are left")  # type: ignore[misc]

    def _none_left(self, kind: str) -> bool:
        left = self.list(kind)
        for found in left:
            metadata = found["metadata"]
            scope = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") else ""
            path = f"{GROUP}{scope}/{kind}/{metadata['name']}"
            # In this order: an object that is being deleted gets no new finalizer.
            self.request("DELETE", path)
            self.request("PATCH", path, {"metadata": {"finalizers": None}})
        return not left

    def release_lease(self) -> None:
        """Forgets the leader of an earlier test, which may have been killed."""
        self.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{ACCOUNT}")


class World:
    """One test's namespace, site, Ray cluster and gateway. Everything in it ends with the test."""

    def __init__(self, installation: Installation, directory: Path, gateway: FakeGateway) -> None:
        self.installation = installation
        self.api = installation.api
        self.directory = directory
        self.namespace = f"operator-{secrets.token_hex(4)}"
        self.site = f"site-{secrets.token_hex(3)}"
        self.ray = FakeRay()
        self.gateway = gateway
        self.operators: list[OperatorProcess] = []
        self.watched: tuple[OperatorProcess, ...] = ()
        """Operators of others, whose logs help to understand a failure."""

    def open(self) -> None:
        """The fakes listen, and nothing of an earlier test is left."""
        self.installation.clean()
        self.installation.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.ray.start()

    def close(self) -> None:
        """Ends the test's own operators, then what they looked after."""
        for operator in self.operators:
            operator.process.resume()
            operator.process.terminate()
        self.api.heal()
        self.installation.clean()
        self.ray.close()
        self.gateway.state = "Admitted"
        self.gateway.start()

    # Starting things

    def operator(self, name: str) -> OperatorProcess:
        """Start an operator of this test's own, for its namespace."""
        scope = ["--namespace", self.namespace]
        operator = self.installation.operator(name, self.directory, self.gateway, scope)
        self.operators.append(operator)
        return operator.start()

    def apply_site(self, name: str | None = None, ray: FakeRay | None = None) -> None:
        """The site and the Secret with its token."""
        cluster = ray or self.ray
        site = name or self.site
        backend = manifests.ray(
            address=cluster.url,
            serveAddresses=[f"http://127.0.0.1:{cluster.port}"],
            tokenSecret={"namespace": self.namespace, "name": site},
        )
        self.apply_secret(site, {"token": cluster.token or "unused"})
        self.api.apply(manifests.site(site, backend={"ray": backend}))

    def apply_secret(self, name: str, values: dict[str, str]) -> None:
        """A Secret in this test's namespace, and the right to read that as config/rbac/site-secrets.yaml shows it."""
        metadata = {"name": name, "namespace": self.namespace}
        self.api.apply(
            *right_to_read(name, self.namespace),
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values},
        )

    def apply_deployment(self, name: str = "phones", **spec: Any) -> None:
        """A deployment in this test's namespace, on this test's site unless told otherwise."""
        made = manifests.deployment(name, **{"sites": {"names": [self.site]}, **spec})
        made["metadata"]["namespace"] = self.namespace
        self.api.apply(made)

    # Looking

    def application(self, name: str = "phones") -> str:
        """The name of a deployment's Serve application."""
        return f"{self.namespace}.{name}"

    def deployment(self, name: str = "phones") -> Json | None:
        """The deployment as it is stored, or None."""
        return self.installation.request("GET", f"{GROUP}/namespaces/{self.namespace}/autoglmdeployments/{name}")

    def stored_site(self, name: str | None = None) -> Json | None:
        """The site as it is stored, or None."""
        return self.installation.request("GET", f"{GROUP}/autoglmsites/{name or self.site}")

    def routes(self) -> set[str]:
        """This test's deployments in the table that the gateway has."""
        return {name for name in self.gateway.deployments() if name.startswith(f"{self.namespace}/")}

    def condition(self, kind: str, name: str = "phones") -> tuple[str, str, str]:
        """Status, reason and message of a condition; of the site for Connected."""
        found = self.stored_site() if kind == "Connected" else self.deployment(name)
        for condition in ((found or {}).get("status") or {}).get("conditions") or ():
            if condition["type"] == kind:
                return condition["status"], condition["reason"], condition.get("message", "")
        return "", "", ""

    def is_ready(self, name: str = "phones") -> bool:
        """Whether the deployment is Ready for its present generation."""
        found = self.deployment(name)
        if found is None:
            return False
        generation = found["metadata"]["generation"]
        return any(
            (one["type"], one["status"], one.get("observedGeneration")) == ("Ready", "True", generation)
            for one in (found.get("status") or {}).get("conditions") or ()
        )

    def is_told_unready(self, name: str = "phones") -> bool:
        """Whether the status says that the deployment is not Ready, or that nobody knows."""
        return self.condition("Ready", name)[0] in ("False", "Unknown")

    def wait_ready(self, name: str = "phones") -> None:
        """Waits until the deployment is Ready for its present generation."""
        self.wait(lambda: self.is_ready(name), f"{name} is Ready")

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S) -> None:
        """Waits for a condition; what failed is told with the statuses and the ends of the operators' logs."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout:g} s in vain until {what}\n{self._state()}")
            time.sleep(POLL_S * 2)

    def _state(self) -> str:
        stored = [
            {"name": one["metadata"]["name"], "status": one.get("status")}
            for kind in KINDS
            for one in self.installation.list(kind)
        ]
        logs = "\n".join(
            f"--- {one.process.name}\n{one.process.log_tail(15)}" for one in (*self.watched, *self.operators)
        )
        return f"{json.dumps(stored, indent=1)}\n{logs}"


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code}") from None
