"""Room for what is large: so many bytes at once, first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Room:
    """At most `capacity` bytes are held, or one thing that is larger than that. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.held = 0

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncGenerator[None, None]:
        """Wait until there is room, and keep it until the end of the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.held -= size
            elif entry in self._waiting:
                self._waiting.remove(entry)
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if self.held and self.held + size > self._capacity:
                return
            self._waiting.popleft()
            if not turn.done():
                self.held += size
                turn.set_result(None)
