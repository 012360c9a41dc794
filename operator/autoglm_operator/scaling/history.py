"""The load of the last minutes, as far as anybody told: what lets replicas fall, and what is lost with the process that saw it.

A process that has just begun to look knows no peak. It raises by what it sees, and lowers nothing before it has seen a whole
window, in which every gateway told the load. So nothing of this has to be stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from autoglm_operator.scaling.terms import FRESH, GAP, RATES, Figures, Load

LENGTH = timedelta(seconds=10)
"""Of so long one peak is kept."""


@dataclass(frozen=True)
class Slot:
    """The most requests under way within ten seconds, and the fewest ready replicas, by site; and the same of all together."""

    begun: datetime
    peaks: Mapping[str, float]
    peak: float
    ready: Mapping[str, int]
    all_ready: int


@dataclass(frozen=True)
class History:
    """The last load and when it was told; the slots before it; since when all gateways told without a gap, and until when.

    `at` is the time of the oldest report, so that nothing counts as younger than what was seen.
    """

    load: Load
    at: datetime
    since: datetime | None = None
    slots: tuple[Slot, ...] = field(default=())
    until: datetime | None = None
    kept: timedelta = RATES
    """Older slots are gone."""

    def covers(self, window: timedelta, now: datetime) -> bool:
        """Whether the whole window up to now was seen, and every gateway tells."""
        since = self.seen_since(window)
        return since is not None and self.load.complete and now - self.at < GAP and now - since >= window

    def seen_since(self, window: timedelta) -> datetime | None:
        """Since when all gateways told without a gap, as far as that is remembered. A window that has just become longer
        reaches back to before what was kept for the shorter one."""
        if self.since is None or window <= self.kept:
            return self.since
        return max(self.since, self.slots[0].begun) if self.slots else None

    def is_fresh(self, now: datetime) -> bool:
        """Whether the last figures are young enough to act on."""
        return now - self.at < FRESH

    def figures(self, site: str | None, window: timedelta, now: datetime) -> Figures:
        """What is known of one site, or of all together."""
        if not self.is_fresh(now):
            return Figures()
        load = self.load.total if site is None else self.load.at(site)
        ready = [
            one.all_ready if site is None else one.ready.get(site, 0)
            for one in self.slots
            if _is_within(one, RATES, now)
        ]
        if not self.covers(window, now):
            return Figures(load, None, min(ready, default=None))
        seen = [
            one.peak if site is None else one.peaks.get(site, 0.0) for one in self.slots if _is_within(one, window, now)
        ]
        return Figures(load, max(load.in_flight, max(seen, default=0.0)), min(ready, default=None))


def told(before: History | None, load: Load, now: datetime, window: timedelta) -> History:
    """The history after gateways told a load."""
    if before is not None and before.at > now:
        before = None  # the clock went back: times of before it say nothing any more
    at = min(load.told_at or now, now)
    longest = max(window, RATES)
    since, until = (None, None) if before is None else (before.seen_since(longest), before.until)
    if until is None or now - until >= GAP:
        since = None
    if load.complete:
        since, until = since or now, at
    slots = () if before is None else tuple(one for one in before.slots if _is_within(one, longest, now))
    return History(load, at, since, _with_slot(slots, load, now), until, longest)


def _is_within(slot: Slot, span: timedelta, now: datetime) -> bool:
    return slot.begun + LENGTH > now - span


def _with_slot(slots: tuple[Slot, ...], load: Load, now: datetime) -> tuple[Slot, ...]:
    peaks = {name: one.in_flight for name, one in load.sites.items() if one.in_flight}
    peak, all_ready = load.total.in_flight, sum(load.ready.values())
    if not slots or now - slots[-1].begun >= LENGTH:
        return (*slots, Slot(now, peaks, peak, load.ready, all_ready))
    last = slots[-1]
    most = {name: max(last.peaks.get(name, 0.0), peaks.get(name, 0.0)) for name in last.peaks.keys() | peaks.keys()}
    fewest = {name: min(last.ready.get(name, 0), count) for name, count in load.ready.items()}
    return (*slots[:-1], Slot(last.begun, most, max(last.peak, peak), fewest, min(last.all_ready, all_ready)))
