"""`kubectl autoglm` against a real API server, with the operator's own statuses."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from typing_extensions import override

from autoglm_operator.plugin import commands
from support.kubernetes import ControlPlane
from support.operator import World
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
        (("explain", "pods/a"), "neither agd/NAME nor ags/NAME"),
        (("explain", "0f3c"), "forward port 9901"),
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


def test_top_asks_every_gateway_through_the_api_server(
    world: World, run: Run, api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.ports import free_port

    monkeypatch.setattr(commands, "ADMIN_PORT", free_port())
    assert "no gateway of the chart runs" in run("top", "--seconds", "0.1").output
    gateway = Metrics()
    gateway.start()
    labels = {"app.kubernetes.io/part-of": "autoglm", "app.kubernetes.io/component": "gateway"}
    spec = {"containers": [{"name": "gateway", "image": "none"}], "nodeName": "nowhere"}
    metadata = {"name": "gateway-1", "namespace": world.namespace, "labels": labels}
    status = json.dumps({"status": {"phase": "Running", "podIP": gateway.host, "podIPs": [{"ip": gateway.host}]}})
    try:
        wait_until(lambda: api_server.exists("serviceaccount", "default", world.namespace), "pods can be made there")
        api_server.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        where = ("-n", world.namespace)
        api_server.kubectl("patch", "pod/gateway-1", *where, "--subresource=status", "--type=merge", "-p", status)
        row = good(run("top", "--seconds", "0.2")).splitlines()[1].split()
        assert row[0] == "team/phones"
        assert float(row[1]) > 0
        assert row[-1] == "1/1"
    finally:
        gateway.close()
        api_server.kubectl("delete", "pod/gateway-1", "-n", world.namespace, "--force", "--grace-period=0")


def test_logs_say_why_there_is_none(world: World, run: Run) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    world.ray.stop()
    told = good(run("logs", "phones"))
    assert f"[{world.site}] (no log: " in told
    assert "cannot be reached from here" in told
    assert run("logs", "phones", "--site", "elsewhere").exit_code == 1
