"""How many replicas a load needs: up at once and by steps, down to the most that a whole window asked for.

Three rules stand above all:
- what nobody tells changes nothing, and what only some tell lowers nothing;
- replicas that start are counted: a queue that grows while they do asks for no more than requests that come and are not
  answered would need for good;
- there are never fewer than the least nor more than the most.
"""

import math
from datetime import datetime, timedelta

from autoglm_operator.scaling.history import History
from autoglm_operator.scaling.terms import (
    LATE_FOR,
    SETTLE,
    STEP,
    TOLERANCE,
    Cause,
    Decision,
    Figures,
    Policy,
    SiteLoad,
    Standing,
)

BUSY = 0.5
"""First bytes that are late while replicas have less than half of their requests are not late for want of replicas."""

MOST_BY_TTFT = 2.0
"""Late first bytes at most double the replicas at once: how late they are says little about how many are missing."""

FEWEST_PER_S = 0.05
"""Fewer answers a second (three in the last minute) do not tell what replicas can do."""

_ROUND = 1e-9


def decide(policy: Policy, standing: Standing, figures: Figures, now: datetime) -> Decision:
    """The next number of replicas. Without figures it is the last one."""
    current = min(max(standing.desired, policy.least), policy.most)
    if current != standing.desired:
        return Decision(current, "Bounds", current)
    if figures.load is None:
        return Decision(current, None, current)
    asked, cause = _asked(policy, standing, figures, figures.load, now)
    if min(asked, policy.most) > current:
        return _raised(policy, standing, asked, cause, now)
    if asked > current:  # at the maximum
        return Decision(current, None, asked)
    return _lowered(policy, standing, figures, now)


def is_idle(history: History | None, window: timedelta, now: datetime) -> bool:
    """Whether the whole window was seen and nobody wanted anything in it."""
    if history is None or not history.covers(window, now):
        return False
    asked = history.load.asked_at
    return history.figures(None, window, now).peak == 0 and (asked is None or now - asked >= window)


def is_wanted(history: History | None, asleep_since: datetime) -> bool:
    """Whether a request came since there are no replicas. One gateway that tells is enough, and it need not be young."""
    asked = history.load.asked_at if history is not None else None
    return asked is not None and asked > asleep_since


def features(policy: Policy, load: SiteLoad) -> tuple[int, int, int]:
    """What of a load a decision may depend on: while that is the same, only time makes another one."""
    asked = load.in_flight / policy.per_replica
    late = 0 if policy.ttft_s is None else 1 + math.floor(asked / BUSY) * (_lateness(policy, load) > 1 + TOLERANCE)
    return needed(policy, load.in_flight), math.ceil(asked / (1 + TOLERANCE) - _ROUND), late


def needed(policy: Policy, in_flight: float) -> int:
    """Replicas for so many requests under way."""
    return math.ceil(in_flight / policy.per_replica - _ROUND)


def _asked(policy: Policy, standing: Standing, figures: Figures, load: SiteLoad, now: datetime) -> tuple[int, Cause]:
    """What the load asks for now, which is what there is unless it is clearly more."""
    current = standing.desired
    ready = standing.ready if figures.ready is None else min(standing.ready, figures.ready)
    asked = current
    if load.in_flight > current * policy.per_replica * (1 + TOLERANCE):
        asked = needed(policy, load.in_flight)
    if ready < current:
        asked = min(asked, max(current, _for_good(ready, load, asked)))
    elif _is_late(policy, standing, load) and not _younger(standing, LATE_FOR, now):
        late = math.ceil(current * _lateness(policy, load) - _ROUND)
        if late > asked:
            return late, "FirstBytesLate"
    return asked, "LoadRose"


def _for_good(ready: int, load: SiteLoad, otherwise: int) -> int:
    """Replicas that answer as many requests as come, by what those answered that were ready in the last minute. The queue that
    they left is no demand: those that start, or have just started, take it away."""
    if not ready or load.completions < FEWEST_PER_S:
        return otherwise
    return math.ceil(ready * load.arrivals / load.completions * (1 + TOLERANCE) - _ROUND)


def _lateness(policy: Policy, load: SiteLoad) -> float:
    """How many times too late first bytes are."""
    if policy.ttft_s is None or load.ttft_s is None:
        return 0.0
    return min(load.ttft_s / policy.ttft_s, MOST_BY_TTFT)


def _is_late(policy: Policy, standing: Standing, load: SiteLoad) -> bool:
    """Whether first bytes come too late, and more replicas can mend that."""
    busy = load.in_flight >= BUSY * standing.desired * policy.per_replica
    return busy and _lateness(policy, load) > 1 + TOLERANCE


def _raised(policy: Policy, standing: Standing, asked: int, cause: Cause, now: datetime) -> Decision:
    current = standing.desired
    if _younger(standing, SETTLE, now):
        return Decision(current, None, asked, _left(standing, SETTLE, now))
    return Decision(min(asked, policy.most, max(2 * current, current + STEP)), cause, asked, SETTLE)


def _lowered(policy: Policy, standing: Standing, figures: Figures, now: datetime) -> Decision:
    """Down at once to the most that was asked for within the window, at most once in a window."""
    current, load = standing.desired, figures.load
    lowest = max(needed(policy, load.in_flight) if load else current, policy.least)
    if lowest >= current:
        return Decision(current, None, current)
    if _younger(standing, policy.window, now):
        return Decision(current, None, current, _left(standing, policy.window, now))
    later = max(SETTLE, policy.window / 10)
    if figures.peak is None or not standing.may_fall or (load is not None and _is_late(policy, standing, load)):
        return Decision(current, None, current, later)
    fallen = max(needed(policy, figures.peak), policy.least)
    if fallen >= current:
        return Decision(current, None, current, later)
    return Decision(fallen, "LoadFell", fallen)


def _younger(standing: Standing, span: timedelta, now: datetime) -> bool:
    """Whether the last change is younger than this. One in the future is another clock's error, and is over."""
    return standing.changed_at is not None and timedelta(0) <= now - standing.changed_at < span


def _left(standing: Standing, span: timedelta, now: datetime) -> timedelta:
    assert standing.changed_at is not None, "only asked of a change that is younger"
    return standing.changed_at + span - now
