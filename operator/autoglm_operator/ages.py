"""How old a figure is, how long it may be trusted, and when to look again."""

from datetime import datetime, timedelta

CONNECTED_FOR = timedelta(seconds=30)
"""A site that was read within this time is Connected: its figures are true enough to act on."""

STALE_FOR = timedelta(seconds=90)
"""A site that was read within this time is Stale, after it Unreachable."""

FIGURE_LIMIT = timedelta(seconds=60)
"""No condition is True because of a figure older than this."""

PROGRESSING = timedelta(seconds=2)
WAITING = timedelta(seconds=10)
STEADY = timedelta(seconds=20)
AT_REST = timedelta(minutes=5)
LONGEST_BACKOFF = timedelta(seconds=60)


def age(then: datetime, now: datetime) -> timedelta:
    """Time since `then`; zero for a time in the future, which is another clock's error."""
    return max(now - then, timedelta(0))


def is_fresh(then: datetime | None, now: datetime, limit: timedelta) -> bool:
    """Whether a figure was seen at all, and within `limit`."""
    return then is not None and age(then, now) < limit


def backoff(failures: int) -> timedelta:
    """How long to wait after so many failures in a row: 2 s, 4 s, 8 s, up to a minute."""
    exponent = min(max(failures, 1) - 1, 16)
    return min(PROGRESSING * (1 << exponent), LONGEST_BACKOFF)


def words(span: timedelta) -> str:
    """A span in the largest unit that tells it well, such as "45 s", "5 min" or "3 h"."""
    total = int(span.total_seconds())
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if total < limit:
            return f"{total // size} {unit}"
    return f"{total // 86_400} d"
