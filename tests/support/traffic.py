"""Steady traffic in the background of a test, with an account of every request."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from autoglm_serving.headers import REVISION, SESSION
from support.pictures import data_url, picture

TIMEOUT_S = 120.0


def small_question(model: str, tokens: int = 4) -> dict[str, Any]:
    """A request with a small picture, cheap enough for a steady rate on two cores."""
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(picture(56, 112))}},
        {"type": "text", "text": "Open the settings."},
    ]
    return {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": tokens}


@dataclass(frozen=True)
class Outcome:
    """What became of one request. `failed` are the attempts that were sent and got no answer."""

    begun: float
    ended: float
    status: int
    failed: tuple[str, ...]
    detail: str
    session: str = ""
    revision: str = ""
    """Which revision gave the answer, as the gateway says."""
    text: str = ""
    """The answer."""

    @property
    def answered(self) -> bool:
        """A whole answer with content."""
        return self.status == 200


@dataclass(frozen=True)
class Account:
    """All requests of one run. Every request that was sent is in it: answered or lost."""

    outcomes: tuple[Outcome, ...]

    @property
    def lost(self) -> tuple[Outcome, ...]:
        """Requests that got no whole answer."""
        return tuple(each for each in self.outcomes if not each.answered)

    @property
    def failed_attempts(self) -> tuple[str, ...]:
        """Attempts that were under way and got no answer, whether or not the client then tried again."""
        return tuple(attempt for each in self.outcomes for attempt in each.failed)

    def between(self, begin: float, end: float) -> "Account":
        """The requests that were sent in a span of `time.monotonic`."""
        return Account(tuple(each for each in self.outcomes if begin <= each.begun <= end))

    def expect_none_lost(self, minimum: int) -> None:
        """Fails when too few were sent to mean anything, or when one was lost."""
        print(f"sent {len(self.outcomes)}, answered {len(self.outcomes) - len(self.lost)}, lost {len(self.lost)}")
        assert len(self.outcomes) >= minimum, f"only {len(self.outcomes)} requests were sent, wanted {minimum}"
        assert not self.lost, (
            f"{len(self.lost)} of {len(self.outcomes)} lost: {[each.detail for each in self.lost[:5]]}"
        )


@dataclass
class Traffic:
    """`rate` requests a second, however slow the answers are, until the block ends; then every one is waited for.

    A gateway that refuses the connection is passed over for the next one, as a load balancer does. A request that was sent
    and failed is sent again at most `retries` times. `sessions` clients take turns; with none there is no name of a session.
    With `most` there are at most so many requests under way: a slow machine is asked less often.
    """

    urls: Sequence[str]
    body: dict[str, Any]
    rate: float = 5.0
    retries: int = 0
    sessions: int = 0
    most: int = 0
    _outcomes: list[Outcome] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        assert self._thread is not None
        self._thread.join(TIMEOUT_S * (2 + self.retries))
        assert not self._thread.is_alive(), "the traffic ends"
        if self._error is not None and error is None:
            raise self._error

    @property
    def account(self) -> Account:
        """What ended so far; everything, once the block has ended."""
        return Account(tuple(self._outcomes))

    def wait_answered(self, count: int, deadline_s: float = 180.0) -> None:
        """Wait until so many more requests were answered."""
        wanted = sum(each.answered for each in self.account.outcomes) + count
        end = time.monotonic() + deadline_s
        while sum(each.answered for each in self.account.outcomes) < wanted:
            assert self._error is None, self._error
            assert time.monotonic() < end, f"waited in vain for {count} answers; lost: {self.account.lost[-3:]}"
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            asyncio.run(self._drive())
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self._error = error

    async def _drive(self) -> None:
        data = json.dumps(self.body).encode()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        loop = asyncio.get_running_loop()
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session,
            asyncio.TaskGroup() as group,
        ):
            begun, number, under_way = loop.time(), 0, set[asyncio.Task[None]]()
            while not self._ending.is_set():
                if 0 < self.most <= len(under_way):
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                task = group.create_task(self._send(session, data, number))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                number += 1
                await asyncio.sleep(max(0.0, begun + number / self.rate - loop.time()))

    async def _send(self, session: aiohttp.ClientSession, data: bytes, number: int) -> None:
        begun = time.monotonic()
        client = f"session-{number % self.sessions}" if self.sessions else ""
        failed: list[str] = []
        said = _Said(0, "")
        while len(failed) <= self.retries:
            said = await self._attempt(session, data, number + len(failed), client)
            if said.status == 200:
                break
            failed.append(said.detail)
        self._outcomes.append(
            Outcome(begun, time.monotonic(), said.status, tuple(failed), said.detail, client, said.revision, said.text)
        )

    async def _attempt(self, session: aiohttp.ClientSession, data: bytes, number: int, client: str) -> "_Said":
        """One request to the next gateway that accepts a connection: status (0 for a broken one) and what was said."""
        refused = ""
        headers = {"content-type": "application/json", **({SESSION: client} if client else {})}
        for offset in range(len(self.urls)):
            url = self.urls[(number + offset) % len(self.urls)]
            try:
                async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as answer:
                    text = await answer.text()
                    detail = f"{answer.status} by {url}: {text[:300]}"
                    return _judge(answer.status, text, detail, answer.headers.get(REVISION, ""))
            except aiohttp.ClientConnectorError as error:
                refused = f"{url}: {error}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                return _Said(0, f"{url}: {type(error).__name__} {error}")
        return _Said(0, refused)


@dataclass(frozen=True)
class _Said:
    """What one attempt came to."""

    status: int
    detail: str
    revision: str = ""
    text: str = ""


def _judge(status: int, text: str, detail: str, revision: str) -> _Said:
    """200 only for a whole answer."""
    if status != 200:
        return _Said(status, detail, revision)
    try:
        choice = json.loads(text)["choices"][0]
        whole = choice["finish_reason"] in ("stop", "length")
        return _Said(200 if whole else 0, detail, revision, choice["message"]["content"])
    except (ValueError, KeyError, IndexError):
        return _Said(0, detail, revision)
