"""A proxy between an operator and the API server that refuses calls, delays them, or lets watches fall silent.

The operator talks plain HTTP to it; the proxy talks to the API server as it must, and passes the operator's token on.
"""

import asyncio
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from typing_extensions import override

from support.kubernetes import ControlPlane
from support.threaded_server import ThreadedServer

_HOP = frozenset({"connection", "content-length", "content-encoding", "host", "keep-alive", "transfer-encoding"})


@dataclass
class Refusal:
    """The next `left` requests of a method to paths with `part` in them are answered with `status`."""

    status: int
    method: str
    part: str
    left: int
    done: int = 0
    after: bool = False
    """The API server carries the request out, and its answer is replaced."""


class ApiProxy(ThreadedServer):
    """Attributes may be changed while it runs."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__()
        self._plane = plane
        self._lock = threading.Lock()
        self._refusals: list[Refusal] = []
        self._deaf = 0
        self.watches: Counter[str] = Counter()
        """Watches that were opened, by the path."""
        self.requests: Counter[str] = Counter()
        """Requests by method."""

    def kubeconfig(self, directory: Path, original: Path) -> Path:
        """The same user, reaching the API server through this proxy."""
        config = yaml.safe_load(original.read_text())
        config["clusters"][0]["cluster"] = {"server": self.url}
        path = directory / "proxied.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def refuse(self, status: int, method: str, part: str = "", *, times: int = 1, after: bool = False) -> Refusal:
        """Answer so many of the matching requests with this status."""
        refusal = Refusal(status, method, part, times, after=after)
        with self._lock:
            self._refusals.append(refusal)
        return refusal

    def silence_watches(self) -> None:
        """The watches that are open now stay open and say nothing any more."""
        self._deaf += 1

    @override
    def application(self) -> web.Application:
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._pass_on)
        return application

    def _refusal(self, request: web.Request) -> Refusal | None:
        with self._lock:
            for refusal in self._refusals:
                if refusal.left > 0 and refusal.method == request.method and refusal.part in request.path_qs:
                    refusal.left -= 1
                    refusal.done += 1
                    return refusal
        return None

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.method] += 1
        refusal = self._refusal(request)
        if refusal is not None and not refusal.after:
            return _refused(refusal.status)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        tls = ssl.create_default_context(cafile=str(self._plane.ca_file))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.request(
                    request.method,
                    self._plane.url + request.raw_path,
                    headers=headers,
                    data=await request.read() or None,
                    ssl=tls,
                ) as answer,
            ):
                if refusal is not None:
                    await answer.read()
                    return _refused(refusal.status)
                return await self._stream(request, answer)
        except (aiohttp.ClientError, OSError):
            return _refused(502)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in _HOP - {"content-encoding"}
        }
        response = web.StreamResponse(status=answer.status, headers=kept)
        watching = "watch" in request.query
        heard = self._deaf
        if watching:
            self.watches[request.path] += 1
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            if watching and heard != self._deaf:
                await asyncio.sleep(3600)
            await response.write(chunk)
        await response.write_eof()
        return response


def _refused(status: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "injected by a test"}
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.Response(status=status, text=json.dumps(body), headers=headers, content_type="application/json")
