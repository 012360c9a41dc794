"""Probes of endpoints: a real generation, because a server that answers its health page may still not generate.

One task for each endpoint. Successful traffic counts as a probe, so that a busy endpoint is seldom probed.
"""

import asyncio
import base64
import logging
import random
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp

from autoglm_serving import headers
from autoglm_serving.gateway import health
from autoglm_serving.gateway.dispatch import CHAT
from autoglm_serving.gateway.fleet import Fleet, Member, best_ip, join, locate
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.tasks import end

_log = logging.getLogger(__name__)

PROBE_SECONDS = 60.0
RESOLVE_SECONDS = 5.0
_TICK_SECONDS = 0.25
_MAX_ANSWER_BYTES = 65536


def tiny_png(side: int = 28) -> bytes:
    """A white image of one image token, as PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\x00" + b"\xff" * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


_IMAGE = "data:image/png;base64," + base64.b64encode(tiny_png()).decode()


@dataclass(frozen=True)
class _Failed(Exception):
    message: str
    busy: bool = False


class Prober:
    """Keeps one probing task for each member of the fleet."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._tasks: dict[tuple[str, str], tuple[Member, asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS, sock_connect=5)
        # A new connection each time: a probe must not depend on one that the server kept open.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        await end(tasks)
        if self._session is not None:
            await self._session.close()

    def sync(self) -> None:
        """Follow the fleet: start tasks for new members, end those of members that are gone."""
        for key, (member, task) in list(self._tasks.items()):
            if not self._fleet.is_current(member):
                task.cancel()
                del self._tasks[key]
            elif task.done():
                _log.error("the probing of %s ended: it begins anew", member.endpoint.url)
                del self._tasks[key]
        for member in self._fleet.members:
            if member.key not in self._tasks:
                self._tasks[member.key] = (member, asyncio.create_task(self._watch(member)))

    async def _watch(self, member: Member) -> None:
        while True:
            await self._probe(member)
            wanted = member.wanted
            # Traffic moves the health too: it puts the next probe off, or calls for it when requests fail.
            while member.wanted == wanted and _seconds_since(member.health.observed_at) < _due_in(member):  # noqa: ASYNC110
                await asyncio.sleep(_TICK_SECONDS)

    async def _probe(self, member: Member) -> None:
        site = member.endpoint.site
        try:
            (revision, variant), seconds = await self._generate(member)
        except _Failed as failure:
            if failure.busy and member.health.answers:
                member.health = health.busy(member.health, datetime.now(UTC))
            else:
                member.health = _probe_failed(member, failure.message)
            self._metrics.probes.labels(site, "failed").inc()
            return
        except Exception:  # noqa: BLE001 - one endpoint's surprise must not end its probing
            _log.exception("the probe of %s failed unexpectedly", member.endpoint.url)
            member.health = _probe_failed(member, "the probe failed unexpectedly")
            return
        at = datetime.now(UTC)
        member.health = health.answered(member.health, revision, member.wanted, seconds, at, variant)
        self._metrics.probes.labels(site, "answered").inc()

    async def _generate(self, member: Member) -> tuple[tuple[str, str], float]:
        """One generation. Returns the revision and the variant that answered, and the seconds it took."""
        location = locate(member.endpoint.url)
        if isinstance(location, str):
            raise _Failed(location)
        address = await self._resolve(location.host, location.port)
        self._fleet.set_address(member, address)
        assert self._session is not None
        started = time.monotonic()
        try:
            async with self._session.post(
                f"http://{address}{location.path}{CHAT}", json=_question(self._model(member)), allow_redirects=False
            ) as answer:
                await answer.content.read(_MAX_ANSWER_BYTES)
                return _judge(answer), time.monotonic() - started
        except TimeoutError as error:
            raise _Failed(f"no answer within {PROBE_SECONDS:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(f"cannot be reached at {address}: {type(error).__name__}") from error

    def _model(self, member: Member) -> str:
        routes = self._fleet.table.routes if self._fleet.table else ()
        return next((route.model for route in routes if route.deployment == member.deployment), "")

    async def _resolve(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise _Failed(f"the host name {host!r} cannot be resolved") from error
        ip = best_ip(str(entry[4][0]) for entry in found)
        if ip is None:
            raise _Failed(f"the host name {host!r} has no address")
        return join(ip, port)


def _question(model: str) -> dict[str, object]:
    content = [{"type": "image_url", "image_url": {"url": _IMAGE}}, {"type": "text", "text": "."}]
    return {"model": model, "max_tokens": 1, "temperature": 0, "messages": [{"role": "user", "content": content}]}


def _judge(answer: aiohttp.ClientResponse) -> tuple[str, str]:
    """The revision and the variant of a good answer. Raises _Failed."""
    revision = answer.headers.get(headers.REVISION, "")
    if answer.status == 200:
        return revision, answer.headers.get(headers.VARIANT, "")
    if answer.status == 503 and "retry-after" in answer.headers and revision:
        raise _Failed("busy: it answers 503 with Retry-After", busy=True)
    raise _Failed(f"a generation was answered with status {answer.status}")


def _probe_failed(member: Member, message: str) -> health.Health:
    return health.probe_failed(member.health, message, datetime.now(UTC), time.monotonic())


def _due_in(member: Member) -> float:
    """Seconds after the last news; spread a little, so that gateways do not probe in step."""
    return health.probe_delay(member.health) * random.uniform(0.9, 1.1)


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
