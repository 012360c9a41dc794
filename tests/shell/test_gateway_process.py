"""The gateway as a process: its table on disk, its children, its end."""

import asyncio
import json
import os
import resource
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoglm_serving import headers
from autoglm_serving.gateway.table_store import FILE_NAME
from autoglm_serving.routing_table import RoutingTable
from support.gateway import MODEL, FakeServer, Gateway, question, route
from support.processes import family, title, until

TOKENLESS = ("/healthz", "/readyz", "/metrics")


@pytest.fixture
async def first() -> AsyncIterator[FakeServer]:
    async with FakeServer("first") as server:
        yield server


def envoy_of(gateway: Gateway) -> int:
    """Process id of its Envoy, which is all that it has started."""
    (envoy,) = [pid for pid in family(gateway.process.pid)[1:] if title(pid)]
    return envoy


def numbered(epoch: int, version: int, *routes: Any) -> RoutingTable:
    return RoutingTable(epoch=epoch, version=version, written_at=datetime(2026, 11, 26, tzinfo=UTC), routes=routes)


async def test_it_serves_from_disk_when_the_operator_is_gone(tmp_path: Path, first: FakeServer) -> None:
    async with Gateway(tmp_path) as gateway:
        assert not (await gateway.readiness())["table"]
        await gateway.serve(route(first))
        file = gateway.state_dir / FILE_NAME
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        await asyncio.to_thread(gateway.process.kill)
        await gateway.start()

        async def ready() -> bool:
            return all((await gateway.readiness()).values())

        await gateway.until(ready, "it is ready without anybody telling it anything")
        assert (await gateway.ask())[0] == 200
        assert (await gateway.report()).table_version == 1

        # A table that somebody changed on disk is not served.
        await asyncio.to_thread(gateway.process.terminate)
        content = json.loads(file.read_text())
        content["payload"] = content["payload"].replace(first.address, "127.0.0.1:9")
        file.write_text(json.dumps(content))
        await gateway.start()
        assert not (await gateway.readiness())["table"]
        assert "signature does not match" in gateway.process.log_text()
        assert (await gateway.ask())[0] == 503
        # The operator's next table repairs it.
        await gateway.serve(route(first))
        assert (await gateway.ask())[0] == 200


async def test_without_room_on_disk_it_serves_on_and_takes_the_next_table_when_there_is_some(
    tmp_path: Path, first: FakeServer
) -> None:
    async with Gateway(tmp_path) as gateway:
        await gateway.serve(route(first))
        held = (await gateway.report()).table_version
        file = gateway.state_dir / FILE_NAME
        good = file.read_bytes()
        # No file may grow: what a full disk is to a process, its log included.
        limits = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        status, text = await gateway.put(numbered(1, held + 1, route(first)))
        assert status == 507, text
        assert "could not be written to disk" in text
        for _ in range(5):
            assert (await gateway.ask())[0] == 200
        assert (await gateway.report()).table_version == held
        assert file.read_bytes() == good, "the old table is whole"
        assert [each.name for each in gateway.state_dir.glob(".*json*")] == [], "nothing half-written stays"
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, limits)
        assert (await gateway.put(numbered(1, held + 1, route(first))))[0] == 200
        assert (await gateway.report()).table_version == held + 1
        assert (await gateway.ask())[0] == 200


async def test_only_the_operators_newest_table_is_taken(tmp_path: Path, first: FakeServer) -> None:
    async with Gateway(tmp_path) as gateway:
        table = numbered(2, 5, route(first))
        assert (await gateway.put(table))[0] == 200
        cases: list[tuple[RoutingTable, dict[str, str], int, str]] = [
            (numbered(3, 1), {"token": "wrong"}, 401, "unauthorized"),
            (numbered(3, 1), {"token": ""}, 401, "unauthorized"),
            (numbered(3, 1), {"key": "wrong"}, 403, "table_refused"),
            (numbered(2, 4), {}, 409, "stale_table"),
            (numbered(1, 9), {}, 409, "stale_table"),
            (numbered(2, 5), {}, 409, "stale_table"),
        ]
        for bad, how, status, code in cases:
            got, text = await gateway.put(bad, **how)
            assert (got, json.loads(text)["error"]["code"]) == (status, code)
        for garbage in ("", "{}", "[]", '{"payload": 1, "signature": 2}'):
            got, text = await gateway.admin("PUT", "/v1/routing-table", data=garbage)
            assert (got, json.loads(text)["error"]["code"]) == (400, "invalid_table")
        assert (await gateway.put(table))[0] == 200, "the same table again is no conflict"
        report = await gateway.report()
        assert (report.table_epoch, report.table_version) == (2, 5)
        assert (await gateway.put(numbered(3, 0, route(first))))[0] == 200, "a new leader starts a new epoch"

        for token, status in ((gateway.token, 200), ("wrong", 401), ("", 401)):
            shown = {headers.GATEWAY_TOKEN: token}
            answer = await gateway.session.get(f"{gateway.admin_url}/v1/report", headers=shown)
            assert answer.status == status, "an API server's proxy keeps authorization for itself"

        for path in TOKENLESS:
            async with gateway.session.get(gateway.admin_url + path) as answer:
                assert answer.status in (200, 503)
        for path in ("/v1/report", "/v1/requests", "/v1/requests/x", "/v1/nothing"):
            assert (await gateway.admin("GET", path, token="wrong"))[0] == 401
        assert (await gateway.admin("GET", "/v1/requests/x"))[0] == 404
        assert (await gateway.admin("GET", "/v1/requests?limit=-1"))[0] == 400
        assert json.loads((await gateway.admin("GET", "/v1/requests?limit=3"))[1]) == {"requests": []}


@dataclass
class Load:
    """Clients that ask again and again, each over new connections."""

    gateway: Gateway
    outcomes: list[str] = field(default_factory=list)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, clients: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while not self.leaving.is_set():
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                try:
                    async with session.post(f"{self.gateway.url}/v1/chat/completions", json=question()) as answer:
                        body = await answer.json()
                        self.outcomes.append(
                            "answered" if answer.status == 200 and body["site"] else str(answer.status)
                        )
                except aiohttp.ClientError as error:
                    self.outcomes.append(type(error).__name__)
                    return


async def test_sigterm_loses_no_request_of_clients_that_follow_readiness(tmp_path: Path, first: FakeServer) -> None:
    """As behind a load balancer: clients go on until they see that the gateway is not ready any more."""
    async with Gateway(tmp_path, drain_timeout=240.0) as gateway:
        await gateway.serve(route(first))
        first.mode = "slow"
        load = Load(gateway)
        clients = load.start(20)
        await until(lambda: load.outcomes.count("answered") >= 20 and first.under_way >= 10, "the load is on")
        envoy = envoy_of(gateway)
        os.kill(gateway.process.pid, signal.SIGTERM)

        async def not_ready() -> bool:
            return not (await gateway.readiness())["notDraining"]

        await gateway.until(not_ready, "it says that it is draining")
        answered = load.outcomes.count("answered")
        await until(lambda: load.outcomes.count("answered") > answered + 20, "it still answers")
        load.leaving.set()
        assert await asyncio.to_thread(gateway.process.wait) == 0
        await asyncio.gather(*clients)
        assert set(load.outcomes) == {"answered"}
        assert not title(envoy)
        assert list(Path(gateway.temporary).iterdir()) == []


async def test_sigterm_answers_every_request_it_took_from_clients_that_never_stop(
    tmp_path: Path, first: FakeServer
) -> None:
    """The port is closed after half of the time, and what was taken before that is answered in the other half."""
    async with Gateway(tmp_path, drain_timeout=20.0) as gateway:
        await gateway.serve(route(first))
        first.mode = "slow"
        load = Load(gateway)
        clients = load.start(20)
        await until(lambda: load.outcomes.count("answered") >= 20 and first.under_way >= 10, "the load is on")
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.wait) == 0
        await asyncio.gather(*clients)
        assert load.outcomes.count("answered") == len(first.seen)
        # The kernel refuses or resets what the gateway had not taken yet.
        assert set(load.outcomes) <= {"answered", "ClientConnectorError", "ClientOSError", "ServerDisconnectedError"}


async def test_envoy_comes_back_when_it_is_killed(tmp_path: Path, first: FakeServer) -> None:
    async with Gateway(tmp_path) as gateway:
        await gateway.serve(route(first))
        for _ in range(2):
            envoy = envoy_of(gateway)
            os.kill(envoy, signal.SIGKILL)
            await until(lambda: not title(envoy), "Envoy is dead")  # noqa: B023

            async def answered() -> bool:
                try:
                    return (await gateway.ask())[0] == 200
                except aiohttp.ClientConnectionError:
                    return False

            await gateway.until(answered, "requests are answered again")
        assert await gateway.metric("autoglm_gateway_envoy_starts_total") == 3


async def test_a_state_folder_has_one_gateway_and_envoy_ends_with_it(tmp_path: Path) -> None:
    async with Gateway(tmp_path) as gateway:
        second = Gateway(tmp_path)
        done = await asyncio.to_thread(
            subprocess.run, second.process.command, capture_output=True, text=True, timeout=120, check=False
        )
        second.stop()
        assert "another gateway uses the state folder" in done.stderr
        envoy = envoy_of(gateway)
        os.kill(gateway.process.pid, signal.SIGKILL)
        await until(lambda: not title(envoy), "Envoy ended too")


async def test_a_rollout_in_place_keeps_serving_and_admits_the_new_revision_when_it_answers(
    tmp_path: Path, first: FakeServer
) -> None:
    async with Gateway(tmp_path) as gateway:
        await gateway.serve(route(first))
        await gateway.push(route(first, revision="r2"))
        admission = (await gateway.report()).admissions[0]
        assert (admission.state, admission.revision) == ("Probing", "r1")
        assert "waiting for revision r2" in admission.message
        status, answer_headers, _ = await gateway.ask()
        assert (status, answer_headers["x-autoglm-reason"]) == (200, "old_revision")
        first.revision = "r2"

        async def admitted() -> bool:
            found = (await gateway.report()).admissions[0]
            return (found.state, found.revision) == ("Admitted", "r2")

        await gateway.until(admitted, "the new revision is admitted")

        # The probes stop answering: out after three, back with one.
        first.probes = False

        async def state() -> str:
            return (await gateway.report()).admissions[0].state

        async def failed() -> bool:
            return await state() == "ProbeFailed"

        async def back() -> bool:
            return await state() == "Admitted"

        await gateway.until(failed, "three failed probes take it out")
        assert (await gateway.ask())[0] == 503
        first.probes = True
        await gateway.until(back, "one good probe brings it back")
        assert (await gateway.ask())[0] == 200

        # The deployment is deleted: the model is gone, and so is its endpoint.
        await gateway.push()
        status, _, body = await gateway.ask()
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        assert (await gateway.report()).admissions == ()


async def test_nothing_of_a_request_is_logged(tmp_path: Path, first: FakeServer) -> None:
    secret = "correct-horse-battery-staple"
    async with Gateway(tmp_path, env={"OTEL_TRACES_EXPORTER": "console"}) as gateway:
        await gateway.serve(route(first))
        await gateway.ask(question(secret), headers={"authorization": f"Bearer {secret}"}, params={"q": secret})
        await gateway.ask(question(secret, model=secret))
        await gateway.ask((secret * 3).encode())
        await asyncio.to_thread(gateway.process.terminate)
        log = gateway.process.log_text()
        assert '"requestId"' in log
        assert f'"autoglm.model": "{MODEL}"' in log, "no span was written"
        assert secret not in log
        assert gateway.token not in log


@pytest.mark.parametrize("problem", ["port", "token", "empty-token"])
async def test_what_keeps_it_from_starting_is_said_in_one_line(tmp_path: Path, problem: str) -> None:
    gateway = Gateway(tmp_path)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", gateway.port if problem == "port" else 0)
    if problem == "token":
        gateway.token_file.unlink()
    if problem == "empty-token":
        gateway.token_file.write_text("\n")
    async with server:
        done = await asyncio.to_thread(
            subprocess.run, gateway.process.command, capture_output=True, text=True, timeout=120, check=False
        )
    gateway.stop()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    words = {"port": f"cannot listen on 127.0.0.1:{gateway.port}", "token": "cannot be read", "empty-token": "is empty"}
    assert words[problem] in done.stderr
