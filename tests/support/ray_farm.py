"""Hundreds of simulated Ray clusters and one gateway in one process: `python -m support.ray_farm PORT GATEWAY_PORT`.

Each site is an address of its own on the loopback network with the same port: site 0 is 127.1.0.1, site 1 is 127.1.0.2, and
so on. Answers have the shape of `support.fake_ray`, which checks what it is sent by Ray's own schema; here that is left out,
since it would cost more than the operator that is measured. The tokens come from the environment.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from support.fake_gateway import FakeGateway
from support.fake_ray import APPLICATIONS, Application, details

DEPLOY_S = 0.2
_TOKEN = "FARM_TOKEN"
_GATEWAY_TOKEN = "FARM_GATEWAY_TOKEN"


def host(number: int) -> str:
    """The address of a site."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def environment(token: str, gateway_token: str) -> dict[str, str]:
    """What the process needs to be told in secret."""
    return {_TOKEN: token, _GATEWAY_TOKEN: gateway_token}


@dataclass
class Cluster:
    """One Ray cluster: its applications, and its answer for as long as nothing changes."""

    applications: dict[str, Application] = field(default_factory=dict)
    answer: bytes | None = None

    def document(self) -> bytes:
        """What GET answers. Applications that were deployed a while ago run now, deleted ones are gone."""
        if self.answer is None or self._advance():
            self.answer = self._document()
        return self.answer

    def deploy(self, configs: list[dict[str, Any]]) -> None:
        """What PUT does: the whole list of applications that shall be there."""
        self.answer = None
        wanted = {config["name"]: config for config in configs}
        for name, config in wanted.items():
            known = self.applications.get(name)
            if known is None or known.config != config:
                self.applications[name] = Application(config)
        for name in self.applications.keys() - wanted.keys():
            del self.applications[name]

    def _advance(self) -> bool:
        now, moved = time.monotonic(), False
        for application in self.applications.values():
            if application.status == "DEPLOYING" and now - application.since >= DEPLOY_S:
                application.status, moved = "RUNNING", True
        return moved

    def _document(self) -> bytes:
        if not self.applications:
            return b'{"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": null}'
        document = {
            "controller_info": {"node_id": "n1", "actor_name": "SERVE_CONTROLLER_ACTOR"},
            "proxy_location": "EveryNode",
            "http_options": {"host": "127.0.0.1", "port": 8000, "root_path": ""},
            "proxies": {},
            "target_capacity": None,
            "applications": {name: details(name, one) for name, one in self.applications.items()},
        }
        return json.dumps(document).encode()


class Farm:
    """All clusters behind one listener that takes every address of this machine."""

    def __init__(self, token: str) -> None:
        self._bearer = f"Bearer {token}"
        self._clusters: dict[str, Cluster] = {}
        self._requests: Counter[str] = Counter()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=16 * 2**20)
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

    def _cluster(self, request: web.Request) -> Cluster:
        return self._clusters.setdefault(request.host, Cluster())

    async def _get(self, request: web.Request) -> web.Response:
        return web.Response(body=self._cluster(request).document(), content_type="application/json")

    async def _put(self, request: web.Request) -> web.Response:
        self._cluster(request).deploy((await request.json())["applications"])
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "session_name": "farm"})

    async def _cluster_status(self, _: web.Request) -> web.Response:
        usage = {"CPU": [1.0, 512.0], "memory": [0.0, 512e9]}
        return web.json_response(
            {"result": True, "msg": "", "data": {"clusterStatus": {"loadMetricsReport": {"usage": usage}}}}
        )

    async def _count(self, _: web.Request) -> web.Response:
        """How often each path was asked."""
        return web.json_response(self._requests)


class PortGateway(FakeGateway):
    """The fake gateway, served by this process's own event loop."""

    async def serve(self, port: int) -> None:
        runner = web.AppRunner(self.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()


async def main(port: int, gateway_port: int) -> None:
    runner = web.AppRunner(Farm(os.environ[_TOKEN]).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    await PortGateway(os.environ[_GATEWAY_TOKEN]).serve(gateway_port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
