"""What a gateway knows of the network to a site, from its own measurements. Pure: durations and times are given, in seconds.

A round trip is that of a small request to the site's proxy on a connection that is open. Work of the server and of this
machine only ever adds to it, so of the last few the shortest holds. A bandwidth is that of an upload: what a large body took
longer than an empty one on the same connection. Work makes that difference longer or shorter, so it takes two that agree.
"""

import itertools
from dataclasses import dataclass, replace

from autoglm_serving.routing_table import FASTEST_BPS

ROUND_TRIPS = 5
UPLOADS = 3

SMALLEST_UPLOAD = 32 * 1024
LARGEST_UPLOAD = 256 * 1024
"""Bytes: half a screenshot. A larger one would tell more of fast links, which nobody needs to know, and cost more."""

UPLOAD_S = 0.25
"""A body is sized to take so long by what is known: five minutes of a thin link are to carry other things."""

UPLOAD_EVERY_S = 300.0
NO_TIME_S = 0.01
"""Less than this is lost in what work takes."""

AGREE = 0.5
"""Two uploads agree when the slower one reaches this share of the faster."""

TRIES = 5
"""Uploads of which no two agree rest after so many: such a link is not known better by more of them."""

KNOWN_FOR_S = 300.0
"""A round trip is believed for so long, a bandwidth for as long as three uploads are apart."""


@dataclass(frozen=True)
class Figures:
    """What is known now. A figure that is not known is None; so is a bandwidth that limits nothing, of which `fast` tells."""

    rtt_s: float | None = None
    bandwidth_bps: float | None = None
    fast: bool = False
    """Uploads reach `FASTEST_BPS`."""

    @property
    def at_least_bps(self) -> float | None:
        """The bandwidth, or the one up to which it was measured."""
        return FASTEST_BPS if self.bandwidth_bps is None and self.fast else self.bandwidth_bps

    def within(self, declared_rtt_s: float | None, declared_bps: float | None) -> "Figures":
        """What to reckon with: a declared bandwidth is not to be exceeded, and a declared round trip was a guess."""
        known = [one for one in (declared_bps, self.bandwidth_bps) if one is not None]
        return replace(
            self,
            rtt_s=declared_rtt_s if self.rtt_s is None else self.rtt_s,
            bandwidth_bps=min(known) if known else None,
        )


@dataclass(frozen=True)
class Link:
    """The last measurements, the newest last. Uploads are in bits per second, those above `FASTEST_BPS` counted as that."""

    round_trips: tuple[float, ...] = ()
    answered_at: float = 0.0
    uploads: tuple[float, ...] = ()
    uploaded_at: float = 0.0
    tried_at: float = 0.0
    """When the last upload was made, whether it was taken or not."""
    next_bytes: int = SMALLEST_UPLOAD
    """The size of the next upload."""
    tries: int = 0
    """Uploads since one said what can be said."""
    settled: bool = False
    """Whether the last upload said what can be said, so that the next one has time."""

    def answered(self, rtt_s: float, now: float) -> "Link":
        """A small request was answered."""
        return replace(self, round_trips=(*self.round_trips, rtt_s)[-ROUND_TRIPS:], answered_at=now)

    def uploaded(self, size: int, extra_s: float, now: float) -> "Link":
        """A body of so many bytes took so much longer than an empty one."""
        if extra_s < NO_TIME_S and size < LARGEST_UPLOAD:
            return replace(self, tried_at=now, next_bytes=min(size * 8, LARGEST_UPLOAD), settled=False)
        rate = min(size * 8 / max(extra_s, NO_TIME_S), FASTEST_BPS)
        known = (*self.uploads, rate)[-UPLOADS:]
        wanted = int(min(rate * UPLOAD_S / 8, LARGEST_UPLOAD))
        settled = (len(known) > 1 and _agree(rate, _believed(known))) or self.tries + 1 >= TRIES
        return replace(
            self,
            uploads=known,
            uploaded_at=now,
            tried_at=now,
            next_bytes=max(wanted, SMALLEST_UPLOAD),
            tries=0 if settled else self.tries + 1,
            settled=settled,
        )

    def not_uploaded(self, now: float) -> "Link":
        """The body was not taken, or not in time: try a small one when the next is due. What is known grows old."""
        return replace(self, tried_at=now, next_bytes=SMALLEST_UPLOAD, tries=0, settled=True)

    @property
    def told(self) -> bool:
        """Whether there is a first figure of each, or an upload was not taken."""
        return bool(self.round_trips) and (bool(self.uploads) or self.settled)

    def upload_due(self, now: float) -> bool:
        """Whether to measure the bandwidth now."""
        return not self.settled or now - self.tried_at >= UPLOAD_EVERY_S

    def figures(self, now: float) -> Figures:
        """What is known and young enough to be believed."""
        rtt = min(self.round_trips) if self.round_trips and now - self.answered_at < KNOWN_FOR_S else None
        limit = UPLOADS * UPLOAD_EVERY_S
        best = _believed(self.uploads) if self.uploads and now - self.uploaded_at < limit else None
        fast = best is not None and best >= FASTEST_BPS
        return Figures(rtt, None if fast else best, fast=fast)


def _believed(rates: tuple[float, ...]) -> float:
    """The fastest that another one agrees with: what both say the link can carry. Else the one in the middle, or the slower."""
    ordered = sorted(rates, reverse=True)
    for faster, slower in itertools.pairwise(ordered):
        if _agree(faster, slower):
            return faster
    return ordered[len(ordered) // 2]


def _agree(one: float, other: float) -> bool:
    return min(one, other) >= AGREE * max(one, other)
