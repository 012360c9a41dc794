"""A cache of prepared pictures, bounded in bytes; the least recently used goes first.

Source: "Three hidden features of Open-AutoGLM's visual recognition", section 2.5 (keys from the input's hash, LRU against
overflow). Keys are salted with the tenant: one tenant can neither read nor probe for another's pictures.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


def key(tenant: str, content: bytes, preparation: str) -> str:
    """The key of one picture (its encoded bytes) prepared in one way, for one tenant.

    Each part is hashed with its length, so that no two triples give the same bytes.
    """
    digest = hashlib.sha256()
    for part in (tenant.encode(), preparation.encode(), content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class CacheFigures:
    """What a cache holds and what it did."""

    entries: int
    held_bytes: int
    hits: int
    misses: int
    evictions: int
    refused: int
    """Values larger than the whole cache."""


class ByteCache(Generic[Value]):
    """Values by key, at most `capacity` bytes together. For one thread; the caller says how large a value is."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError("a cache cannot hold less than nothing")
        self._capacity = capacity
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._held = self._hits = self._misses = self._evictions = self._refused = 0

    def get(self, name: str) -> Value | None:
        """The value, which is then the most recently used; None where there is none."""
        entry = self._entries.get(name)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(name)
        return entry[0]

    def holds(self, name: str) -> bool:
        """Whether a value is there. Counts as no use of it."""
        return name in self._entries

    def touch(self, name: str) -> None:
        """Make a value the most recently used, if it is there. Counts as neither hit nor miss."""
        if name in self._entries:
            self._entries.move_to_end(name)

    def put(self, name: str, value: Value, size: int) -> tuple[str, ...]:
        """Keep a value of `size` bytes; the keys that had to go. A value that can never fit is not kept."""
        if size < 0:
            raise ValueError("a value cannot have less than no bytes")
        self._drop(name)
        if size > self._capacity:
            self._refused += 1
            return ()
        evicted: list[str] = []
        while self._held + size > self._capacity:
            oldest = next(iter(self._entries))
            self._drop(oldest)
            evicted.append(oldest)
        self._evictions += len(evicted)
        self._entries[name] = (value, size)
        self._held += size
        return tuple(evicted)

    @property
    def figures(self) -> CacheFigures:
        return CacheFigures(len(self._entries), self._held, self._hits, self._misses, self._evictions, self._refused)

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._held -= entry[1]
