"""A queue of keys for level-triggered work, with the rules of client-go's workqueue.

- A key that is waiting is there once, however often it is added.
- A key that is being worked on is never given to a second worker; when it is added meanwhile, it is given out
  again after `done`.
- A failed key comes back after a delay that doubles from try to try; success resets it.
- Of several wishes to come back later the earliest wins.
- What is added `first` overtakes what waits, but for one of those after every `OVERTAKES` of these.
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
OVERTAKES = 4


class WorkQueue(Generic[K]):
    """Keys to work on. Use from one event loop only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that only grow."""
        self._clock = clock
        self._first: dict[K, None] = {}
        self._ready: dict[K, None] = {}
        self._overtook = 0
        self._active: set[K] = set()
        self._again: dict[K, bool] = {}
        """Added while it is worked on, and whether it is to come first."""
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait to be worked on now."""
        return len(self._first) + len(self._ready)

    def add(self, key: K, *, first: bool = False) -> None:
        """Work on the key as soon as a worker is free; `first` before what waits already."""
        self._due.pop(key, None)
        if key in self._active:
            self._again[key] = first or self._again.get(key, False)
            return
        if first:
            self._ready.pop(key, None)
            self._first[key] = None
        elif key not in self._first:
            self._ready[key] = None
        self._changed.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Work on the key after a while, or earlier if it is added earlier."""
        due = self._clock() + delay_s
        if key in self._first or key in self._ready or self._due.get(key, due + 1) <= due:
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
        self._first.pop(key, None)
        self._ready.pop(key, None)
        self._due.pop(key, None)
        self._again.pop(key, None)
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; the caller must call `done` with it."""
        while True:
            self._move_due()
            if self._first or self._ready:
                key = self._next()
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
            self.add(key, first=self._again.pop(key))

    def _next(self) -> K:
        """The oldest of the first ones; now and then, and where there are none, of the others."""
        lane = self._first if self._first and (self._overtook < OVERTAKES or not self._ready) else self._ready
        self._overtook = self._overtook + 1 if lane is self._first and self._ready else 0
        key = next(iter(lane))
        del lane[key]
        return key

    def _move_due(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock():
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)
