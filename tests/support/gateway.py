"""The real gateway as a process, and small fake model servers behind it that can misbehave on demand."""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

from autoglm_serving import headers
from autoglm_serving.gateway.prober import tiny_png
from autoglm_serving.routing_table import Endpoint, GatewayReport, Route, RoutingTable, sign
from support.pictures import data_url
from support.ports import free_port
from support.processes import Process

DEADLINE_S = 120.0
REVISION = "r1"
MODEL = "autoglm-phone-9b"
DEPLOYMENT = "test/phone"
PREFIX = "/test.phone"

Mode = Literal["answer", "stream", "503", "busy", "die", "hang", "die-in-stream", "plain-500", "plain-404", "slow"]


@dataclass
class Seen:
    """One request as a fake server saw it."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeServer:
    """A model server of one site. `mode` says how it treats clients; `probes` how it treats the gateway's probes."""

    site: str
    mode: Mode = "answer"
    probes: bool = True
    revision: str = REVISION
    prefix: str = PREFIX
    variant: str = ""
    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)
    probe_count: int = 0
    under_way: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def endpoint(self, **changes: Any) -> Endpoint:
        return Endpoint(**{"site": self.site, "url": self.url, "revision": self.revision, **changes})

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on."""
        self.released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path in ("/-/healthz", f"{self.prefix}/v1/link"):  # the gateway measures its way here
            return web.Response(status=200 if request.method == "GET" else 204)
        question = json.loads(body) if body else {}
        if question.get("max_tokens") == 1:
            return self._probe()
        self.seen.append(Seen(request.path, dict(request.headers), body))
        self.under_way += 1
        try:
            return await self._client(request, question)
        finally:
            self.under_way -= 1

    def _probe(self) -> web.Response:
        self.probe_count += 1
        if not self.probes:
            return web.Response(status=500, text="no")
        return web.json_response({"choices": []}, headers=self._headers())

    async def _client(self, request: web.Request, question: dict[str, Any]) -> web.StreamResponse:
        match self.mode:
            case "503":
                return web.Response(status=503, text="unavailable")
            case "busy":
                error = {"error": {"message": "full", "type": "server_error", "param": None, "code": "overloaded"}}
                return web.json_response(error, status=503, headers={**self._headers(), "retry-after": "1"})
            case "plain-500" | "plain-404":
                return web.Response(status=int(self.mode[-3:]), text="<html>secret path /srv/x</html>")
            case "die":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "hang":
                await self.released.wait()
            case "slow":
                await asyncio.sleep(1.0)
            case "stream" | "die-in-stream":
                return await self._stream(request)
            case "answer":
                pass
        return web.json_response({"site": self.site, "model": question.get("model")}, headers=self._headers())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**self._headers(), "content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"n": 0}\n\n')
        if self.mode == "die-in-stream":
            assert request.transport is not None
            await asyncio.sleep(0.1)
            request.transport.abort()
            return response
        # The rest is held back until the test has seen the first part: an answer that is not streamed would hang here.
        await self.released.wait()
        await response.write(b'data: {"n": 1}\n\ndata: [DONE]\n\n')
        return response

    def _headers(self) -> dict[str, str]:
        return {headers.REVISION: self.revision} | ({headers.VARIANT: self.variant} if self.variant else {})


def route(*servers: FakeServer, **changes: Any) -> Route:
    """A route over fake servers, with short times."""
    values: dict[str, Any] = {
        "deployment": DEPLOYMENT,
        "model": MODEL,
        "uid": "uid-1",
        "revision": REVISION,
        "endpoints": tuple(server.endpoint() for server in servers),
        "timeout_s": 60.0,
        "retries": 1,
    }
    return Route(**{**values, **changes})


def image_url(width: int = 28, height: int = 28) -> str:
    """A data URL of a PNG. Only the header says the size when it is not square: nothing behind it is read here."""
    data = bytearray(tiny_png())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return data_url(bytes(data))


def question(text: str = "hi", images: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """The body of a chat request."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    parts.append({"type": "text", "text": text})
    return {"model": MODEL, "messages": [{"role": "user", "content": parts}], **changes}


class Gateway:
    """`autoglm gateway run` as a process, and its two interfaces."""

    def __init__(
        self,
        folder: Path,
        *,
        body_timeout: float = 60.0,
        drain_timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port = free_port(), free_port()
        self.token = "the shared secret"
        self.token_file = folder / "token"
        self.token_file.write_text(self.token)
        self.state_dir = folder / "state"
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self._version = 0
        program = "from autoglm_serving.gateway.commands import gateway; gateway()"
        command = [
            *(sys.executable, "-c", program, "run"),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--admin", f"127.0.0.1:{self.admin_port}"),
            *("--state-dir", str(self.state_dir)),
            *("--token-file", str(self.token_file)),
            *("--body-timeout", str(body_timeout)),
            *("--drain-timeout", str(drain_timeout)),
        ]
        # Sockets lie in the temporary folder, whose path must be short; a killed gateway leaves them, so it has its own.
        self.temporary = tempfile.mkdtemp(prefix="gw-")
        self.process = Process(
            "gateway", command, log=folder / "gateway.log", env={"TMPDIR": self.temporary, **(env or {})}
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open a client in this event loop, and start the process unless it runs already."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
        try:
            if not self.process.running:
                await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """End the process and remove what it may have left."""
        self.process.terminate()
        shutil.rmtree(self.temporary, ignore_errors=True)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Self]:
        """The gateway for one test, with an empty table. The process stays for the next."""
        await self.__aenter__()
        try:
            await self.push()
            yield self
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the client and leave the process running, for the next test."""
        if self._session is not None:
            await self._session.close()

    async def start(self) -> None:
        """Start the process and wait until Envoy is live."""
        self.process.start()
        await self.until(self._envoy_is_live, "Envoy is live")

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def until(self, condition: Any, what: str, timeout: float = DEADLINE_S) -> None:
        """Wait for an async condition while the gateway runs."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not await condition():
            assert self.process.running, f"the gateway ended before {what}:\n{self.process.log_tail()}"
            assert loop.time() < deadline, f"waited in vain until {what}:\n{self.process.log_tail()}"
            await asyncio.sleep(0.05)

    async def _envoy_is_live(self) -> bool:
        checks = await self.readiness()
        return bool(checks.get("envoy"))

    async def readiness(self) -> dict[str, bool]:
        try:
            async with self.session.get(f"{self.admin_url}/readyz") as answer:
                return dict((await answer.json())["checks"])
        except (aiohttp.ClientConnectionError, OSError):
            return {}

    async def push(self, *routes: Route) -> GatewayReport:
        """Send the next routing table, as the operator does."""
        self._version += 1
        table = RoutingTable(epoch=1, version=self._version, written_at=datetime.now(UTC), routes=routes)
        status, text = await self.put(table)
        assert status == 200, text
        return GatewayReport.model_validate_json(text)

    async def put(self, table: RoutingTable, *, key: str | None = None, token: str | None = None) -> tuple[int, str]:
        signed = sign(table, (key or self.token).encode()).model_dump_json(by_alias=True)
        return await self.admin("PUT", "/v1/routing-table", data=signed, token=token)

    async def admin(
        self, method: str, path: str, *, data: str | None = None, token: str | None = None
    ) -> tuple[int, str]:
        bearer = {"Authorization": f"Bearer {self.token if token is None else token}"}
        async with self.session.request(method, self.admin_url + path, data=data, headers=bearer) as answer:
            return answer.status, await answer.text()

    async def report(self) -> GatewayReport:
        _, text = await self.admin("GET", "/v1/report")
        return GatewayReport.model_validate_json(text)

    async def serve(self, *routes: Route, sites: int | None = None) -> None:
        """Push a table and wait until its sites (or so many of them) are admitted."""
        await self.push(*routes)
        wanted = len({(r.deployment, e.site) for r in routes for e in r.endpoints}) if sites is None else sites

        async def admitted() -> bool:
            states = [admission.state for admission in (await self.report()).admissions]
            return states.count("Admitted") >= wanted

        await self.until(admitted, f"{wanted} sites are admitted")

    async def ask(self, body: Any = None, **options: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
        """POST a chat request: status, headers, JSON."""
        data = body if isinstance(body, bytes) else json.dumps(question() if body is None else body).encode()
        async with self.session.post(f"{self.url}/v1/chat/completions", data=data, **options) as answer:
            return answer.status, dict(answer.headers), await answer.json()

    async def record(self, request_id: str) -> dict[str, Any]:
        """The decision record, once the exchange is over."""
        found: dict[str, Any] = {}

        async def ended() -> bool:
            status, text = await self.admin("GET", f"/v1/requests/{request_id}")
            found.update(json.loads(text) if status == 200 else {})
            return bool(found.get("endedS"))

        await self.until(ended, f"the record of {request_id} is complete")
        return found

    async def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        async with self.session.get(f"{self.admin_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)
