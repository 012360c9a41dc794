"""How many replicas of each revision a site has during a rollout: never more than wanted plus the surge, of both together."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Replicas of one revision at a site: asked for, running, and able to take requests."""

    target: int = 0
    running: int = 0
    ready: int = 0

    @property
    def held(self) -> int:
        """What may take accelerators now."""
        return max(self.target, self.running)


@dataclass(frozen=True)
class Room:
    """What a site may hold: the wanted replicas, how many more there may be, and how many of them may be missing."""

    replicas: int
    surge: int
    unavailable: int = 0

    @property
    def limit(self) -> int:
        """Most replicas of both revisions together."""
        return self.replicas + self.surge


@dataclass(frozen=True)
class Sizes:
    """Replicas to ask for."""

    stable: int
    candidate: int


def needed(room: Room, weight: int) -> int:
    """Replicas that a candidate has to have before it gets this weight. The stable revision keeps at least one place."""
    return min(max(1, math.ceil(room.replicas * weight / 100)), max(room.limit - 1, 1))


def during(room: Room, weight: int, stable: Counts, candidate: Counts) -> Sizes:
    """The next sizes on the way to a candidate with this weight. What shrinks has to be gone before the other grows.

    The stable revision keeps as many replicas as there is room for, so that the way back is short, and gives one up only
    when the candidate's are ready to take over.
    """
    goal = needed(room, weight)
    more = min(goal, max(room.limit - stable.held, 0))
    grown = max(more, min(candidate.target, goal))
    floor = room.replicas - room.unavailable - candidate.ready
    kept = max(min(room.replicas, room.limit - goal), floor, 1)
    return Sizes(_bounded(kept, room.limit - max(candidate.held, grown), stable.target), grown)


def alone(room: Room, stable: Counts, others: int) -> int:
    """Replicas of the stable revision while the other application, with so many replicas, is going or gone."""
    return _bounded(room.replicas, room.limit - others, stable.target)


def _bounded(wanted: int, room: int, target: int) -> int:
    """As many as wanted and as fit. What is there already is not taken away for want of room: the others make it."""
    return max(min(wanted, room), min(wanted, target), 1)
