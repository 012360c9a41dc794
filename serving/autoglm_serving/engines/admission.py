"""Who may run now, who waits, who is refused: one per engine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from autoglm_serving.engines.interface import EngineOverloaded


class Admission:
    """At most `max_running` at once and `max_waiting` behind them, first come, first served."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.running = 0
        self.refused_total = 0
        self._reserved = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that have a place but do not run yet."""
        return self._reserved

    def reserve(self) -> "Place":
        """A place to wait, at once. Raises EngineOverloaded when all are taken."""
        free = self.max_running - self.running
        if self._reserved >= free + self.max_waiting:
            self.refused_total += 1
            raise EngineOverloaded(
                f"{self.running} requests run and {self._reserved} wait: the engine takes no more now"
            )
        self._reserved += 1
        return Place(self)

    async def _enter(self) -> None:
        if self.running < self.max_running and not self._queue:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the turn came together with the cancellation: pass it on
            else:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands, `running` stays
                return
        self.running -= 1

    def _unreserve(self) -> None:
        self._reserved -= 1


class Place:
    """One request's place: give it back with `release` in every case, `running` in between."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._waits = True

    def release(self) -> None:
        """Give up a place that did not come to run. Harmless afterwards."""
        if self._waits:
            self._waits = False
            self._admission._unreserve()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Wait for the turn, and keep one of the running slots inside the block."""
        await self._admission._enter()
        self.release()
        try:
            yield
        finally:
            self._admission._leave()
