"""KubeRay's own operator on our objects: it takes them, and makes the pods that they ask for. No pod runs: there is no node."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import manifests
from support.fake_gateway import FakeGateway
from support.fake_kuberay import FakeKubeRay, grant, install_crds, part
from support.kubernetes import ControlPlane
from support.operator import Installation, World
from support.ports import free_port
from support.processes import Process

Json = dict[str, Any]

pytestmark = pytest.mark.timeout(600, func_only=True)


@pytest.fixture
def world(api_server: ControlPlane, tmp_path: Path) -> Iterator[World]:
    """A namespace with an operator of ours."""
    installation = Installation(api_server)
    installation.release_lease()
    gateway = FakeGateway()
    gateway.start()
    world = World(installation, tmp_path, gateway)
    world.open()
    try:
        world.operator("operator")
        yield world
    finally:
        world.close()
        gateway.close()


@pytest.fixture
def kuberay(world: World, api_server: ControlPlane, tmp_path: Path) -> Iterator[FakeKubeRay]:
    """KubeRay's operator at work, in a namespace that takes only pods of the restricted kind."""
    install_crds(api_server)
    world.api.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
    grant(world.api, world.namespace)
    command = [
        str(part("operator")),
        "--enable-leader-election=false",
        "--metrics-addr=127.0.0.1:0",
        f"--health-probe-bind-address=127.0.0.1:{free_port()}",
    ]
    log = tmp_path / "kuberay.log"
    with Process("kuberay", command, log=log, env={"KUBECONFIG": str(api_server.kubeconfig)}):
        yield FakeKubeRay(world.installation, world.namespace)


def pods(world: World, node_type: str) -> list[Json]:
    """The pods of a kind that shall exist."""
    found = world.installation.request("GET", f"/api/v1/namespaces/{world.namespace}/pods")
    return [
        pod
        for pod in (found or {}).get("items") or ()
        if pod["metadata"]["labels"].get("ray.io/node-type") == node_type and "deletionTimestamp" not in pod["metadata"]
    ]


def test_kuberay_makes_the_pods_of_a_tensor_parallel_replica_and_follows_its_scale(
    world: World, kuberay: FakeKubeRay
) -> None:
    world.api.apply(manifests.site(world.site, backend={"kubeRay": manifests.kuberay(namespace=world.namespace)}))
    spec: Json = {
        "engine": {"parallelism": {"tensor": 2}},
        "worker": {"accelerator": {"type": "gpu"}, "resources": {"memory": "1Gi"}},
    }
    world.apply_deployment(replicas=2, **spec)
    world.wait(lambda: len(pods(world, "head")) == 1, "the head is made")
    world.wait(lambda: len(pods(world, "worker")) == 2, "a worker for each replica is made")
    for pod in pods(world, "worker"):
        container = pod["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert "--num-gpus=2" in str(container["env"]) + str(container.get("args"))
    name = (kuberay.service() or {})["metadata"]["name"]
    told = (kuberay.service() or {}).get("status") or {}
    reasons = {one["reason"] for one in told.get("conditions") or ()}
    assert "ValidationFailed" not in reasons, told
    world.wait(lambda: world.condition("Ready")[1] == "Deploying", "the status says that it is on its way")

    world.apply_deployment(replicas=3, **spec)
    world.wait(lambda: len(pods(world, "worker")) == 3, "the third replica gets its worker")
    assert (kuberay.service() or {})["metadata"]["name"] == name
    assert kuberay.cluster_count() == 1, "no second cluster was made for it"

    world.api.kubectl("-n", world.namespace, "delete", "agd", "phones", "--wait=false")
    world.wait(lambda: world.deployment() is None, "the deployment is gone", timeout=300)
    world.wait(lambda: not pods(world, "head") and not pods(world, "worker"), "no pod is left")


def test_the_two_revisions_of_a_rollout_in_steps_have_pods_of_their_own(world: World, kuberay: FakeKubeRay) -> None:
    world.api.apply(manifests.site(world.site, backend={"kubeRay": manifests.kuberay(namespace=world.namespace)}))
    steps: Json = {"maxSurge": 1, "steps": [{"weight": 0}]}
    world.apply_deployment(rollout=steps, worker={"resources": {"memory": "1Gi"}})
    world.wait(lambda: len(pods(world, "head")) == len(pods(world, "worker")) == 1, "the pods of the first are made")
    first = names(world)

    world.apply_deployment(rollout=steps, worker={"resources": {"memory": "2Gi", "cpu": 2}})
    world.wait(lambda: len(pods(world, "head")) == len(pods(world, "worker")) == 2, "the second cluster is made")
    assert first < names(world), "none of the first one's pods was replaced"
    (added,) = (pod for pod in pods(world, "worker") if pod["metadata"]["name"] not in first)
    assert added["spec"]["containers"][0]["resources"]["limits"]["memory"] == "2Gi"
    services = kuberay.of_applications()
    assert set(services) == {world.application(), f"{world.application()}.2"}
    label = "serving.autoglm.dev/ray-service"
    assert {pod["metadata"]["labels"][label] for pod in (*pods(world, "head"), *pods(world, "worker"))} == {
        one["metadata"]["name"] for one in services.values()
    }

    world.apply_deployment(rollout=steps, worker={"resources": {"memory": "1Gi"}})
    world.wait(lambda: names(world) == first, "the second one goes with its pods, and the first one's are there still")


def names(world: World) -> set[str]:
    """Of all pods that shall exist."""
    return {pod["metadata"]["name"] for kind in ("head", "worker") for pod in pods(world, kind)}
