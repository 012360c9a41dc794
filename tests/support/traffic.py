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
    and failed is sent again at most `retries` times.
    """

    urls: Sequence[str]
    body: dict[str, Any]
    rate: float = 5.0
    retries: int = 0
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
            begun, number = loop.time(), 0
            while not self._ending.is_set():
                group.create_task(self._send(session, data, number))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / self.rate - loop.time()))

    async def _send(self, session: aiohttp.ClientSession, data: bytes, number: int) -> None:
        begun = time.monotonic()
        failed: list[str] = []
        status, detail = 0, ""
        while len(failed) <= self.retries:
            status, detail = await self._attempt(session, data, number + len(failed))
            if status == 200:
                break
            failed.append(detail)
        self._outcomes.append(Outcome(begun, time.monotonic(), status, tuple(failed), detail))

    async def _attempt(self, session: aiohttp.ClientSession, data: bytes, number: int) -> tuple[int, str]:
        """One request to the next gateway that accepts a connection: status (0 for a broken one) and what was said."""
        refused = ""
        for offset in range(len(self.urls)):
            url = self.urls[(number + offset) % len(self.urls)]
            headers = {"content-type": "application/json"}
            try:
                async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as answer:
                    text = await answer.text()
                    return _judge(answer.status, text), f"{answer.status} by {url}: {text[:300]}"
            except aiohttp.ClientConnectorError as error:
                refused = f"{url}: {error}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                return 0, f"{url}: {type(error).__name__} {error}"
        return 0, refused


def _judge(status: int, text: str) -> int:
    """200 only for a whole answer."""
    if status != 200:
        return status
    try:
        return 200 if json.loads(text)["choices"][0]["finish_reason"] in ("stop", "length") else 0
    except (ValueError, KeyError, IndexError):
        return 0
