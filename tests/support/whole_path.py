"""Everything together: a real API server, operator processes, gateways and a Ray cluster, as a user would set them up."""

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.gateway import Gateway
from support.kubernetes import ROOT, ControlPlane
from support.operator import ACCOUNT, KINDS, SYSTEM, Json, OperatorProcess, right_to_read
from support.processes import wait_until
from support.ray import RayCluster

QUICKSTART = ROOT / "examples/quickstart.yaml"
SCREENSHOT = ROOT / "examples/screenshot.png"
# Starting an engine on a machine where ten other things run.
READY_S = 400.0
SECRET = "ray-token"


class WholePath:
    """One namespace and one site on the given cluster. The operators look after all namespaces."""

    def __init__(self, api: ControlPlane, ray: RayCluster, directory: Path, *, gateways: int = 1) -> None:
        self.api = api
        self.ray = ray
        self.site = f"site-{secrets.token_hex(3)}"
        self.namespace = ""
        self.gateways = [Gateway(directory / f"gateway-{number}") for number in range(gateways)]
        self.operators: list[OperatorProcess] = []
        self._directory = directory
        self._kubeconfig = Path()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.gateways[0].url

    @contextmanager
    def running(self, *, operators: int = 1) -> Iterator["WholePath"]:
        """All of it until the block ends."""
        try:
            self._open(operators)
            yield self
        finally:
            self._close()

    def _open(self, operators: int) -> None:
        """Start everything and apply the site."""
        self.api.kubectl("apply", "-f", str(ROOT / "config/rbac/operator.yaml"))
        self._kubeconfig = self.api.service_account_kubeconfig(SYSTEM, ACCOUNT)
        self.namespace = self.api.new_namespace("path")
        for gateway in self.gateways:
            gateway.process.start()
        for _ in range(operators):
            self.start_operator()
        self.apply_site()

    def _close(self) -> None:
        """End everything. Objects are freed of their finalizers, since no operator does it any more."""
        for operator in self.operators:
            operator.process.resume()
            operator.process.terminate()
        for gateway in self.gateways:
            gateway.process.resume()
            gateway.process.terminate()
        self.api.heal()
        for kind in KINDS:
            for line in self.api.kubectl("get", kind, "-A", "--no-headers", "-o", _NAMES, check=False).splitlines():
                self._free(kind, *line.split())
        if self.ray.head.running:
            self.ray.delete(*[name for name in self.ray.configs() if name.startswith(f"{self.namespace}.")])

    def _free(self, kind: str, name: str, namespace: str) -> None:
        where = [] if namespace == "<none>" else ["-n", namespace]
        free = '{"metadata":{"finalizers":null}}'
        self.api.kubectl("patch", kind, name, *where, "--type=merge", "-p", free, check=False)
        self.api.kubectl("delete", kind, name, *where, "--ignore-not-found", "--wait=false", check=False)

    def start_operator(self) -> OperatorProcess:
        """One more operator."""
        urls = ",".join(gateway.admin_url for gateway in self.gateways)
        arguments = ["--all-namespaces", "--gateway", urls, "--gateway-token-file", str(self.gateways[0].token_file)]
        name = f"operator-{len(self.operators)}"
        operator = OperatorProcess(name, self._directory, self._kubeconfig, arguments)
        self.operators.append(operator)
        return operator.start()

    def leader(self) -> OperatorProcess:
        """The operator that leads now."""
        found: list[OperatorProcess] = []

        def one_leads() -> bool:
            found[:] = [each for each in self.operators if each.process.running and each.role() == "leading"]
            return len(found) == 1

        wait_until(one_leads, "one operator leads")
        return found[0]

    # Objects

    def apply_site(self, name: str | None = None, *, secret: str | None = None, address: str | None = None) -> None:
        """A site, the Secret with the cluster's token unless another Secret is named, and the right to read it."""
        name = name or self.site
        if secret is None:
            self.apply_token(name, self.ray.token)
        secret = secret or name
        backend = {
            "address": address or self.ray.address,
            "serveAddresses": [self.ray.serve_address],
            "tokenSecret": {"namespace": self.namespace, "name": secret},
        }
        site = {"metadata": {"name": name}, "spec": {"tier": "cloud", "backend": {"ray": backend}}}
        self.api.apply(
            *right_to_read(secret, self.namespace),
            {"apiVersion": "serving.autoglm.dev/v1alpha1", "kind": "AutoGLMSite", **site},
        )

    def apply_token(self, name: str, token: str) -> None:
        """The Secret of a site."""
        metadata = {"name": name, "namespace": self.namespace}
        self.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}})

    def apply_quickstart(self) -> str:
        """`kubectl apply` of the example as it is; its name."""
        self.kubectl("apply", "-f", str(QUICKSTART))
        return "quickstart"

    def apply_deployment(self, name: str, model: str, uri: str = "builtin://autoglm-tiny", **spec: Any) -> None:
        """A deployment on this site, of the tiny model unless told otherwise."""
        spec = {"model": {"name": model, "uri": uri}, "sites": {"names": [self.site]}, **spec}
        metadata = {"name": name, "namespace": self.namespace}
        made = {"apiVersion": "serving.autoglm.dev/v1alpha1", "kind": "AutoGLMDeployment", "metadata": metadata}
        self.api.apply({**made, "spec": spec})

    def patch(self, name: str, spec: Json) -> None:
        """Change the spec of a deployment."""
        self.kubectl("patch", "agd", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def kubectl(self, *args: str, timeout: float = READY_S) -> str:
        """kubectl in this namespace."""
        return self.api.kubectl(*args, "-n", self.namespace, timeout=timeout)

    def application(self, name: str) -> str:
        """The Serve application of a deployment."""
        return f"{self.namespace}.{name}"

    # Looking

    def deployment(self, name: str) -> Json:
        """A deployment as it is stored."""
        return self.api.get("agd", name, self.namespace)

    def condition(self, name: str, kind: str = "Ready") -> Json:
        """One condition about the present spec; empty when there is none yet."""
        found = self.deployment(name)
        return next(
            (
                one
                for one in (found.get("status") or {}).get("conditions") or ()
                if one["type"] == kind and one.get("observedGeneration") == found["metadata"]["generation"]
            ),
            {},
        )

    def wait_ready(self, name: str) -> None:
        """Wait until the present spec is Ready."""
        self.wait(lambda: self.condition(name).get("status") == "True", f"{name} is Ready")

    def wait_reason(self, name: str, kind: str, status: str, *reasons: str) -> Json:
        """Wait until a condition has this status for one of these reasons."""

        def met() -> bool:
            found = self.condition(name, kind)
            return found.get("status") == status and found.get("reason") in reasons

        self.wait(met, f"{kind} of {name} is {status} for {reasons}")
        return self.condition(name, kind)

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = READY_S) -> None:
        """Wait for a condition; a failure shows the statuses and the ends of the logs."""
        try:
            wait_until(condition, what, timeout)
        except AssertionError as error:
            stored = self.api.kubectl("get", "agd,ags", "-A", "-o", "yaml", check=False)
            processes = [*(each.process for each in self.operators), *(each.process for each in self.gateways)]
            logs = [process.log_tail(15) for process in processes]
            raise AssertionError("\n---\n".join([str(error), stored, *logs])) from None

    def gateway_metric(self, name: str) -> list[float]:
        """The values of a metric of the first gateway."""
        lines = self.metrics_pages()[0].splitlines()
        return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{")]

    def metrics_pages(self) -> list[str]:
        """All that each gateway tells Prometheus."""
        pages = []
        for gateway in self.gateways:
            with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=READY_S) as answer:
                pages.append(answer.read().decode())
        return pages

    def answers(self, body: Json, url: str) -> bool:
        """Whether one gateway answers; one that is not listening yet does not."""
        try:
            return self.ask(body, url=url)[0] == 200
        except OSError:
            return False

    def ask(self, body: Json, *, url: str | None = None) -> tuple[int, dict[str, str], Any]:
        """POST one chat request: status, headers in lower case, JSON."""
        status, headers, content = post_chat(url or self.url, body, READY_S)
        return status, headers, json.loads(content)


def post_chat(url: str, body: Json, timeout_s: float) -> tuple[int, dict[str, str], bytes]:
    """POST one chat request to a gateway: status, headers in lower case, content."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, _lower(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, _lower(error.headers), error.read()


_NAMES = "custom-columns=N:.metadata.name,NS:.metadata.namespace"


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
