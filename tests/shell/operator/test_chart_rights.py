"""The operator's rights under the chart: what it may do is what it does, by the API server's own record.

The operator runs as the chart's ServiceAccount, a deployment's life is driven from the first apply to its deletion, and the
audit log tells which rights were used and which were missing.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import manifests, rights
from support.fake_gateway import FakeGateway
from support.fake_ray import FakeRay
from support.helm import Helm, Json
from support.kubernetes import ControlPlane
from support.operator import OperatorProcess
from support.processes import wait_until
from support.rights import Right

ACCOUNT = "autoglm-operator"
API = "serving.autoglm.dev"


class Release:
    """The chart in a namespace of its own, with a site and a gateway. Pods do not run here: the test starts the operator."""

    def __init__(self, api: ControlPlane, helm: Helm, directory: Path) -> None:
        self.api = api
        self.namespace = api.new_namespace("chart")
        self.site = f"site-{secrets.token_hex(3)}"
        self.ray = FakeRay()
        self.gateway = FakeGateway()
        self._helm = helm
        self._directory = directory
        self._operators: list[OperatorProcess] = []

    def open(self, values: Json) -> None:
        self.ray.start()
        self.gateway.start()
        self.values = {
            "crds": {"install": False},  # they are there, from the fixture
            "operator": {"siteSecrets": [{"namespace": self.namespace, "names": ["ray"]}], **values},
        }
        arguments = ("upgrade", "--install", "autoglm", self._helm.chart, "--namespace", self.namespace)
        self._helm.run(*arguments, kubeconfig=self.api.kubeconfig, values=self.values)

    def close(self) -> None:
        for operator in self._operators:
            operator.process.terminate()
        for kind in ("agd/phones", f"ags/{self.site}"):
            patch = ("patch", kind, "-n", self.namespace, "--type=merge", '-p={"metadata":{"finalizers":null}}')
            self.api.kubectl(*patch, check=False)
            self.api.kubectl("delete", kind, "-n", self.namespace, "--ignore-not-found")
        self._helm.run("uninstall", "autoglm", "--namespace", self.namespace, kubeconfig=self.api.kubeconfig)
        self.ray.close()
        self.gateway.close()

    def start_operator(self, scope: list[str]) -> OperatorProcess:
        """The operator with the arguments that the chart's Deployment gives it, and with the chart's account."""
        kubeconfig = self.api.service_account_kubeconfig(self.namespace, ACCOUNT)
        token = self._directory / "token"
        token.write_text(self.gateway.token)
        arguments = [*scope, "--lease-namespace", self.namespace, "--gateway", self.gateway.url]
        name = f"operator-{len(self._operators)}"
        operator = OperatorProcess(name, self._directory, kubeconfig, [*arguments, "--gateway-token-file", str(token)])
        self._operators.append(operator)
        return operator.start()

    def apply(self) -> None:
        backend = manifests.ray(
            address=self.ray.url,
            serveAddresses=[f"http://127.0.0.1:{self.ray.port}"],
            tokenSecret={"namespace": self.namespace, "name": "ray"},
        )
        deployment = manifests.deployment("phones", sites={"names": [self.site]})
        deployment["metadata"]["namespace"] = self.namespace
        metadata = {"name": "ray", "namespace": self.namespace}
        self.api.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": self.ray.token}},
            manifests.site(self.site, backend={"ray": backend}),
            deployment,
        )

    def wait_ready(self) -> None:
        self.api.kubectl("wait", "--for=condition=Ready", "agd/phones", "-n", self.namespace, "--timeout=120s")

    def wait_told(self) -> None:
        """The event that the deployment answers is there; it is written after the status."""

        def told() -> bool:
            events = json.loads(self.api.kubectl("get", "events", "-n", self.namespace, "-o", "json"))["items"]
            return any(event["reason"] == "Answering" for event in events)

        wait_until(told, "the deployment's answering is told by an event")

    def forget_status(self) -> None:
        """As if nothing had ever been told about the deployment."""
        patch = '-p={"status":{"conditions":null,"observedGeneration":0}}'
        self.api.kubectl("patch", "agd/phones", "-n", self.namespace, "--subresource=status", "--type=merge", patch)

    def delete(self) -> None:
        self.api.kubectl("delete", "agd/phones", "-n", self.namespace, "--timeout=120s", timeout=180)
        self.api.kubectl("delete", f"ags/{self.site}", "--timeout=120s", timeout=180)

    # What the API server recorded

    def _events(self) -> list[Json]:
        return self.api.audit(f"system:serviceaccount:{self.namespace}:{ACCOUNT}")

    def used(self) -> set[Right]:
        """Rights of which use was made."""
        return rights.used(self._events())

    def refused(self) -> set[str]:
        """What was asked for and not allowed."""
        return rights.refused(self._events())

    def granted(self) -> set[Right]:
        """Rights that the chart's roles give the operator."""
        return rights.granted(self._helm.render(self.values))


@pytest.fixture
def release(api_server: ControlPlane, helm: Helm, tmp_path: Path) -> Iterator[Release]:
    made = Release(api_server, helm, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("namespaced", [False, True], ids=["all namespaces", "one namespace"])
def test_the_operator_uses_every_right_that_it_has_and_misses_none(release: Release, namespaced: bool) -> None:
    release.open({"watchNamespaces": [release.namespace]} if namespaced else {})
    scope = ["--namespace", release.namespace] if namespaced else ["--all-namespaces"]
    first = release.start_operator(scope)
    release.apply()
    release.wait_ready()
    release.wait_told()
    first.process.terminate()
    first.process.wait(60)

    # A second process that tells the same again raises the count of the first one's event.
    release.forget_status()
    second = release.start_operator(scope)
    release.wait_ready()
    wait_until(lambda: ("", "events", "patch") in release.used(), "an event is counted")
    release.delete()
    second.process.terminate()

    assert release.refused() == set()
    assert release.used() == release.granted()

    # What the operator made for itself goes with its account.
    assert release.api.exists("lease", ACCOUNT, release.namespace)
    release.api.kubectl("delete", "serviceaccount", ACCOUNT, "-n", release.namespace)
    wait_until(lambda: not release.api.exists("lease", ACCOUNT, release.namespace), "the Lease is gone")


def test_a_missing_right_shows_in_the_record(release: Release) -> None:
    release.open({})
    role = f"{release.namespace}-{ACCOUNT}"
    stored = json.loads(release.api.kubectl("get", "clusterrole", role, "-o", "json"))
    rules = [rule for rule in stored["rules"] if "autoglmdeployments/status" not in rule["resources"]]
    assert len(rules) == len(stored["rules"]) - 1
    release.api.kubectl("patch", "clusterrole", role, "--type=merge", f"-p={json.dumps({'rules': rules})}")
    release.start_operator(["--all-namespaces"])
    release.apply()
    path = f"patch /apis/{API}/v1alpha1/namespaces/{release.namespace}/autoglmdeployments/phones/status"
    wait_until(lambda: path in release.refused(), "the refusal is recorded")
