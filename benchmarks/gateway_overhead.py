"""What the gateway costs over a bare Envoy: the same clients, bodies and upstream, in turns in one run.

The upstream reads the whole request and answers at once, so everything measured is the way there and back. Clients, both
proxies and the upstream share the machine's cores.
"""

import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from benchmarks.machine import describe, table

from autoglm_serving.gateway.envoy_process import envoy_program
from autoglm_serving.routing_table import Endpoint, Route
from support.gateway import DEPLOYMENT, MODEL, PREFIX, REVISION, Gateway
from support.pictures import png_header
from support.ports import free_port
from support.processes import Process

CONNECTIONS = 16
ROUNDS = 3
SECONDS = 4.0
SINGLE = 150
LARGE_BYTES = 1_200_000


class Upstream(asyncio.Protocol):
    """Reads whole requests with a content length or in chunks; answers each at once."""

    def __init__(self) -> None:
        self.data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while self._whole():
            self.transport.write(ANSWER)  # type: ignore[attr-defined]

    def _whole(self) -> bool:
        head = self.data.find(b"\r\n\r\n")
        if head < 0:
            return False
        headers = bytes(self.data[:head]).lower()
        if b"transfer-encoding: chunked" in headers:
            end = self.data.find(b"0\r\n\r\n", head)
            if end < 0:
                return False
            del self.data[: end + 5]
            return True
        length = 0
        if b"content-length:" in headers:
            length = int(headers.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(self.data) < head + 4 + length:
            return False
        del self.data[: head + 4 + length]
        return True


def _answer() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "do"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-autoglm-revision: {REVISION}\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWER = _answer()


def request(path: str, image_bytes: int) -> bytes:
    """One POST with a picture of so many bytes; only its header is a picture."""
    image = png_header(1080, 2400)
    image += b"\0" * max(0, image_bytes - len(image))
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Open the settings."}]
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    await reader.readexactly(length)


async def one_after_the_other(port: int, data: bytes, count: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await exchange(reader, writer, data)
        times.append(time.perf_counter() - begun)
    writer.close()
    return times


async def side_by_side(port: int, data: bytes) -> float:
    """Requests a second over all connections."""
    end = time.perf_counter() + SECONDS
    done = 0

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            await exchange(reader, writer, data)
            done += 1
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return done / (time.perf_counter() - begun)


@dataclass
class Figures:
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        self.times.sort()
        p50, p99 = statistics.median(self.times), self.times[int(len(self.times) * 0.99)]
        rates = f"{statistics.median(self.rates):.0f} ({min(self.rates):.0f}-{max(self.rates):.0f})"
        return [f"{p50 * 1000:.2f} ms", f"{p99 * 1000:.2f} ms", rates]


@contextmanager
def bare_envoy(folder: Path, upstream_port: int) -> Iterator[int]:
    """Envoy as a plain proxy with one route, and as many workers as the gateway's."""
    port = free_port()
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "envoy.extensions.filters.http.router.v3.Router"
    address = {"socket_address": {"address": "127.0.0.1", "port_value": upstream_port}}
    manager = {
        "@type": f"type.googleapis.com/{http}",
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"type.googleapis.com/{router}"}}],
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "up",
                    "load_assignment": {
                        "cluster_name": "up",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
                    },
                }
            ],
        }
    }
    path = folder / "bare.json"
    path.write_text(json.dumps(config))
    workers = str(min(4, os.cpu_count() or 1))
    command = [
        str(envoy_program()),
        "-c",
        str(path),
        "--concurrency",
        workers,
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ]
    with Process("bare envoy", command, log=folder / "bare.log") as process:
        process.wait_for(lambda: _listens(port), "it listens")
        yield port


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def measure(folder: Path, upstream_port: int, bare: int) -> list[list[str]]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(folder / "gateway"))
        endpoint = Endpoint(
            site="bench", url=f"http://127.0.0.1:{upstream_port}{PREFIX}", revision=REVISION,
            tier="cloud", bandwidth_bps=None, rtt_s=None, price=0.0,
        )  # fmt: skip
        await gateway.serve(route(endpoint))
        rows = []
        for title, size in (("0.4 KB", 0), ("1.2 MB", LARGE_BYTES * 3 // 4)):
            figures = {"bare Envoy": (bare, Figures()), "gateway": (gateway.port, Figures())}
            data = request("/v1/chat/completions", size)
            for _ in range(ROUNDS):
                for port, found in figures.values():
                    await one_after_the_other(port, data, 10)
                    found.times += await one_after_the_other(port, data, SINGLE)
                    found.rates.append(await side_by_side(port, data))
            rows += [[title, name, *found.row()] for name, (_, found) in figures.items()]
        return rows


def route(endpoint: Endpoint) -> Route:
    return Route.model_validate(
        {
            "deployment": DEPLOYMENT,
            "model": MODEL,
            "uid": "bench",
            "revision": REVISION,
            "endpoints": [endpoint.model_dump()],
            "policy": "leastWork",
            "ttft_target_s": None,
            "timeout_s": 60.0,
            "retries": 1,
            "limits": {},
            "resolution": {"mode": "fixed", "min_short_side": 480, "max_short_side": 1080, "alpha": 0.6},
        }
    )


async def upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["--upstream"]:
        uvloop.run(upstream(int(sys.argv[2])))
        return
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, "--upstream", str(port)]
        with Process("upstream", command, log=folder / "upstream.log", env=environment) as process:
            process.wait_for(lambda: _listens(port), "it listens")
            with bare_envoy(folder, port) as bare:
                rows = uvloop.run(measure(folder, port, bare))
    print(
        f"{machine}; {ROUNDS} rounds in turns: {SINGLE} requests one by one,"
        f" then {SECONDS:g} s over {CONNECTIONS} connections\n"
    )
    columns = ["request", "through", "p50, one client", "p99, one client", f"requests/s, {CONNECTIONS} clients (range)"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
