"""The calls of a site with KubeRay, one by one, against an API server that fails on demand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import kubernetes.client
import pytest
import yaml
from aiohttp import web
from typing_extensions import override

from autoglm_operator.api import KubeRayBackend
from autoglm_operator.backend import SiteFailure
from autoglm_operator.kube import KubeApi, KubeRaySite, Patience, remote_configuration
from autoglm_operator.kube.kuberay import CAPACITY_S, FEW_NODES
from autoglm_operator.kuberay import names
from autoglm_operator.state import ApplyApplication, DeleteApplication
from autoglm_operator.store import NotLeading, StoreError
from support import fleet, kube
from support.threaded_server import ThreadedServer

Json = dict[str, Any]

SITE, APPLICATION = "pods", "team.quickstart"
RAY = f"/apis/ray.io/v1/namespaces/{kube.NAMESPACE}"
NAME = names.ray_service(APPLICATION, SITE)
SERVICE = f"{RAY}/rayservices/{NAME}"


class Api(ThreadedServer):
    """An API server with these objects by path. `failing` answers instead for calls that begin so, as (status, message)."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Json] = {}
        self.failing: dict[str, tuple[int, str]] = {}
        self.writes: list[tuple[str, str, Any]] = []
        self.asked: list[str] = []
        """Questions about nodes and pods."""

    @override
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        call = f"{request.method} {request.path}"
        for begin, (status, message) in self.failing.items():
            if call.startswith(begin):
                return web.json_response({"message": message}, status=status)
        if request.method != "GET":
            body = yaml.safe_load(await request.text())
            self.writes.append((request.method, request.path, body))
            return web.json_response(body if isinstance(body, dict) else {})
        if request.path in self.objects:
            return web.json_response(self.objects[request.path])
        if request.path.startswith(("/api/v1/nodes", "/api/v1/pods")):
            self.asked.append(request.path_qs)
        if request.path.count("/") > RAY.count("/") + 1:
            return web.json_response({"message": "not found"}, status=404)
        listed = [found for path, found in self.objects.items() if path.rpartition("/")[0] == request.path]
        return web.json_response({"items": listed})


class Lease:
    """A fence that a test can close."""

    number: int | None = 1

    def epoch(self) -> int | None:
        return self.number


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    server.start()
    yield server
    server.close()


@pytest.fixture
def lease() -> Lease:
    return Lease()


@pytest.fixture
def time() -> list[float]:
    """Seconds on the site's clock, to be moved by hand."""
    return [0.0]


@pytest.fixture
async def site(api: Api, lease: Lease, time: list[float]) -> AsyncIterator[KubeRaySite]:
    configuration = kubernetes.client.Configuration(host=api.url)
    configuration.retries = False

    async def connect() -> KubeApi:
        return KubeApi(configuration, lease, threads=4, patience=Patience(attempts=1))

    made = KubeRaySite(SITE, KubeRayBackend.model_validate(kube.BACKEND), connect, lambda: time[0], own=True)
    yield made
    await made.close()


def change() -> ApplyApplication:
    """The application with all its objects."""
    of = fleet.deployment()
    return ApplyApplication(SITE, fleet.wanted(of).application, kube.manifests(of, SITE), {f"{NAME}-abcde": 3})


def stored(**metadata: Any) -> Json:
    """The RayService as the API server has it."""
    made = kube.Stored(*kube.manifests(fleet.deployment(), SITE))
    made.runs()
    made.ray_service["metadata"] |= metadata
    return made.ray_service


async def reason_of(work: Any) -> str:
    with pytest.raises(SiteFailure) as failure:
        await work
    return failure.value.error.reason


async def test_an_application_is_seen_with_its_figures(api: Api, site: KubeRaySite) -> None:
    api.objects[SERVICE] = stored()
    (found,) = (await site.observe()).applications
    assert (found.name, found.status, found.owner_uid) == (APPLICATION, "RUNNING", fleet.UID)


async def test_what_is_free_comes_from_the_nodes_and_is_read_now_and_then(
    api: Api, site: KubeRaySite, time: list[float]
) -> None:
    api.objects["/api/v1/nodes/a"] = kube.node("a", cpu="8", gpu=2)
    api.objects["/api/v1/pods/one"] = kube.pod("a", cpu="3", gpu=1)
    first = await site.observe()
    assert first.capacity is not None
    assert (first.capacity.available["CPU"], first.capacity.available["GPU"]) == (5.0, 1.0)
    assert (await site.observe()).capacity == first.capacity
    assert len(api.asked) == 2
    assert "spec.nodeName%3Da" in api.asked[1]
    time[0] += CAPACITY_S
    api.objects["/api/v1/pods/two"] = kube.pod("a", cpu="5")
    assert (await site.observe()).capacity != first.capacity
    api.objects.update({f"/api/v1/nodes/{number}": kube.node(f"n{number}") for number in range(FEW_NODES)})
    time[0] += CAPACITY_S
    await site.observe()
    assert len(api.asked) == 6
    assert "spec.nodeName%21%3D" in api.asked[-1]


async def test_a_site_where_nodes_may_not_be_read_is_a_good_site_and_says_what_is_missing(
    api: Api, site: KubeRaySite
) -> None:
    api.objects[SERVICE] = stored()
    api.failing["GET /api/v1/nodes"] = (403, "nodes is forbidden")
    found = await site.observe()
    assert len(found.applications) == 1
    assert found.capacity is None
    assert "nodes and pods cannot be listed" in found.capacity_unknown


async def test_every_object_is_applied_under_the_operators_name(api: Api, site: KubeRaySite) -> None:
    assert await site.apply([change()])
    assert [(method, path.rpartition("/")[0].rpartition("/")[2]) for method, path, _ in api.writes] == [
        ("PATCH", "rayservices"),
        ("PATCH", "poddisruptionbudgets"),
        ("PATCH", "networkpolicies"),
    ]
    assert api.writes[0][2]["kind"] == "RayService"


async def test_a_rayservice_that_was_seen_is_written_only_while_it_is_that_one(api: Api, site: KubeRaySite) -> None:
    api.objects[SERVICE] = stored(uid="the-one-that-was-seen")
    await site.apply([change()])
    assert api.writes[0][2]["metadata"]["uid"] == "the-one-that-was-seen"


@pytest.mark.parametrize(
    "marks",
    [
        {"labels": {}, "annotations": {}},
        {"labels": {names.SITE: "elsewhere"}},
        {"annotations": {names.DEPLOYMENT_UID: "another-deployment"}},
    ],
    ids=["nobody's", "of another site", "of another deployment"],
)
async def test_a_name_of_somebody_else_is_refused_and_nothing_is_written(
    api: Api, site: KubeRaySite, marks: Json
) -> None:
    api.objects[SERVICE] = stored(**marks)
    assert await reason_of(site.apply([change()])) == "NameTaken"
    await site.apply([DeleteApplication(SITE, APPLICATION, fleet.UID)])
    assert api.writes == []


async def test_workers_are_asked_for_in_the_group_that_is_ours(api: Api, site: KubeRaySite) -> None:
    groups = [{"groupName": "somebody"}, {"groupName": names.WORKERS, "replicas": 1, "maxReplicas": 1}]
    api.objects[f"{RAY}/rayclusters/{NAME}-abcde"] = {"metadata": {}, "spec": {"workerGroupSpecs": groups}}
    await site.apply([change()])
    method, path, patch = api.writes[-1]
    assert (method, path) == ("PATCH", f"{RAY}/rayclusters/{NAME}-abcde")
    assert patch[0] == {"op": "test", "path": "/spec/workerGroupSpecs/1/groupName", "value": names.WORKERS}
    assert {one["path"].rpartition("/")[2]: one["value"] for one in patch[1:]} == {
        "minReplicas": 3,
        "maxReplicas": 3,
        "replicas": 3,
    }


async def test_fewer_workers_are_left_to_rays_autoscaler_to_choose(api: Api, site: KubeRaySite) -> None:
    groups = [{"groupName": names.WORKERS, "replicas": 5, "maxReplicas": 5}]
    api.objects[f"{RAY}/rayclusters/{NAME}-abcde"] = {"metadata": {}, "spec": {"workerGroupSpecs": groups}}
    await site.apply([change()])
    assert {one["path"].rpartition("/")[2] for one in api.writes[-1][2][1:]} == {"minReplicas", "maxReplicas"}


async def test_deletion_names_the_object_and_waits_for_its_pods(api: Api, site: KubeRaySite) -> None:
    api.objects[SERVICE] = stored(uid="u-1")
    await site.apply([DeleteApplication(SITE, APPLICATION, fleet.UID)])
    assert api.writes == [("DELETE", SERVICE, {"propagationPolicy": "Foreground", "preconditions": {"uid": "u-1"}})]


async def test_what_is_gone_or_going_is_not_deleted_again(api: Api, site: KubeRaySite) -> None:
    await site.apply([DeleteApplication(SITE, APPLICATION, fleet.UID)])
    api.objects[SERVICE] = stored(deletionTimestamp="2026-03-01T12:00:00Z")
    await site.apply([DeleteApplication(SITE, APPLICATION, fleet.UID)])
    assert api.writes == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "Unauthorized"), (403, "Unauthorized"), (404, "KubeRayMissing"), (500, "Unreachable"), (503, "Unreachable")],
)
async def test_a_look_that_fails_has_its_reason(api: Api, site: KubeRaySite, status: int, reason: str) -> None:
    api.failing["GET "] = (status, "no")
    assert await reason_of(site.observe()) == reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "DeployFailed"), (403, "Unauthorized"), (409, "DeployFailed"), (422, "DeployFailed"), (500, "Unreachable")],
)
async def test_a_write_that_fails_has_its_reason_and_the_servers_words(
    api: Api, site: KubeRaySite, status: int, reason: str
) -> None:
    api.failing["PATCH "] = (status, "quota exceeded: gpus")
    with pytest.raises(SiteFailure) as failure:
        await site.apply([change()])
    assert failure.value.error.reason == reason
    assert "quota exceeded: gpus" in failure.value.error.message


async def test_a_server_that_is_not_there_is_unreachable(api: Api, site: KubeRaySite) -> None:
    api.stop()
    assert await reason_of(site.observe()) == "Unreachable"


async def test_a_process_that_does_not_lead_writes_nothing(api: Api, site: KubeRaySite, lease: Lease) -> None:
    lease.number = None
    with pytest.raises(NotLeading):
        await site.apply([change()])
    assert api.writes == []


async def test_looks_and_changes_may_be_at_the_same_time(api: Api, site: KubeRaySite) -> None:
    api.objects[SERVICE] = stored()
    seen = await asyncio.gather(*(site.observe() for _ in range(4)), site.apply([change()]))
    assert len(seen) == 5


SECRET_WORD = "sesame-open"


@pytest.mark.parametrize(
    "change",
    [
        {"users": [{"name": "u", "user": {"exec": {"command": "sh", "args": [SECRET_WORD]}}}]},
        {"users": [{"name": "u", "user": {"tokenFile": "/etc/passwd"}}]},
        {"users": [{"name": "u", "user": {"client-key": "/etc/passwd"}}]},
        {"users": [{"name": "u", "user": {"auth-provider": {"name": SECRET_WORD}}}]},
        {"clusters": [{"name": "c", "cluster": {"server": "https://x", "certificate-authority": "/etc/passwd"}}]},
        {"current-context": "missing"},
        {"contexts": None},
        {"users": SECRET_WORD},
    ],
)
def test_a_kubeconfig_that_reaches_into_this_machine_or_is_broken_is_refused(change: Json) -> None:
    good: Json = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://x"}}],
        "users": [{"name": "u", "user": {"token": SECRET_WORD}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    assert remote_configuration(yaml.safe_dump(good)).host == "https://x"
    with pytest.raises(StoreError) as refused:
        remote_configuration(yaml.safe_dump(good | change))
    assert SECRET_WORD not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "just words", "[1, 2]", "null"])
def test_what_is_no_kubeconfig_is_refused(text: str) -> None:
    with pytest.raises(StoreError):
        remote_configuration(text)
