"""A cache of values by key that several threads use, bounded in bytes."""

import threading
from typing import Generic, TypeVar

from autoglm_serving.vision.cache import ByteCache, CacheFigures

Value = TypeVar("Value")

MIB = 2**20


class SharedCache(Generic[Value]):
    """A `ByteCache` behind a lock. A capacity of 0 keeps nothing: the cache is off."""

    def __init__(self, capacity: int) -> None:
        self._cache: ByteCache[Value] = ByteCache(capacity)
        self._lock = threading.Lock()

    def get(self, name: str) -> Value | None:
        """The value, then the most recently used; None where there is none."""
        with self._lock:
            return self._cache.get(name)

    def put(self, name: str, value: Value, size: int) -> None:
        """Keep a value of `size` bytes, and drop the least recently used ones for it."""
        with self._lock:
            self._cache.put(name, value, size)

    def holds(self, name: str) -> bool:
        """Whether a value is there now. Another thread may drop it at any time."""
        with self._lock:
            return self._cache.holds(name)

    @property
    def figures(self) -> CacheFigures:
        """What the cache holds and did."""
        with self._lock:
            return self._cache.figures
