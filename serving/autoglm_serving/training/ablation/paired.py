"""Two ways to answer the same tasks, compared task by task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

SURE = 0.05
"""Differences that chance alone makes more often than this are not called differences."""


@dataclass(frozen=True)
class Paired:
    """Of the tasks that both answered: right only here, right only there."""

    total: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        """What the share of right answers changed by, in points of a hundred."""
        return 100 * (self.gained - self.lost) / self.total if self.total else 0.0

    @property
    def chance(self) -> float:
        """How often chance alone gives a difference as large: McNemar's exact test, two-sided."""
        changed = self.gained + self.lost
        fewer = min(self.gained, self.lost)
        tail = sum(math.comb(changed, number) for number in range(fewer + 1)) / 2**changed
        return min(1.0, 2.0 * float(tail))

    @property
    def differs(self) -> bool:
        return self.chance < SURE


def compare(here: Mapping[str, bool], there: Mapping[str, bool]) -> Paired:
    """By task's name: whether the answer was right. Tasks that only one of them was asked do not count."""
    both = here.keys() & there.keys()
    return Paired(
        total=len(both),
        gained=sum(here[name] and not there[name] for name in both),
        lost=sum(there[name] and not here[name] for name in both),
    )
