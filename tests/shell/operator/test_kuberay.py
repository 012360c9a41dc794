"""Sites with KubeRay, on a real API server that has KubeRay's definitions. What KubeRay itself would report is scripted."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoglm_operator.kuberay import names
from support import manifests
from support.fake_kuberay import FakeKubeRay, grant, install_crds
from support.kubernetes import ROOT, ControlPlane
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


def spec_of(kuberay: FakeKubeRay) -> Json:
    """The spec of the RayService; empty while there is none."""
    service = kuberay.service()
    found: Json = service["spec"] if service else {}
    return found


def image(kuberay: FakeKubeRay) -> str:
    """The image of the workers."""
    cluster = spec_of(kuberay).get("rayClusterConfig") or {}
    groups = cluster.get("workerGroupSpecs") or ()
    return str(groups[0]["template"]["spec"]["containers"][0]["image"]) if groups else ""


def workers(kuberay: FakeKubeRay) -> list[int]:
    """Fewest, wanted and most workers of the RayCluster."""
    group = (kuberay.cluster() or {})["spec"]["workerGroupSpecs"][0]
    return [group["minReplicas"], group["replicas"], group["maxReplicas"]]


def test_what_a_person_changed_is_taken_back_and_what_was_added_beside_it_stays(
    world: World, kuberay: FakeKubeRay
) -> None:
    start(world, kuberay)
    wanted, name = image(kuberay), str((kuberay.service() or {})["metadata"]["name"])
    path = "/spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0/image"
    patch = f'[{{"op": "replace", "path": "{path}", "value": "somebody/else:1"}}]'
    world.api.kubectl("-n", world.namespace, "patch", "rayservice", name, "--type=json", "-p", patch)
    world.api.kubectl("-n", world.namespace, "annotate", "rayservice", name, "team=phones")
    world.api.kubectl("-n", world.namespace, "delete", "pdb", name)
    world.wait(lambda: image(kuberay) == wanted, "the image is the wanted one again")
    world.wait(lambda: kuberay.child("policy/v1", "poddisruptionbudgets") is not None, "the budget is there again")
    assert (kuberay.service() or {})["metadata"]["annotations"]["team"] == "phones"


def test_a_rayservice_of_somebody_else_keeps_its_name_and_its_spec(world: World, kuberay: FakeKubeRay) -> None:
    name = names.ray_service(world.application(), world.site)
    foreign = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name, "namespace": world.namespace},
        "spec": {
            "rayClusterConfig": {
                "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "theirs"}]}}}
            }
        },
    }
    world.api.apply(foreign)
    world.apply_deployment()
    world.wait(lambda: world.condition("Ready")[1] == "NameTaken", "the name is told to be taken")
    world.wait(lambda: row(world)["state"] == "Conflict", "the site tells of the conflict")
    containers = spec_of(kuberay)["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in containers] == ["theirs"]
    world.api.kubectl("-n", world.namespace, "delete", "rayservice", name)
    world.wait(lambda: image(kuberay) != "", "the deployment gets its own RayService when the name is free")


def test_pods_are_changed_within_the_budget_and_not_beyond(world: World, kuberay: FakeKubeRay) -> None:
    start(world, kuberay, replicas=1)
    world.apply_deployment(replicas=2)
    world.wait(lambda: workers(kuberay) == [2, 2, 2], "the RayCluster is asked for two workers")
    kuberay.report(endpoints=2)
    world.wait_ready()
    before = (kuberay.service() or {})["metadata"]["uid"]

    world.api.apply(site(world, image="registry.example/autoglm-serving:2"))
    world.wait(lambda: world.condition("Ready")[1] == "ClusterChangeRefused", "the change is refused")
    assert "maxSurge 0 nor maxUnavailable 1" in world.condition("Ready")[2]
    assert row(world)["ready"] == 2, "the old ones go on"
    assert image(kuberay).endswith(":1")

    world.apply_deployment(replicas=2, rollout={"maxSurge": 2})
    world.wait(lambda: image(kuberay).endswith(":2"), "the second cluster is asked for")
    assert spec_of(kuberay)["upgradeStrategy"]["type"] == "NewCluster"
    assert (kuberay.service() or {})["metadata"]["uid"] == before
    kuberay.report(endpoints=2)
    world.wait_ready()

    world.apply_deployment(replicas=2, rollout={"maxSurge": 0, "maxUnavailable": 2})
    world.api.apply(site(world, image="registry.example/autoglm-serving:3"))
    world.wait(lambda: image(kuberay).endswith(":3"), "another RayService takes the place of the first one")
    assert (kuberay.service() or {})["metadata"]["uid"] != before
    assert spec_of(kuberay)["upgradeStrategy"]["type"] == "None"


GATED: Json = {
    "maxSurge": 1,
    "steps": [{"weight": 50, "hold": "1s"}],
    "gates": [{"metric": "errors", "maximum": 0.1}],
}
OTHER_PODS: Json = {"resources": {"memory": "6Gi"}}


def rollout(world: World) -> Json:
    """Where the rollout stands."""
    return dict(((world.deployment() or {}).get("status") or {}).get("rollout") or {})


def pods_of(service: Json) -> Json:
    """What its worker pods are made from."""
    found: Json = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    return found


def test_a_rollout_in_steps_has_two_rayservices_and_the_new_one_goes_on_alone_with_its_pods(
    world: World, kuberay: FakeKubeRay
) -> None:
    base, second = world.application(), f"{world.application()}.2"

    def wait(condition: Callable[[], bool], what: str) -> None:
        def met() -> bool:
            kuberay.work()
            return condition()

        world.wait(met, what)

    world.apply_deployment(rollout=GATED)
    wait(world.is_ready, "it is Ready")
    first = kuberay.of_applications()[base]

    world.gateway.figures = {}
    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 5}, worker=OTHER_PODS)
    wait(lambda: bool(rollout(world).get("stepSince")), "half of the sessions are on the new revision")
    both = kuberay.of_applications()
    assert set(both) == {base, second}
    assert both[base]["metadata"]["uid"] == first["metadata"]["uid"]
    assert both[base]["spec"]["rayClusterConfig"] == first["spec"]["rayClusterConfig"]
    assert pods_of(both[second])["spec"]["containers"][0]["resources"]["limits"]["memory"] == "6Gi"
    assert kuberay.cluster_count() == 2
    for group, plural in (("policy/v1", "poddisruptionbudgets"), ("networking.k8s.io/v1", "networkpolicies")):
        path = f"/apis/{group}/namespaces/{world.namespace}/{plural}"
        found = world.installation.request("GET", path) or {}
        assert {one["metadata"]["name"] for one in found["items"]} == {one["metadata"]["name"] for one in both.values()}

    world.api.kubectl("-n", world.namespace, "delete", "rayservice", both[second]["metadata"]["name"])
    wait(lambda: second in kuberay.of_applications(), "what a person deleted is made again")
    world.gateway.figures = {"requests": 40}
    wait(lambda: set(kuberay.of_applications()) == {second}, "the first RayService is gone")
    made = kuberay.of_applications()[second]
    wait(world.is_ready, "it is Ready")
    only = kuberay.of_applications()[second]
    assert only["metadata"]["uid"] == made["metadata"]["uid"]
    assert only["spec"]["rayClusterConfig"] == made["spec"]["rayClusterConfig"], "no pod is replaced for the promotion"
    assert [one["action"] for one in rollout(world)["decisions"]] == ["Started", "Advanced", "Promoted"]
    assert world.gateway.table is not None
    routed = {end.url for route in world.gateway.table.routes for end in route.endpoints if end.site == world.site}
    name = only["metadata"]["name"]
    assert routed == {f"http://{name}-serve-svc.{world.namespace}.svc:8000/{second}"}
    world.wait(lambda: kuberay.cluster_count() == 1, "the first RayCluster went with its RayService")

    world.gateway.figures = {"requests": 40, "errors": 20}
    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 6}, worker=OTHER_PODS)
    wait(lambda: rollout(world).get("phase") == "RolledBack", "a bad revision is taken back")
    wait(lambda: set(kuberay.of_applications()) == {second}, "and its RayService goes")

    world.gateway.figures = {}
    earlier = rollout(world)["revisions"][0]
    assert (earlier["state"], earlier["worker"]) == ("Retired", {})
    back = GATED | {"revision": earlier["revision"]}
    world.apply_deployment(rollout=back, engine={"maxConcurrency": 6}, worker=OTHER_PODS)
    wait(lambda: set(kuberay.of_applications()) == {base}, "the first revision serves again")
    assert pods_of(kuberay.of_applications()[base]) == pods_of(first), "in pods as it had them"

    world.api.kubectl("-n", world.namespace, "delete", "agd", "phones", "--wait=false")
    world.wait(lambda: world.deployment() is None and kuberay.services() == [], "all is gone")


def test_deletion_takes_the_rayservice_and_its_children_away(world: World, kuberay: FakeKubeRay) -> None:
    start(world, kuberay)
    world.wait(lambda: kuberay.child("policy/v1", "poddisruptionbudgets") is not None, "the children are made")
    world.api.kubectl("-n", world.namespace, "delete", "agd", "phones", "--wait=false")
    world.wait(lambda: world.deployment() is None, "the deployment is gone")
    assert kuberay.services() == []
    world.wait(lambda: kuberay.child("policy/v1", "poddisruptionbudgets") is None, "its children went with it")


def test_another_kubernetes_cluster_is_reached_by_the_kubeconfig_of_its_secret(world: World) -> None:
    """The operator's own account has no rights in the namespace that the kubeconfig opens."""
    elsewhere = world.api.new_namespace("edge")
    rules = yaml.safe_load((ROOT / "config/rbac/site-kuberay.yaml").read_text().split("\n---\n")[0])["rules"]
    path = world.api.service_account_kubeconfig(elsewhere, "autoglm", rules)
    kubeconfig = yaml.safe_load(path.read_text())
    cluster = kubeconfig["clusters"][0]["cluster"]
    certificate = Path(cluster.pop("certificate-authority")).read_bytes()
    cluster["certificate-authority-data"] = base64.b64encode(certificate).decode()
    world.apply_secret(world.site, {"kubeconfig": yaml.safe_dump(kubeconfig)})
    backend = manifests.kuberay(
        namespace=elsewhere,
        kubeconfigSecret={"namespace": world.namespace, "name": world.site},
        serveAddresses=["http://edge.example:80"],
    )
    world.api.apply(manifests.site(world.site, backend={"kubeRay": backend}))
    edge = FakeKubeRay(world.installation, elsewhere)
    start(world, edge)
    assert world.gateway.table is not None
    routed = {end.url for route in world.gateway.table.routes for end in route.endpoints if end.site == world.site}
    assert routed == {f"http://edge.example:80/{world.application()}"}
