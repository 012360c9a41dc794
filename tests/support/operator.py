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
from support.processes import DEADLINE_S, POLL_S, Process

Json = dict[str, Any]

SYSTEM = "autoglm-system"
ACCOUNT = "autoglm-operator"
GROUP = "serving.autoglm.dev/v1alpha1"
LEASE_S = 6.0
KINDS = ("autoglmdeployments", "autoglmsites")


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


class World:
    """One test's namespace, site and operators. Everything in it ends with the test."""

    def __init__(self, api: ControlPlane, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.kubeconfig = api.service_account_kubeconfig(SYSTEM, ACCOUNT)
        self.namespace = api.new_namespace("operator")
        self.site = f"site-{secrets.token_hex(3)}"
        self.ray = FakeRay()
        self.gateway = FakeGateway()
        self.operators: list[OperatorProcess] = []
        self._token_file = directory / "gateway-token"
        self._token_file.write_text(self.gateway.token)
        self._tls = ssl.create_default_context(cafile=str(api.ca_file))

    def open(self) -> None:
        """Fakes listen, and nothing of an earlier test is left."""
        self.clean()
        self.ray.start()
        self.gateway.start()

    def close(self) -> None:
        """Ends the operators, then what they looked after."""
        for operator in self.operators:
            operator.process.resume()
            operator.process.terminate()
        self.ray.close()
        self.gateway.close()
        self.api.heal()
        self.clean()

    def clean(self) -> None:
        """Takes away every resource and the Lease, without an operator's help."""
        for kind in KINDS:
            for found in self.list(kind):
                metadata = found["metadata"]
                where = ["-n", metadata["namespace"]] if metadata.get("namespace") else []
                free = '{"metadata":{"finalizers":null}}'
                self.api.kubectl("patch", kind, metadata["name"], *where, "--type=merge", "-p", free, check=False)
                self.api.kubectl("delete", kind, metadata["name"], *where, "--ignore-not-found", "--wait=false")
        self.api.kubectl("delete", "lease", ACCOUNT, "-n", SYSTEM, "--ignore-not-found")

    # Starting things

    def operator(self, name: str = "operator", *, everywhere: bool = False) -> OperatorProcess:
        """Start an operator for this test's namespace."""
        scope = ["--all-namespaces"] if everywhere else ["--namespace", self.namespace]
        gateway = ["--gateway", self.gateway.url, "--gateway-token-file", str(self._token_file)]
        operator = OperatorProcess(f"{name}-{len(self.operators)}", self.directory, self.kubeconfig, [*scope, *gateway])
        self.operators.append(operator)
        return operator.start()

    def apply_site(self, name: str | None = None, ray: FakeRay | None = None) -> None:
        """The Secret with the token, and the site."""
        cluster = ray or self.ray
        site = name or self.site
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": site, "namespace": self.namespace},
            "stringData": {"token": cluster.token or "unused"},
        }
        backend = manifests.ray(
            address=cluster.url,
            serveAddresses=[f"http://127.0.0.1:{cluster.port}"],
            tokenSecret={"namespace": self.namespace, "name": site},
        )
        self.allow_secret(site)
        self.api.apply(secret, manifests.site(site, backend={"ray": backend}))

    def allow_secret(self, name: str) -> None:
        """What config/rbac/site-secrets.yaml shows, for one Secret of this test."""
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": self.namespace},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]}],
        }
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": self.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        }
        self.api.apply(role, binding)

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
        return self._get(f"/apis/{GROUP}/namespaces/{self.namespace}/autoglmdeployments/{name}")

    def stored_site(self, name: str | None = None) -> Json | None:
        """The site as it is stored, or None."""
        return self._get(f"/apis/{GROUP}/autoglmsites/{name or self.site}")

    def list(self, kind: str) -> list[Json]:
        """All objects of a kind in all namespaces."""
        found = self._get(f"/apis/{GROUP}/{kind}")
        return list(found["items"]) if found else []

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
        stored = [{"name": one["metadata"]["name"], "status": one.get("status")} for k in KINDS for one in self.list(k)]
        logs = "\n".join(f"--- {one.process.name}\n{one.process.log_tail(15)}" for one in self.operators)
        return f"{json.dumps(stored, indent=1)}\n{logs}"

    def _get(self, path: str) -> Json | None:
        request = urllib.request.Request(
            self.api.url + path, headers={"Authorization": f"Bearer {self.api.token}", "Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=10) as answer:
                found: Json = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


def install_rbac(api: ControlPlane) -> None:
    """Apply what config/rbac says for the operator itself."""
    api.kubectl("apply", "-f", str(ROOT / "config/rbac/operator.yaml"))


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code}") from None
