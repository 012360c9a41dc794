"""Hundreds of simulated Ray clusters in one process, and one gateway in another.

`python -m support.ray_farm clusters PORT PROXY_PORT` and `python -m support.ray_farm gateway PORT`. They are two, as real ones
are, since a gateway that reads a table of a thousand routes would else keep every cluster waiting.

Each site is an address of its own on the loopback network with the same port: site 0 is 127.1.0.1, site 1 is 127.1.0.2, and
so on. Clusters that are known by a name that nothing here resolves, as KubeRay knows its own, are asked by the third port as
an HTTP proxy; they take no token. Answers have the shape of `support.fake_ray`, which checks what it is sent by Ray's schema;
here that is left out, since it would cost more than the operator that is measured. The tokens come from the environment.
"""

import asyncio
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from typing_extensions import override

from support.fake_gateway import FakeGateway
from support.fake_ray import APPLICATIONS
from support.ports import free_port
from support.processes import Process
from support.ray_model import RayModel, cluster_status

_TOKEN = "FARM_TOKEN"
_GATEWAY_TOKEN = "FARM_GATEWAY_TOKEN"


def host(number: int) -> str:
    """The address of a site."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass(frozen=True)
class Ports:
    """Where a farm listens, and what it wants to be told."""

    clusters: int = field(default_factory=free_port)
    gateway: int = field(default_factory=free_port)
    proxy: int = field(default_factory=free_port)
    token: str = field(default_factory=secrets.token_hex)
    gateway_token: str = field(default_factory=secrets.token_hex)

    @contextmanager
    def running(self, folder: Path) -> Iterator[None]:
        """The farm, until the block ends."""
        with (
            self._process(folder, "clusters", self.clusters, self.proxy),
            self._process(folder, "gateway", self.gateway),
        ):
            yield

    def _process(self, folder: Path, what: str, *ports: int) -> Process:
        told = {_TOKEN: self.token, _GATEWAY_TOKEN: self.gateway_token, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "support.ray_farm", what, *map(str, ports)]
        return Process(what, command, log=folder / f"farm-{what}.log", env=told)


class Farm:
    """All clusters behind one listener that takes every address of this machine."""

    def __init__(self, token: str) -> None:
        self._bearer = f"Bearer {token}"
        self._clusters: dict[str, RayModel] = {}
        self._requests: Counter[str] = Counter()
        self._looks: Counter[str] = Counter()

    def application(self) -> web.Application:
        """What the addresses of the clusters answer."""
        return self._routes(web.Application(middlewares=[self._guard], client_max_size=16 * 2**20))

    def proxy(self) -> web.Application:
        """What answers for clusters that are known by name: requests name the host that they are meant for."""
        application = self._routes(web.Application(client_max_size=16 * 2**20))
        application.router.add_get("/-/healthz", self._healthy)
        application.router.add_get("/farm/looks", self._told_looks)
        return application

    def _routes(self, application: web.Application) -> web.Application:
        application.router.add_get(APPLICATIONS, self._get)
        application.router.add_put(APPLICATIONS, self._put)
        application.router.add_get("/api/version", self._version)
        application.router.add_get("/api/cluster_status", self._cluster_status)
        application.router.add_get("/farm/requests", self._count)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self._requests[f"{request.method} {request.path}"] += 1
        given = request.headers.get("Authorization")
        if given != self._bearer and request.path != "/farm/requests":
            return web.Response(status=403 if given else 401, text="Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    def _cluster(self, request: web.Request) -> RayModel:
        return self._clusters.setdefault(request.host, RayModel(time.monotonic))

    async def _get(self, request: web.Request) -> web.Response:
        self._looks[request.host] += 1
        return web.Response(body=self._cluster(request).get(), content_type="application/json")

    async def _put(self, request: web.Request) -> web.Response:
        self._cluster(request).put((await request.json())["applications"])
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "session_name": "farm"})

    async def _cluster_status(self, _: web.Request) -> web.Response:
        return web.json_response(cluster_status())

    async def _healthy(self, _: web.Request) -> web.Response:
        """What Serve's proxy says of itself."""
        return web.Response(text="success")

    async def _told_looks(self, _: web.Request) -> web.Response:
        """How often the applications of each cluster were read."""
        return web.json_response(self._looks)

    async def _count(self, _: web.Request) -> web.Response:
        """How often each path was asked."""
        return web.json_response(self._requests)


class PortGateway(FakeGateway):
    """The fake gateway, served by this process's own event loop."""

    @override
    def application(self) -> web.Application:
        application = super().application()
        application.router.add_get("/farm/epoch", self._told_epoch)
        return application

    async def _told_epoch(self, _: web.Request) -> web.Response:
        """The epoch of the table, without the work that a report of thousands of endpoints is."""
        return web.json_response(self.table.epoch if self.table else 0)


async def clusters(port: int, proxy_port: int) -> None:
    """All clusters, until the process ends."""
    farm = Farm(os.environ[_TOKEN])
    await _listen(farm.application(), "0.0.0.0", port)
    await _listen(farm.proxy(), "127.0.0.1", proxy_port)
    await asyncio.Event().wait()


async def gateway(port: int) -> None:
    """The gateway, until the process ends."""
    await _listen(PortGateway(os.environ[_GATEWAY_TOKEN]).application(), "127.0.0.1", port)
    await asyncio.Event().wait()


async def _listen(application: web.Application, address: str, port: int) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()


if __name__ == "__main__":
    what, *listened = sys.argv[1:]
    asyncio.run((clusters if what == "clusters" else gateway)(*map(int, listened)))
