"""Clients that are slow on purpose: they cost the gateway little, are cut off, and nobody else loses an answer to them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typing_extensions import override

from support.gateway import FakeServer, Gateway, question, route
from support.processes import family, pss_bytes

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

HEADS, BODIES, READERS = 500, 500, 200
RATE = 20.0
BODY_S = 30.0
STREAM_BYTES = 512 * 1024
"""Of one streamed answer: more than sockets hold, and more than any answer of a model has."""
MEMORY_BYTES = 128 * 1024 * 1024
DEADLINE_S = 300.0
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"


class Flood(FakeServer):
    """Streams much and asks nobody whether it is read."""

    @override
    async def _client(self, request: web.Request, question: dict[str, Any]) -> web.StreamResponse:
        if not question.get("stream"):
            return await super()._client(request, question)
        answer = web.StreamResponse(headers={**self._headers(), "content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(STREAM_BYTES // 1024):
            await answer.write(b"data: " + b"x" * 1016 + b"\n\n")
        return answer


@dataclass
class Slow:
    """One connection that misbehaves; `closed` once the gateway has given it up."""

    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    received: bytes = b""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        with suppress(OSError):
            self.received = await self.reader.read()
        self.closed.set()

    async def drip(self) -> None:
        """One byte a second, for as long as somebody takes it."""
        with suppress(OSError):
            while not self.closed.is_set():
                self.writer.write(b" ")
                await self.writer.drain()
                await asyncio.sleep(1.0)


async def connected(port: int, sent: bytes, *, reads: bool = True) -> Slow:
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setblocking(False)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain)
    if not reads:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads and writes
    writer.write(sent)
    await writer.drain()
    return Slow(writer, reader)


@asynccontextmanager
async def good_traffic(gateway: Gateway) -> AsyncIterator[list[int]]:
    """Statuses of `RATE` requests a second, until the block ends."""
    statuses: list[int] = []
    ending = asyncio.Event()

    async def one() -> None:
        status, _, _ = await gateway.ask()
        statuses.append(status)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            while not ending.is_set():
                group.create_task(one())
                await asyncio.sleep(1 / RATE)

    running = asyncio.create_task(all_of_them())
    try:
        yield statuses
    finally:
        ending.set()
        await running


def resident_bytes(gateway: Gateway) -> int:
    """Of the gateway and its Envoy: what is theirs, and a share of what is shared."""
    return sum(pss_bytes(pid) for pid in family(gateway.process.pid))


async def test_twelve_hundred_slow_clients_cost_nobody_an_answer_and_are_cut_off(tmp_path: Path) -> None:
    stream = json.dumps(question(stream=True)).encode()
    whole = REQUEST + b"content-length: %d\r\n\r\n" % len(stream) + stream
    async with Gateway(tmp_path, body_timeout=BODY_S) as gateway, Flood("site") as server:
        await gateway.serve(route(server, timeout_s=20.0))
        for _ in range(20):
            assert (await gateway.ask())[0] == 200
        before = resident_bytes(gateway)
        async with good_traffic(gateway) as statuses, asyncio.TaskGroup() as group, asyncio.timeout(DEADLINE_S):
            heads = [await connected(gateway.port, REQUEST) for _ in range(HEADS)]
            bodies = [await connected(gateway.port, REQUEST + b"content-length: 5000\r\n\r\n{") for _ in range(BODIES)]
            readers = [await connected(gateway.port, whole, reads=False) for _ in range(READERS)]
            for slow in (*heads, *bodies):
                group.create_task(slow.read())
            for slow in bodies:
                group.create_task(slow.drip())
            while sum(each.body == stream for each in server.seen) < READERS:
                await asyncio.sleep(0.1)
            held = resident_bytes(gateway) - before
            for slow in (*heads, *bodies):
                await slow.closed.wait()
            answered = len(statuses)
            while len(statuses) < answered + 40:
                await asyncio.sleep(0.1)
            held = max(held, resident_bytes(gateway) - before)
            for slow in readers:
                slow.writer.transport.abort()
        assert (await gateway.ask())[0] == 200
    print(f"{len(statuses)} good requests, {held / 2**20:.0f} MiB more in the gateway")
    told = {slow.received.partition(b"\r\n")[0] for slow in (*heads, *bodies)}
    # Whoever still sends when the connection is closed may lose what was said last.
    assert told <= {b"HTTP/1.1 408 Request Timeout", b""}
    assert b"HTTP/1.1 408 Request Timeout" in told
    assert len(statuses) >= 100
    assert set(statuses) == {200}
    assert held <= MEMORY_BYTES
