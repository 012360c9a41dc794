"""Fixed size against several sizes: which policy is best is learned on one half of the screens and judged on the other."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from autoglm_serving.training.study.data import Asked, Study
from autoglm_serving.vision.early_exit import ExitPolicy, decide

THRESHOLDS = tuple(step / 20 for step in range(1, 20))


@dataclass(frozen=True)
class Outcome:
    """What a policy makes of some tasks: how many are right, and the mean time."""

    right: int
    total: int
    milliseconds: float

    @property
    def accuracy(self) -> float:
        return self.right / self.total if self.total else 0.0


class Policy(Protocol):
    """Chooses what is done for a task, knowing its screen's kind and the answers that it asks for."""

    @property
    def name(self) -> str:
        """For people."""

    def solve(self, study: Study, asked: Asked) -> tuple[bool, float]:
        """Whether the answer is right, and the predicted milliseconds."""


@dataclass(frozen=True)
class Fixed:
    """One size for all screens."""

    place: int
    name: str = "fixed"

    def solve(self, study: Study, asked: Asked) -> tuple[bool, float]:
        return asked.answers[self.place].right, study.milliseconds(asked, self.place)


@dataclass(frozen=True)
class ByKind:
    """A size for each kind of screen."""

    places: tuple[tuple[str, int], ...]
    name: str = "size by kind"

    def solve(self, study: Study, asked: Asked) -> tuple[bool, float]:
        place = dict(self.places)[asked.kind]
        return asked.answers[place].right, study.milliseconds(asked, place)


@dataclass(frozen=True)
class Cascade:
    """A small picture first; where its answer is not sure enough, the larger one is asked as well."""

    first: int
    second: int
    threshold: float
    name: str = "early exit"

    def solve(self, study: Study, asked: Asked) -> tuple[bool, float]:
        policy = ExitPolicy(self.threshold, self.threshold)
        seen = asked.answers[self.first]
        spent = study.milliseconds(asked, self.first)
        if decide(policy, seen.confidence, last=False, stopped_before=False).stops:
            return seen.right, spent
        return asked.answers[self.second].right, spent + study.milliseconds(asked, self.second)


def outcome(study: Study, policy: Policy, tasks: Iterable[Asked]) -> Outcome:
    """A policy on some tasks."""
    solved = [policy.solve(study, asked) for asked in tasks]
    total = len(solved)
    return Outcome(sum(right for right, _ in solved), total, sum(ms for _, ms in solved) / total if total else 0.0)


class Solved:
    """Policies on one set of tasks. Sizes by kind are added up from one count for each kind and size."""

    def __init__(self, study: Study, tasks: Sequence[Asked]) -> None:
        self._study, self._tasks = study, tasks
        self._parts = {
            (kind, place): outcome(study, Fixed(place), [asked for asked in tasks if asked.kind == kind])
            for kind in study.kinds
            for place in range(len(study.short_sides))
        }

    def by(self, policy: Policy) -> Outcome:
        """What a policy makes of the tasks."""
        if isinstance(policy, ByKind):
            return joined([self._parts[part] for part in policy.places])
        return outcome(self._study, policy, self._tasks)


def candidates(study: Study) -> list[Policy]:
    """Every way to use several sizes that is looked at."""
    sizes = range(len(study.short_sides))
    by_kind = [
        ByKind(tuple(zip(study.kinds, places, strict=True))) for places in product(sizes, repeat=len(study.kinds))
    ]
    cascades = [
        Cascade(first, second, limit) for first in sizes for second in sizes[first + 1 :] for limit in THRESHOLDS
    ]
    return [*by_kind, *cascades]


@dataclass(frozen=True)
class Comparison:
    """Several sizes against one: at the same time, and at the same accuracy. Each half was judged with the other's choice."""

    fixed: Outcome
    same_time: Outcome
    same_accuracy: Outcome
    chosen: tuple[str, ...]
    """Policies chosen, by half and aim."""


def fixed_against_many(study: Study, short_side: int) -> Comparison:
    """Compare the measured size nearest to `short_side` with the best policy of several sizes, by two-fold cross-fitting."""
    fixed = Fixed(study.nearest(short_side))
    tried = candidates(study)
    halves = split(study.tasks)
    chosen, fast, good, plain = [], [], [], []
    for learned, judged in (halves, halves[::-1]):
        base = outcome(study, fixed, learned)
        solved = Solved(study, learned)
        tables = [(policy, solved.by(policy)) for policy in tried]
        quick = max(
            (each for each in tables if each[1].milliseconds <= base.milliseconds),
            key=lambda each: (each[1].right, -each[1].milliseconds),
            default=(fixed, base),
        )
        cheap = min(
            (each for each in tables if each[1].right >= base.right),
            key=lambda each: (each[1].milliseconds, -each[1].right),
            default=(fixed, base),
        )
        chosen += [describe(study, quick[0]), describe(study, cheap[0])]
        plain.append(outcome(study, fixed, judged))
        fast.append(outcome(study, quick[0], judged))
        good.append(outcome(study, cheap[0], judged))
    return Comparison(joined(plain), joined(fast), joined(good), tuple(chosen))


def split(tasks: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Two halves by screen, so that no screen is in both."""
    halves: tuple[list[Asked], list[Asked]] = ([], [])
    for asked in tasks:
        halves[zlib.crc32(asked.screen.encode()) % 2].append(asked)
    return halves


def describe(study: Study, policy: Policy) -> str:
    """A policy in words."""
    match policy:
        case Cascade():
            first, second = study.short_sides[policy.first], study.short_sides[policy.second]
            return f"{first} px, and {second} px below a confidence of {policy.threshold:.2f}"
        case ByKind():
            sizes: Mapping[str, int] = {kind: study.short_sides[place] for kind, place in policy.places}
            return ", ".join(f"{kind} {side} px" for kind, side in sizes.items())
        case Fixed():
            return f"{study.short_sides[policy.place]} px"
        case _:
            return policy.name


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Of several sets of tasks together."""
    total = sum(each.total for each in parts)
    spent = sum(each.milliseconds * each.total for each in parts)
    return Outcome(sum(each.right for each in parts), total, spent / total if total else 0.0)
