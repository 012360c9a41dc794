"""Chance as a pure function of a seed.

Python's `random` promises the same numbers from one version to the next only for `random()` itself; the manifests here must
not change with the interpreter. splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Dice:
    """A stream of choices. Two dice with equal seeds make equal choices."""

    def __init__(self, *seed: str | int) -> None:
        self._state = int.from_bytes(hashlib.sha256(repr(seed).encode()).digest()[:8], "big")

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1. (The bias of the remainder is under 2^-50 for bounds used here.)"""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) % bound

    def between(self, least: int, most: int) -> int:
        """A whole number from least to most, both included."""
        return least + self.below(most - least + 1)

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """So many different places of the items (all, if there are fewer), in a new order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(min(count, len(rest)))]
