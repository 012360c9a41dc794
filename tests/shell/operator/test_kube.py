"""Calls to the API server: retries, the fence, and what a user sees of an Event. The server here fails on demand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import kubernetes.client
import pytest
from aiohttp import web
from typing_extensions import override

from autoglm_operator.kube import Call, Forbidden, KubeApi, KubeStore
from autoglm_operator.state import Event
from autoglm_operator.store import DEPLOYMENT, Conflict, NotFound, NotLeading, ObjectKey, StoreError
from support.threaded_server import ThreadedServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RAW: dict[str, Any] = {
    "metadata": {"name": "phones", "namespace": "test", "uid": "u-1", "resourceVersion": "7"},
    "spec": {},
}


class FailingApi(ThreadedServer):
    """Answers every call with the next of `answers` (status, body, headers), the last one for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, Any, dict[str, str]]] = [(200, {}, {})]
        self.calls: list[tuple[str, str, str, Any]] = []

    @override
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.calls.append((request.method, request.path_qs, request.content_type, body))
        status, answer, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response(answer, status=status, headers=headers)


@dataclass
class Lease:
    number: int | None = 1

    def epoch(self) -> int | None:
        return self.number


@dataclass
class Setup:
    server: FailingApi
    api: KubeApi
    lease: Lease = field(default_factory=Lease)


@pytest.fixture
def setup() -> Iterator[Setup]:
    server, lease = FailingApi(), Lease()
    server.start()
    configuration = kubernetes.client.Configuration(host=server.url)
    configuration.retries = False
    api = KubeApi(configuration, lease, threads=2)
    yield Setup(server, api, lease)
    api.close()
    server.close()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_asked_again_when_it_says(setup: Setup, status: int) -> None:
    setup.server.answers = [(status, {}, {"Retry-After": "0.05"}), (200, {"kind": "Thing"}, {})]
    assert await setup.api.request(Call("GET", "/apis")) == {"kind": "Thing"}
    assert len(setup.server.calls) == 2


async def test_it_is_not_asked_for_ever(setup: Setup) -> None:
    setup.server.answers = [(500, {"message": "etcd is away"}, {"Retry-After": "0.01"})]
    with pytest.raises(StoreError, match="etcd is away"):
        await setup.api.request(Call("GET", "/apis"))
    assert len(setup.server.calls) == 4


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (404, NotFound), (409, Conflict), (422, StoreError)])
async def test_a_refusal_is_not_repeated_and_has_its_kind(setup: Setup, status: int, kind: type[StoreError]) -> None:
    setup.server.answers = [(status, {"message": "no"}, {})]
    with pytest.raises(kind):
        await setup.api.request(Call("GET", "/apis"))
    assert len(setup.server.calls) == 1


async def test_a_server_that_is_not_there_is_a_store_error(setup: Setup) -> None:
    setup.server.stop()
    with pytest.raises(StoreError, match="cannot be reached"):
        await setup.api.request(Call("GET", "/apis"))


async def test_who_does_not_lead_reads_but_does_not_write(setup: Setup) -> None:
    setup.lease.number = None
    await setup.api.request(Call("GET", "/apis"))
    store = KubeStore(setup.api)
    for write in (store.patch_status(RAW, DEPLOYMENT, {}), store.set_finalizers(RAW, DEPLOYMENT, ())):
        with pytest.raises(NotLeading):
            await write
    await store.record_event(RAW, DEPLOYMENT, Event("Normal", "Deploying", "on its way"), NOW)
    assert [call[0] for call in setup.server.calls] == ["GET"]


async def test_a_lease_that_is_lost_between_two_tries_stops_the_second(setup: Setup) -> None:
    class Once(Lease):
        asked = 0

        @override
        def epoch(self) -> int | None:
            self.asked += 1
            return 1 if self.asked == 1 else None

    setup.server.answers = [(500, {}, {"Retry-After": "0.01"})]
    api = KubeApi(kubernetes.client.Configuration(host=setup.server.url), Once())
    with pytest.raises(NotLeading):
        await KubeStore(api).patch_status(RAW, DEPLOYMENT, {})
    api.close()
    assert len(setup.server.calls) == 1


async def test_a_status_is_applied_to_the_object_that_was_read(setup: Setup) -> None:
    await KubeStore(setup.api).patch_status(RAW, DEPLOYMENT, {"replicas": 2})
    method, path, content_type, body = setup.server.calls[0]
    assert method == "PATCH"
    assert path.startswith("/apis/serving.autoglm.dev/v1alpha1/namespaces/test/autoglmdeployments/phones/status?")
    assert "fieldManager=autoglm-operator" in path
    assert content_type == "application/apply-patch+yaml"
    assert body["metadata"] == {"name": "phones", "namespace": "test", "uid": "u-1", "resourceVersion": "7"}
    assert body["status"] == {"replicas": 2}


async def test_a_list_is_read_page_by_page(setup: Setup) -> None:
    setup.server.answers = [
        (200, {"items": [{"metadata": {"name": "a"}}], "metadata": {"continue": "next"}}, {}),
        (200, {"items": [{"metadata": {"name": "b"}}], "metadata": {}}, {}),
    ]
    found = await KubeStore(setup.api).list_all(DEPLOYMENT)
    assert [ObjectKey.of(DEPLOYMENT, raw).name for raw in found] == ["a", "b"]
    assert "continue=next" in setup.server.calls[1][1]


async def test_only_the_named_secret_is_read(setup: Setup) -> None:
    setup.server.answers = [(200, {"data": {"token": "cmlnaHQ="}}, {})]
    store = KubeStore(setup.api)
    assert await store.secret("test", "ray", "token") == "right"
    assert await store.secret("test", "ray", "other") is None
    assert {call[1] for call in setup.server.calls} == {"/api/v1/namespaces/test/secrets/ray"}


async def test_the_same_event_is_counted_and_not_repeated(setup: Setup) -> None:
    store, event = KubeStore(setup.api), Event("Warning", "Unreachable", "no connection")
    for seconds in (0, 10, 20):
        await store.record_event(RAW, DEPLOYMENT, event, NOW + timedelta(seconds=seconds))
    assert [call[0] for call in setup.server.calls] == ["POST"]
    await store.record_event(RAW, DEPLOYMENT, event, NOW + timedelta(seconds=70))
    method, _, _, body = setup.server.calls[-1]
    assert (method, body["count"]) == ("PATCH", 4)
    await store.record_event(RAW, DEPLOYMENT, Event("Normal", "Connected", "it answers"), NOW)
    assert setup.server.calls[-1][0] == "POST"


async def test_an_event_that_cannot_be_written_harms_nobody(setup: Setup) -> None:
    setup.server.answers = [(403, {"message": "no"}, {})]
    await KubeStore(setup.api).record_event(RAW, DEPLOYMENT, Event("Normal", "Connected", "it answers"), NOW)


async def test_a_cluster_is_named_by_its_system_namespace_if_that_may_be_read(setup: Setup) -> None:
    store = KubeStore(setup.api)
    setup.server.answers = [(200, {"metadata": {"uid": "u-system"}}, {})]
    assert await store.identity() == "u-system"
    for status in (403, 404):
        setup.server.answers = [(status, {"message": "no"}, {})]
        assert await store.identity() is None
