"""One fake site with two applications on one address, as Ray Serve has them: the stable revision and a canary."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from autoglm_serving import headers
from autoglm_serving.routing_table import Canary, Endpoint, Route
from support.gateway import DEPLOYMENT, PREFIX, route
from support.ports import free_port

TAP = 'I see it. do(action="Tap", element=[500,200])'
CANARY_PREFIX = f"{PREFIX}.r2"


@dataclass
class Application:
    """One revision. `reply` makes its answer from the question; `status` other than 200 fails; `hangs` never answers."""

    revision: str
    reply: Callable[[str], str] = lambda _: TAP
    status: int = 200
    hangs: bool = False
    answers_probes: bool = True
    seen: list[str] = field(default_factory=list)
    """The texts that it was asked."""
    request_ids: list[str] = field(default_factory=list)


@dataclass
class TwoRevisions:
    """The site. Both applications are at one address and differ by path."""

    stable: Application = field(default_factory=lambda: Application("r1"))
    canary: Application = field(default_factory=lambda: Application("r2"))
    port: int = field(default_factory=free_port)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix, one in ((PREFIX, self.stable), (CANARY_PREFIX, self.canary)):
            app.router.add_post(f"{prefix}/v1/chat/completions", partial(self._handle, one))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def route(self, **canary: Any) -> Route:
        """A route to the stable revision with this canary beside it."""
        there = Endpoint(site="site", url=self._url(CANARY_PREFIX), revision="r2")
        values = {"revision": "r2", "endpoints": (there,), "window": "w1", **canary}
        endpoint = Endpoint(site="site", url=self._url(PREFIX), revision="r1")
        return route(deployment=DEPLOYMENT, endpoints=(endpoint,), canary=Canary(**values))

    def _url(self, prefix: str) -> str:
        return f"http://127.0.0.1:{self.port}{prefix}"

    async def _handle(self, app: Application, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        named = {headers.REVISION: app.revision}
        if question.get("max_tokens") == 1:
            return web.json_response({"choices": []}, status=200 if app.answers_probes else 500, headers=named)
        text = question["messages"][0]["content"][-1]["text"]
        app.seen.append(text)
        app.request_ids.append(request.headers.get("X-Request-ID", ""))
        if app.hangs:
            await self.released.wait()
        if app.status != 200:
            return web.json_response({"error": {"message": "no", "code": "x"}}, status=app.status, headers=named)
        if question.get("stream"):
            return await self._stream(request, app.reply(text), named)
        message = {"role": "assistant", "content": app.reply(text)}
        return web.json_response({"choices": [{"index": 0, "message": message}]}, headers=named)

    async def _stream(self, request: web.Request, text: str, named: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={**named, "content-type": "text/event-stream"})
        await response.prepare(request)
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": part}}]})
            await response.write(f"data: {chunk}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response
