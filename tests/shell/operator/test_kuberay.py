"""Sites with KubeRay, on a real API server that has KubeRay's definitions. What KubeRay itself would report is scripted."""

from typing import Any

import pytest
import yaml

from support import manifests
from support.fake_kuberay import FakeKubeRay, grant, install_crds
from support.kubernetes import ControlPlane
from support.operator import World

Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def definitions(api_server: ControlPlane) -> None:
    """KubeRay's custom resource definitions."""
    install_crds(api_server)


@pytest.fixture
def kuberay(world: World) -> FakeKubeRay:
    """A site with KubeRay in the test's namespace, with the rights that the example grants."""
    grant(world.api, world.namespace)
    world.api.apply(site(world))
    return FakeKubeRay(world.installation, world.namespace)


def site(world: World, **backend: Any) -> Json:
    """The test's site."""
    return manifests.site(world.site, backend={"kubeRay": manifests.kuberay(namespace=world.namespace, **backend)})


def start(world: World, kuberay: FakeKubeRay, **spec: Any) -> None:
    """A deployment that answers."""
    world.apply_deployment(**spec)
    world.wait(lambda: kuberay.service() is not None, "the RayService is made")
    kuberay.make_cluster()
    kuberay.report(endpoints=spec.get("replicas", 1))
    world.wait_ready()


def row(world: World) -> Json:
    """What the status says of the site."""
    found = world.deployment() or {}
    return next(iter((found.get("status") or {}).get("sites") or ()), {})


def test_a_deployment_becomes_ready_and_its_objects_are_those_that_were_made(
    world: World, kuberay: FakeKubeRay
) -> None:
    world.apply_deployment(worker={"accelerator": {"type": "gpu"}})
    world.wait(lambda: kuberay.service() is not None, "the RayService is made")
    world.wait(lambda: row(world).get("state") in ("Pending", "Deploying"), "the status says that it is on its way")
    assert not world.is_ready()
    kuberay.report()
    world.wait_ready()
    service = kuberay.service()
    assert service is not None
    document = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert [one["name"] for one in document["applications"]] == [world.application()]
    worker = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for group, plural in (("policy/v1", "poddisruptionbudgets"), ("networking.k8s.io/v1", "networkpolicies")):
        world.wait(lambda g=group, p=plural: kuberay.child(g, p) is not None, f"{plural} are made")  # type: ignore[misc]
        child = kuberay.child(group, plural)
        assert child is not None
        assert child["metadata"]["ownerReferences"][0]["uid"] == service["metadata"]["uid"]
    assert world.gateway.table is not None
    routed = {end.url for route in world.gateway.table.routes for end in route.endpoints if end.site == world.site}
    name = service["metadata"]["name"]
    assert routed == {f"http://{name}-serve-svc.{world.namespace}.svc:8000/{world.application()}"}
