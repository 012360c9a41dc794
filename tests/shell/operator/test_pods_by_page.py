"""What is free on many nodes, read page by page from a real API server: small pages stand in for tens of thousands of pods."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kubernetes.client
import kubernetes.config
import pytest

from autoglm_operator.api import KubeRayBackend
from autoglm_operator.kube import Call, KubeApi, KubeRaySite, kuberay, pages
from support import kube
from support.kubernetes import ControlPlane
from support.operator import Installation

Json = dict[str, Any]

NODES, PODS, PAGE = 3, 60, 25
LABEL = "autoglm-test/pages"


@pytest.fixture
def nodes(installation: Installation) -> Iterator[list[str]]:
    """Nodes with four processors each, which belong to this test."""
    names = [f"pages-{number}" for number in range(NODES)]
    for name in names:
        made = kube.node(name, cpu="4", memory="8Gi", labels={LABEL: "yes"})
        installation.request("POST", "/api/v1/nodes", made)
        installation.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": made["status"]})
        # The API server gives each new node a taint, which the controller that knows of kubelets takes away.
        installation.request("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
    yield names
    for name in names:
        installation.request("DELETE", f"/api/v1/nodes/{name}")


def make_pods(installation: Installation, namespace: str, nodes: list[str]) -> None:
    """Pods of a tenth of a processor on the nodes in turns. Every tenth has ended, and one is on no node."""
    path = f"/api/v1/namespaces/{namespace}/pods"

    def make(number: int) -> None:
        name = f"pod-{number}"
        made = kube.pod(nodes[number % NODES] if number else None, cpu="100m")
        made["spec"]["containers"][0]["image"] = "pause"
        made["spec"]["automountServiceAccountToken"] = False
        tolerations = [{"operator": "Exists"}]
        spec = made["spec"] | {"tolerations": tolerations, "terminationGracePeriodSeconds": 0}
        installation.request("POST", path, {"metadata": {"name": name}, "spec": spec})
        if number % 10 == 9:
            installation.request("PATCH", f"{path}/{name}/status", {"status": {"phase": "Succeeded"}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(PODS + 1)))


def test_the_pods_of_many_nodes_are_read_in_pages_and_all_of_them_count(
    api_server: ControlPlane, installation: Installation, nodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = api_server.new_namespace("pages")
    make_pods(installation, namespace, nodes)
    monkeypatch.setattr(kuberay, "FEW_NODES", NODES - 1)
    monkeypatch.setattr(pages, "PAGE", PAGE)
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(api_server.kubeconfig), client_configuration=configuration)
    configuration.retries = False
    asked: list[Call] = []

    async def look() -> Any:
        api = KubeApi(configuration)
        send = api.request

        async def request(call: Call) -> Json:
            if call.path == "/api/v1/pods":
                asked.append(call)
            return {"items": []} if "/apis/" in call.path else await send(call)

        monkeypatch.setattr(api, "request", request)

        async def connect() -> KubeApi:
            return api

        backend = KubeRayBackend.model_validate(kube.BACKEND | {"nodeSelector": {LABEL: "yes"}})
        site = KubeRaySite("pods", backend, connect, asyncio.get_running_loop().time, own=True)
        try:
            seen = await site.observe()
            while seen.capacity is None:
                await asyncio.sleep(0.2)
                seen = await site.observe()
            return seen.capacity
        finally:
            await site.close()

    found = asyncio.run(look())
    assert found.total["CPU"] == 4.0 * NODES
    running = PODS - PODS // 10
    assert found.available["CPU"] == pytest.approx(4.0 * NODES - 0.1 * running)
    assert len(asked) >= -(-running // PAGE), "no page has more than so many"
    assert all(("limit", str(PAGE)) in call.query for call in asked)
    assert [bool(dict(call.query).get("continue")) for call in asked][:2] == [False, True]
    api_server.kubectl("delete", "namespace", namespace, "--wait=false")
