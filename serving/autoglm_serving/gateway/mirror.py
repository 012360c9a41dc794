"""Copies of clients' requests to a canary, and the comparison of its answers with those that the clients got.

The copy is made after the client's request is on its way. Envoy passes a copy of the client's answer to the picker without
waiting for it. So a canary that is slow, wrong or gone costs no client anything; what it costs this process is bounded:
copies under way, bytes held for them, bytes read of each answer, and time.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp

from autoglm_serving import agreement, headers, sharing
from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway import replies
from autoglm_serving.gateway.fleet import Fleet, Flight, Member
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.tallies import Tallies
from autoglm_serving.gateway.tasks import end
from autoglm_serving.routing_table import Canary, Route

_log = logging.getLogger(__name__)

MAX_HELD_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 512 * 1024
MAX_SECONDS = 120.0


@dataclass(frozen=True)
class Original:
    """A client's request that is on its way to the stable revision."""

    route: Route
    request_id: str
    body: bytes
    streams: bool
    path: str
    """Path of the interface below the application, such as /v1/chat/completions."""
    max_pixels: str | None
    work_s: float
    """Predicted seconds of work."""
    tenant: str = ""
    """Whose caches the copy uses: the client's own, as its request does."""


@dataclass
class _Pair:
    """One copy under way, and what is known of the client's own answer."""

    original: Original
    answer: "asyncio.Future[str | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Mirror:
    """Sends copies and compares. `offer` before the client's request goes out, `observe` for each copied answer."""

    def __init__(self, fleet: Fleet, tallies: Tallies, metrics: Metrics) -> None:
        self._fleet = fleet
        self._tallies = tallies
        self._metrics = metrics
        self._pairs: dict[str, _Pair] = {}
        self._under_way: Counter[str] = Counter()
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=MAX_SECONDS, sock_connect=5)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(self._tasks)
        if self._session is not None:
            await self._session.close()

    def offer(self, original: Original) -> bool:
        """Start a copy if this request is to be copied and there is room. Whether it was started."""
        route, canary = original.route, original.route.canary
        if self._session is None or canary is None or not sharing.is_mirrored(original.request_id, canary.mirror):
            return False
        member = self._canary_member(route, canary)
        if member is None:
            return False
        size = len(original.body)
        full = self._under_way[route.deployment] >= canary.mirror_concurrency
        if full or self._held_bytes + size > MAX_HELD_BYTES or original.request_id in self._pairs:
            self._skip(route, canary)
            return False
        self._under_way[route.deployment] += 1
        self._held_bytes += size
        pair = self._pairs[original.request_id] = _Pair(original)
        task = asyncio.create_task(self._carry(pair, canary, member))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._release(pair, done))
        return True

    async def observe(self, messages: AsyncIterator[envoy.ProcessingRequest]) -> None:
        """One client's answer as it passes. Nobody waits for this."""
        request_id, status, body = "", 0, bytearray()
        async for message in messages:
            match message.WhichOneof("request"):
                case "request_headers":
                    request_id = replies.header_values(message.request_headers.headers).get(headers.REQUEST_ID, "")
                case "response_headers":
                    values = replies.header_values(message.response_headers.headers)
                    status = int(values.get(":status", "0"))
                case "response_body":
                    if len(body) <= MAX_ANSWER_BYTES:
                        body += message.response_body.body
                    if message.response_body.end_of_stream:
                        break
                case _:
                    pass
        self._answered(request_id, status, bytes(body))

    def _answered(self, request_id: str, status: int, body: bytes) -> None:
        pair = self._pairs.get(request_id)
        if pair is None or pair.answer.done():
            return
        whole = status == 200 and len(body) <= MAX_ANSWER_BYTES
        pair.answer.set_result(agreement.text_of(body, streamed=pair.original.streams) if whole else None)

    def _canary_member(self, route: Route, canary: Canary) -> Member | None:
        members = [member for member in self._fleet.of(route, canary) if self._tallies.admitted(member)]
        return min(members, key=lambda member: (len(member.flights), member.endpoint.url), default=None)

    async def _carry(self, pair: _Pair, canary: Canary, member: Member) -> None:
        """Send the copy, wait for the client's answer, compare."""
        route = pair.original.route
        flight = Flight(member, pair.original.work_s)
        try:
            text = await self._ask(pair.original, canary, member)
        finally:
            flight.close()
        if text is None:
            return
        try:
            async with asyncio.timeout(MAX_SECONDS):
                mine = await pair.answer
        except TimeoutError:
            mine = None
        if mine is None:
            self._metrics.mirrored.labels(route.deployment, "no-answer-to-compare").inc()
            return
        found = agreement.difference(mine, text, canary.tolerance)
        tally = self._tallies.of(route, canary.revision)
        if tally is not None and tally.window == canary.window:
            tally.compare(same=found == "none")
        self._metrics.mirrored.labels(route.deployment, "same" if found == "none" else f"other-{found}").inc()

    async def _ask(self, original: Original, canary: Canary, member: Member) -> str | None:
        """The canary's answer; None if it failed, which counts as an error of the canary."""
        started = time.monotonic()
        ttft_s: float | None = None
        text: str | None = None
        try:
            assert self._session is not None
            async with self._session.post(
                f"http://{member.address}{member.path}{original.path}",
                data=original.body,
                headers=self._headers(original),
                allow_redirects=False,
            ) as answer:
                ttft_s = time.monotonic() - started
                body = await _bounded(answer)
                if answer.status == 200 and answer.headers.get(headers.REVISION) == canary.revision:
                    text = agreement.text_of(body, streamed=original.streams)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.info("a copy of a request failed at %s: %s", member.address, type(error).__name__)
        tally = self._tallies.of(original.route, canary.revision)
        if tally is not None and tally.window == canary.window:
            tally.ended(mirrored=True, failed=text is None, ttft_s=ttft_s, total_s=time.monotonic() - started)
        if text is None:
            self._metrics.mirrored.labels(original.route.deployment, "failed").inc()
        return text

    @staticmethod
    def _headers(original: Original) -> dict[str, str]:
        values = {"content-type": "application/json", headers.REQUEST_ID: f"{original.request_id}-copy"}
        if original.max_pixels is not None:
            values[headers.MAX_PIXELS] = original.max_pixels
        if original.tenant:
            values[headers.TENANT] = original.tenant
        return values

    def _skip(self, route: Route, canary: Canary) -> None:
        tally = self._tallies.of(route, canary.revision)
        if tally is not None:
            tally.skipped += 1
        self._metrics.mirrored.labels(route.deployment, "skipped").inc()

    def _release(self, pair: _Pair, task: "asyncio.Task[None]") -> None:
        original = pair.original
        self._tasks.discard(task)
        self._pairs.pop(original.request_id, None)
        self._under_way[original.route.deployment] -= 1
        self._held_bytes -= len(original.body)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a copy of a request failed unexpectedly: %r", error)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    """The whole answer, up to the bound; a longer one is cut, and then not read as an answer."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body)
