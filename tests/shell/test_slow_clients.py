"""Clients that are slow on purpose: they cost the gateway little, are cut off, and nobody else loses an answer to them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from typing_extensions import override

from autoglm_serving.gateway.envoy_config import UNREAD_SECONDS
from support.gateway import FakeServer, Gateway, question, route
from support.processes import family, pss_bytes

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

HEADS, BODIES, READERS, SHUT = 500, 500, 200, 20
RATE = 20.0
BODY_S = 30.0
STREAM_BYTES = 512 * 1024
"""Of one streamed answer: more than sockets hold, and more than any answer of a model has."""
UNREAD_MOST_S = 200.0
"""Until the last that reads nothing is cut off: 60 s, and what a busy machine adds. Without that it would be 300 s and more."""
LONG_S = UNREAD_SECONDS + 15.0
MEMORY_BYTES = 128 * 1024 * 1024
DEADLINE_S = 300.0
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"


class Flood(FakeServer):
    """Streams much and asks nobody whether it is read; with `seconds` in the question, a little for so long."""

    @override
    async def _client(self, request: web.Request, question: dict[str, Any]) -> web.StreamResponse:
        if not question.get("stream"):
            return await super()._client(request, question)
        answer = web.StreamResponse(headers={**self._headers(), "content-type": "text/event-stream"})
        await answer.prepare(request)
        if seconds := question.get("seconds"):
            for _ in range(3):
                await asyncio.sleep(seconds / 3)
                await answer.write(b"data: x\n\n")
            return answer
        for _ in range(STREAM_BYTES // 1024):
            await answer.write(b"data: " + b"x" * 1016 + b"\n\n")
        return answer


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def shut(body: bytes) -> bytes:
    """The same request by HTTP/2, from a client whose window is shut: it reads the connection and takes no answer."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":authority": b"gateway",
        b":path": b"/v1/chat/completions",
        b"content-type": b"application/json",
    }
    named = [b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields.items()]
    window = (4).to_bytes(2) + (0).to_bytes(4)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, window)
    return preface + frame(1, 4, 1, b"".join(named)) + frame(0, 1, 1, body)


async def reset(slow: "Slow") -> bool:
    """Whether the gateway gives up the one stream of an HTTP/2 client, rather than the client's deadline passing."""
    while True:
        head = await slow.reader.readexactly(9)
        payload = await slow.reader.readexactly(int.from_bytes(head[:3]))
        assert head[3] != 0 or not payload, "nothing of the answer is sent while the window is shut"
        if head[3] == 3:
            return True


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


async def read_slowly(gateway: Gateway) -> bytes:
    """A long answer, most of which is silence, to a client that takes it."""
    body = json.dumps(question(stream=True, seconds=LONG_S)).encode()
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", data=body) as answer:
        assert answer.status == 200
        return await answer.read()


def connections(gateway: Gateway, clients: Sequence[Slow]) -> int:
    """How many of the clients the gateway's side is still connected to."""
    ports = {each.writer.get_extra_info("sockname")[1] for each in clients}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [[int(end.partition(":")[2], 16) for end in line[1:3]] for line in lines]
    return sum(local == gateway.port and remote in ports for local, remote in ends)


async def active_connections(gateway: Gateway) -> int:
    """As Envoy counts them."""
    (admin,) = Path(gateway.temporary).rglob("envoy.sock")
    url = "http://envoy/stats?format=json&filter=^http\\.openai\\.downstream_cx_active$"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as session,
        session.get(url) as answer,
    ):
        (stat,) = (await answer.json())["stats"]
        return int(stat["value"])


def resident_bytes(gateway: Gateway) -> int:
    """Of the gateway and its Envoy: what is theirs, and a share of what is shared."""
    return sum(pss_bytes(pid) for pid in family(gateway.process.pid))


async def test_twelve_hundred_slow_clients_cost_nobody_an_answer_and_are_cut_off(tmp_path: Path) -> None:
    stream = json.dumps(question(stream=True)).encode()
    whole = REQUEST + b"content-length: %d\r\n\r\n" % len(stream) + stream
    loop = asyncio.get_running_loop()
    async with Gateway(tmp_path, body_timeout=BODY_S) as gateway, Flood("site") as server:
        await gateway.serve(route(server, timeout_s=LONG_S + 60))
        for _ in range(20):
            assert (await gateway.ask())[0] == 200
        before = resident_bytes(gateway)
        async with good_traffic(gateway) as statuses, asyncio.TaskGroup() as group, asyncio.timeout(DEADLINE_S):
            heads = [await connected(gateway.port, REQUEST) for _ in range(HEADS)]
            bodies = [await connected(gateway.port, REQUEST + b"content-length: 5000\r\n\r\n{") for _ in range(BODIES)]
            readers = [await connected(gateway.port, whole, reads=False) for _ in range(READERS)]
            shuts = [await connected(gateway.port, shut(stream)) for _ in range(SHUT)]
            given_up = [group.create_task(reset(each)) for each in shuts]
            long = group.create_task(read_slowly(gateway))
            for slow in (*heads, *bodies):
                group.create_task(slow.read())
            for slow in bodies:
                group.create_task(slow.drip())
            while sum(each.body == stream for each in server.seen) < READERS + SHUT:
                await asyncio.sleep(0.1)
            asked = loop.time()
            assert connections(gateway, readers) == READERS
            held = resident_bytes(gateway) - before
            for slow in (*heads, *bodies):
                await slow.closed.wait()
            answered = len(statuses)
            while len(statuses) < answered + 40:
                await asyncio.sleep(0.1)
            held = max(held, resident_bytes(gateway) - before)
            while connections(gateway, readers):
                await asyncio.sleep(0.1)
            assert all([await each for each in given_up])
            unread_s = loop.time() - asked
            assert await long == b"data: x\n\n" * 3, "an answer that is read takes as long as it takes"
            assert await active_connections(gateway) < READERS / 2
            for slow in (*readers, *shuts):
                slow.writer.transport.abort()
        assert (await gateway.ask())[0] == 200
    print(f"{len(statuses)} good requests, {held / 2**20:.0f} MiB more in the gateway, unread answers {unread_s:.0f} s")
    assert unread_s <= UNREAD_MOST_S
    told = {slow.received.partition(b"\r\n")[0] for slow in (*heads, *bodies)}
    # Whoever still sends when the connection is closed may lose what was said last.
    assert told <= {b"HTTP/1.1 408 Request Timeout", b""}
    assert b"HTTP/1.1 408 Request Timeout" in told
    assert len(statuses) >= 100
    assert set(statuses) == {200}
    assert held <= MEMORY_BYTES
