"""Deltas that come close together travel as one: each message between Serve's processes costs more than many small tokens.

A message of one token passes three processes on its way to the client and takes milliseconds of CPU time there, whatever
it holds. So the first delta goes at once, and after each message what comes within a pause goes together. The end and
faults wait for nothing. An engine that takes longer than the pause for a token is not delayed at all. The more streams
a replica has, the longer are their pauses, up to a second at forty streams, so that messages do not take the processor
from the model.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace

from autoglm_serving.engines.interface import Delta

STREAM_PAUSE_S = 0.05
"""Between two messages of a stream. People see twenty a second as flowing; Ray's own LLM server waits as long."""
MESSAGES_PER_S = 40
"""Of all streams of a replica together. Each takes 3 ms of processor time until it has left Serve's proxy, and 8 on a Ray
cluster of somebody else's."""
WHOLE_PAUSE_S = 1.0
"""Between two messages of an answer that its client gets whole: they only show that the replica is alive. Also the longest."""
SILENCE_S = 1.0
"""After so long without any delta the caller is told that the call is being worked on."""


def pause_of_streams(running: int) -> float:
    """Seconds between two messages of each of so many streams."""
    return min(max(STREAM_PAUSE_S, running / MESSAGES_PER_S), WHOLE_PAUSE_S)


def joined(earlier: Delta, later: Delta) -> Delta:
    """Two deltas of one answer as one."""
    return replace(later, text=earlier.text + later.text)


async def bundled(
    deltas: AsyncGenerator[Delta, None], pause_s: Callable[[], float]
) -> AsyncGenerator[Delta | None, None]:
    """The same text in fewer deltas, with at least `pause_s` between two of them unless the answer ends.

    None comes first when there is nothing for SILENCE_S. Raises what `deltas` raises, after everything that came before.
    Whoever made `deltas` closes it.
    """
    inbox = _Inbox()
    filling = asyncio.create_task(inbox.fill(deltas))
    try:
        if not await _within(inbox.filled, SILENCE_S):
            yield None
        while True:
            await inbox.filled.wait()
            ended = filling.done()  # asked before what is left is taken: more may come while the reader has its delta
            if (delta := inbox.take()) is not None:
                yield delta
            if ended:
                filling.result()  # raises what ended it
                return
            await _within(inbox.ended, pause_s())
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set before so much time has passed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class _Inbox:
    """What has come and was not sent yet."""

    def __init__(self) -> None:
        self.filled = asyncio.Event()
        self.ended = asyncio.Event()
        self._delta: Delta | None = None

    async def fill(self, deltas: AsyncGenerator[Delta, None]) -> None:
        try:
            async for delta in deltas:
                self._delta = delta if self._delta is None else joined(self._delta, delta)
                self.filled.set()
        finally:
            self.ended.set()
            self.filled.set()

    def take(self) -> Delta | None:
        delta, self._delta = self._delta, None
        self.filled.clear()
        return delta
