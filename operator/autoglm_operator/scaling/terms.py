"""The words of scaling: what is asked for, what was seen, what was decided before, and what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

Cause = Literal["Started", "LoadRose", "FirstBytesLate", "LoadFell", "Idle", "Woken", "Bounds"]
"""Why replicas are as many as they are."""

TOLERANCE = 0.1
"""A load that asks for a tenth more than there is raises nothing."""

STEP = 4
"""One decision adds as many replicas as there are, or so many if that is more."""

SETTLE = timedelta(seconds=15)
"""Between two raises: figures are means over 20 s."""

RATES = timedelta(seconds=60)
"""Arrivals and answers are counted over so long."""

LATE_FOR = timedelta(seconds=60)
"""Times to the first byte are those of the last minute: after a change they tell of before it for so long."""

FRESH = timedelta(seconds=60)
"""Figures that are older are not acted on."""

TELLING = timedelta(seconds=10)
"""A gateway whose report is older, a few looks at it, does not tell: meanwhile it may have got anything to do."""

GAP = timedelta(seconds=15)
"""What gateways do not tell for less than this they tell afterwards: requests under way are a mean over at least so long."""


@dataclass(frozen=True)
class SiteLoad:
    """What goes on at one site. A request under way runs or waits; nobody outside the site can tell which."""

    in_flight: float = 0.0
    arrivals: float = 0.0
    """Requests a second that are sent there."""
    completions: float = 0.0
    """Requests a second that are answered there."""
    ttft_s: float | None = None
    """95th percentile of the time to the first byte; None where too few answers tell."""


@dataclass(frozen=True)
class Load:
    """What one deployment has to do, at all gateways together.

    `complete` is False while a gateway does not tell: then this is the least that there is. `asked_at` is when a client last
    sent a request, whether or not anybody could serve it. `told_at` is of when the oldest of the reports is; None: of now.
    """

    sites: Mapping[str, SiteLoad] = field(default_factory=dict)
    asked_at: datetime | None = None
    complete: bool = True
    ready: Mapping[str, int] = field(default_factory=dict)
    """Replicas that are ready, by site."""
    told_at: datetime | None = None

    def at(self, site: str) -> SiteLoad:
        """The load of one site."""
        return self.sites.get(site, SiteLoad())

    @property
    def total(self) -> SiteLoad:
        """The load of all sites together; of their times to the first byte the longest."""
        late = [one.ttft_s for one in self.sites.values() if one.ttft_s is not None]
        return SiteLoad(
            sum(one.in_flight for one in self.sites.values()),
            sum(one.arrivals for one in self.sites.values()),
            sum(one.completions for one in self.sites.values()),
            max(late, default=None),
        )


@dataclass(frozen=True)
class Policy:
    """What a deployment wants. `per_replica` are requests under way for each replica."""

    least: int
    most: int
    per_replica: float
    ttft_s: float | None = None
    window: timedelta = timedelta(minutes=5)
    """Replicas fall to the most that was asked for within this time."""


@dataclass(frozen=True)
class Standing:
    """What was decided before, since when, and what has come of it. `may_fall` is False where something forbids it."""

    desired: int
    ready: int
    changed_at: datetime | None = None
    may_fall: bool = True


@dataclass(frozen=True)
class Figures:
    """What is known of the load. `load` is None while nobody tells.

    `peak` are the most requests under way within the window; None unless the whole window was seen, by all gateways. `ready`
    are the fewest replicas that were ready within the last minute, which the rates of answers are about; None if unknown.
    """

    load: SiteLoad | None = None
    peak: float | None = None
    ready: int | None = None


@dataclass(frozen=True)
class Decision:
    """Replicas that shall run. `cause` is None where nothing changes.

    `asked` is what the load asks for, whatever the bounds say. `again` is when the same figures may give another decision.
    """

    desired: int
    cause: Cause | None = None
    asked: int = 0
    again: timedelta | None = None
