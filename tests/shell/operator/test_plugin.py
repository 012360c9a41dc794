"""`kubectl autoglm` against a real API server, with the operator's own statuses."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from typing_extensions import override

from autoglm_operator.plugin import commands
from autoglm_serving.gateway.admin import AdminParts, application
from autoglm_serving.gateway.dispatch import Context
from autoglm_serving.gateway.fleet import Fleet
from autoglm_serving.gateway.metrics import Metrics as GatewayMetrics
from autoglm_serving.gateway.records import Record, Records
from autoglm_serving.gateway.table_store import TableStore
from autoglm_serving.images import ImageSize
from autoglm_serving.routing import Score
from autoglm_serving.tracing import Tracing
from support.operator import World
from support.ports import free_port
from support.processes import wait_until
from support.threaded_server import ThreadedServer

Run = Callable[..., Result]


@pytest.fixture
def run(world: World) -> Run:
    """The plugin with the kubeconfig and the namespace of the test."""

    def call(*arguments: str) -> Result:
        where = ["--kubeconfig", str(world.api.kubeconfig), "--namespace", world.namespace]
        return CliRunner().invoke(commands.main, [*where, *arguments])

    return call


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_status_and_explain_show_what_the_operator_told(world: World, run: Run) -> None:
    world.apply_site()
    world.apply_deployment(replicas=2)
    world.wait_ready()

    listed = good(run("status"))
    assert f"{world.namespace}/phones" in listed
    assert world.site in listed

    shown = good(run("status", "agd/phones")).splitlines()
    assert shown[0] == f"{world.namespace}/phones  Ready"
    assert any(line.startswith(f"├─ site {world.site}: Ready 2/2 ") for line in shown)

    told = good(run("explain", "agd/phones"))
    assert "GatewayReady" in told
    assert "Answering" in told, "the events are there"
    assert "Connected" in good(run("explain", f"ags/{world.site}"))

    raw = json.loads(good(run("status", "phones", "-o", "json")))
    assert raw["kind"] == "AutoGLMDeployment"
    both = json.loads(good(run("status", "--all-namespaces", "-o", "json")))
    assert {"AutoGLMDeployment", "AutoGLMSite"} == {item["kind"] for item in both["items"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "nobody"), 'autoglmdeployments.serving.autoglm.dev "nobody" not found'),
        (("explain", "pods/a"), "neither agd/NAME nor ags/NAME nor the id of a request"),
        (("explain", "0f3c"), "no gateway of the chart runs in this cluster"),
        (("rollout", "promote", "nobody"), "not found"),
        (("logs", "ags/site"), "is not a deployment"),
        (("rollout", "rollback", "a", "--to", "r", "--undo"), "either --to or --undo"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_a_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_kubeconfig_that_cannot_be_used_is_said_in_a_sentence(world: World) -> None:
    for arguments in (["--kubeconfig", "/nowhere"], ["--kubeconfig", str(world.api.kubeconfig), "--context", "other"]):
        result = CliRunner().invoke(commands.main, [*arguments, "status"])
        assert result.exit_code == 1
        assert "the kubeconfig cannot be used" in result.output


def test_the_namespace_may_be_named_before_and_after_the_verb(run: Run, world: World) -> None:
    told = "no AutoGLMDeployment in namespace"
    assert f"{told} elsewhere" in good(run("status", "-n", "elsewhere"))
    result = run("rollout", "-n", "ignored", "pause", "nobody", "--namespace", world.namespace, "--context", "other")
    assert "the kubeconfig cannot be used" in result.output
    assert '"nobody" not found' in run("rollout", "pause", "nobody", "-n", world.namespace).output


def test_an_empty_namespace_says_so(run: Run, world: World) -> None:
    assert f"no AutoGLMDeployment in namespace {world.namespace}" in good(run("status"))


def test_the_verbs_of_a_rollout_write_what_the_api_server_takes(world: World, run: Run) -> None:
    world.apply_site()
    world.apply_deployment(rollout={"maxSurge": 1, "steps": [{"weight": 5}]})
    world.wait_ready()

    def annotations() -> Any:
        return (world.deployment() or {})["metadata"].get("annotations", {})

    good(run("rollout", "pause", "phones"))
    assert annotations()["serving.autoglm.dev/rollout-pause"] == "true"
    good(run("rollout", "resume", "agd/phones"))
    assert "serving.autoglm.dev/rollout-pause" not in annotations()
    refused = run("rollout", "promote", "phones")
    assert refused.exit_code == 1
    assert "rolled out" in refused.output or "has no rollout" in refused.output


class Metrics(ThreadedServer):
    """A gateway that shows metrics and nothing else; its requests grow with each look."""

    def __init__(self) -> None:
        super().__init__()
        self.host = _own_address()
        self.port = commands.ADMIN_PORT
        self._looks = 0

    @override
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/metrics", self._show)
        return application

    async def _show(self, _: web.Request) -> web.Response:
        self._looks += 1
        label = 'deployment="team/phones"'
        return web.Response(
            text=f'autoglm_gateway_requests_total{{code="200",{label}}} {self._looks * 1000}\n'
            f'autoglm_gateway_admitted{{{label},site="a",endpoint="10.0.0.1:8000"}} 1\n'
        )


def _own_address() -> str:
    """An address of this machine that is not the loopback, which the API server does not connect to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        return str(probe.getsockname()[0])


@contextmanager
def gateway_pods(world: World, host: str, *names: str, token: str = "gateway-token") -> Iterator[None]:
    """Pods of the chart, as the API server knows them, behind one address."""
    labels = {"app.kubernetes.io/part-of": "autoglm", "app.kubernetes.io/component": "gateway"}
    volume = {"name": "token", "secret": {"secretName": token, "items": [{"key": "key", "path": "token"}]}}
    spec = {"containers": [{"name": "gateway", "image": "none"}], "nodeName": "nowhere", "volumes": [volume]}
    status = json.dumps({"status": {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}]}})
    api, where = world.api, ("-n", world.namespace)
    wait_until(lambda: api.exists("serviceaccount", "default", world.namespace), "pods can be made there")
    try:
        for name in names:
            metadata = {"name": name, "namespace": world.namespace, "labels": labels}
            api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            api.kubectl("patch", f"pod/{name}", *where, "--subresource=status", "--type=merge", "-p", status)
        yield
    finally:
        for name in names:
            api.kubectl("delete", f"pod/{name}", *where, "--force", "--grace-period=0", "--ignore-not-found")


def test_top_asks_every_gateway_through_the_api_server(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ADMIN_PORT", free_port())
    assert "no gateway of the chart runs" in run("top", "--seconds", "0.1").output
    gateway = Metrics()
    gateway.start()
    try:
        with gateway_pods(world, gateway.host, "gateway-1"):
            row = good(run("top", "--seconds", "0.2")).splitlines()[1].split()
        assert row[0] == "team/phones"
        assert float(row[1]) > 0
        assert row[-1] == "1/1"
    finally:
        gateway.close()


class Admin(ThreadedServer):
    """A gateway's own admin interface, with one request to tell of."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.host = _own_address()
        self.port = commands.ADMIN_PORT
        self._folder = folder
        self.token_file = folder / "token"
        self.token_file.write_text("the gateways' token")

    @override
    def application(self) -> web.Application:
        async def live() -> bool:
            return True

        fleet = Fleet()
        context = Context(fleet, Records(), GatewayMetrics(fleet), Tracing("gateway", None))
        context.records.add(RECORD)
        store = TableStore(self._folder, self.token_file)
        at = datetime.now(UTC)
        return application(AdminParts(context, store, self.token_file, at, lambda: None, live, lambda: False))


RECORD = Record(
    request_id="5f0c-1",
    arrived_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    model="phone",
    deployment="team/phones",
    images=(ImageSize(1080, 2400, "png"),),
    candidates=(
        Score("10.0.0.1:8000", "edge", 0.5, 0.25, 0.0, 0.125, 1),
        Score("10.0.0.2:80", "cloud", 2.5, 0.5, 0.0, 1, 0),
    ),
    attempts_planned=("10.0.0.1:8000", "10.0.0.2:80"),
    reason="least_work",
    short_side=720,
    resolution_reason="bandwidth",
    expected_quality=0.9,
    expected_loss=0.02,
    quality_basis="dense measured, 64 tasks",
    site="edge",
    endpoint="10.0.0.1:8000",
    revision="r2",
    side="canary",
    attempts=1,
    outcome="answered",
    status=200,
)


def test_a_request_is_explained_by_whichever_gateway_had_it(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The API server keeps `authorization` for itself: the token goes another way, and nothing is told without it."""
    monkeypatch.setattr(commands, "ADMIN_PORT", free_port())
    gateway = Admin(tmp_path)
    gateway.start()
    try:
        with gateway_pods(world, gateway.host, "gateway-1"):
            assert "its token's Secret gateway-token is not there" in run("explain", "5f0c-1").output
            world.apply_secret("gateway-token", {"key": "another"})
            assert "401" in run("explain", "5f0c-1").output
            world.apply_secret("gateway-token", {"key": gateway.token_file.read_text()})
            assert "gateway-1: does not know it" in run("explain", "other").output
            told = good(run("explain", "5f0c-1"))
            assert good(run("explain", "5f0c-1", "--gateway-token-file", str(gateway.token_file))) == told
            raw = json.loads(good(run("explain", "5f0c-1", "-o", "json")))
    finally:
        gateway.close()
    assert (raw["gateway"], raw["record"]["site"]) == ("gateway-1", "edge")
    words = " ".join(told.split())
    for part in (
        "gateway gateway-1 Request 5f0c-1",
        "went to edge 10.0.0.1:8000 revision r2 (canary)",
        "in this order: 10.0.0.1:8000, 10.0.0.2:80",
        "because least_work",
        "resolution 720 (bandwidth); 90.0% of tasks right, 2.0% below the best (dense measured, 64 tasks)",
        "10.0.0.1:8000 edge 0.5 0.25 0 0.125 1 0.875",
        "10.0.0.2:80 cloud 2.5 0.5 0 1 0 4",
    ):
        assert part in words, told


def test_logs_say_why_there_is_none(world: World, run: Run) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    world.ray.stop()
    told = good(run("logs", "phones"))
    assert f"[{world.site}] (no log: " in told
    assert "cannot be reached from here" in told
    assert run("logs", "phones", "--site", "elsewhere").exit_code == 1
