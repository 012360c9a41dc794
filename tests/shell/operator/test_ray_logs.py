"""Logs of replicas from a Ray dashboard: what is asked for, and what is said when it does not answer."""

from collections.abc import Iterator

import pytest
from aiohttp import web
from typing_extensions import override

from autoglm_operator.plugin.ray_logs import Dashboard, RayUnreachable, log, replicas, serve_document
from support.threaded_server import ThreadedServer

TOKEN = "right-token"


class FakeDashboard(ThreadedServer):
    """The two paths that are read, with one replica."""

    @override
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/api/serve/applications/", self._document)
        application.router.add_get("/api/v0/logs/file", self._log)
        return application

    async def _document(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        replica = {"replica_id": "0123456789ab", "node_id": "node-1", "log_file_path": "/serve/replica.log"}
        engine = {"replicas": [replica]}
        details = {"deployed_app_config": {"args": {"uid": "u"}}, "deployments": {"Engine": engine}}
        return web.json_response({"applications": {"team.phones": details}})

    async def _log(self, request: web.Request) -> web.Response:
        wanted = {"node_id": "node-1", "filename": "serve/replica.log", "lines": "7"}
        if request.headers.get("Authorization") != f"Bearer {TOKEN}" or dict(request.query) != wanted:
            return web.Response(status=500)
        return web.Response(text="one\n二\n")


@pytest.fixture
def dashboard() -> Iterator[FakeDashboard]:
    server = FakeDashboard()
    server.start()
    yield server
    server.close()


def test_a_replicas_log_is_fetched_by_node_and_file(dashboard: FakeDashboard) -> None:
    site = Dashboard(dashboard.url, TOKEN)
    (replica,) = replicas(serve_document(site), "u")
    assert replica.name == "team.phones/Engine/456789ab"
    assert log(site, replica, 7) == "one\n二\n"


def test_a_wrong_token_and_a_silent_dashboard_are_told_apart(dashboard: FakeDashboard) -> None:
    with pytest.raises(RayUnreachable, match="answered 401"):
        serve_document(Dashboard(dashboard.url, "wrong"))
    dashboard.stop()
    with pytest.raises(RayUnreachable, match="cannot be reached from here: ConnectionRefusedError"):
        serve_document(Dashboard(dashboard.url, TOKEN))


def test_the_token_is_in_no_message(dashboard: FakeDashboard) -> None:
    dashboard.stop()
    with pytest.raises(RayUnreachable) as caught:
        serve_document(Dashboard(dashboard.url, TOKEN))
    assert TOKEN not in str(caught.value)
