"""A queue of keys for level-triggered work, with the rules of client-go's workqueue.

- A key that is waiting is there once, however often it is added.
- A key that is being worked on is never given to a second worker; when it is added meanwhile, it is given out
  again after `done`.
- A failed key comes back after a delay that doubles from try to try; success resets it.
- Of several wishes to come back later the earliest wins.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0


class WorkQueue(Generic[K]):
    """Keys to work on. Use from one event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that only grow."""
        self._clock = clock
        self._ready: dict[K, None] = {}
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait to be worked on now."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Work on the key as soon as a worker is free."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        else:
            self._ready[key] = None
            self._changed.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Work on the key after a while, or earlier if it is added earlier."""
        due = self._clock() + delay_s
        if key in self._ready or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    def fail(self, key: K) -> float:
        """Work on the key again after its backoff; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(FIRST_DELAY_S * 2.0 ** min(failures, 20), LONGEST_DELAY_S)
        self.add_after(key, delay)
        return delay

    def succeed(self, key: K) -> None:
        """Forget earlier failures of the key."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Drop everything known of the key; work that has begun is not affected."""
        self._ready.pop(key, None)
        self._due.pop(key, None)
        self._again.discard(key)
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; the caller must call `done` with it."""
        while True:
            self._move_due()
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                self._active.add(key)
                return key
            self._changed.clear()
            timeout = self._heap[0][0] - self._clock() if self._heap else None
            with contextlib.suppress(TimeoutError):
                # `wait_for` of Python 3.11 swallows a cancellation that comes with the event: the worker would never end.
                async with asyncio.timeout(timeout):
                    await self._changed.wait()

    def done(self, key: K) -> None:
        """The worker has finished with the key, well or not."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _move_due(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock():
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)
