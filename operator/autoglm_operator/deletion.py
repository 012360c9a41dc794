"""Deletion: what still has to go, from where, and when to stop waiting.

Deletion never depends on a site that does not answer. Every site where an application may be is tried until it is
seen to be gone; after the deadline the resource goes anyway, and what a silent site still has is collected as an orphan
when it answers again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoglm_operator.ages import words
from autoglm_operator.state import ApplicationView, DeleteApplication, Event

DEFAULT_DEADLINE = timedelta(minutes=5)

DRAIN = timedelta(seconds=10)
"""How long applications stay on a site that is being deleted, so that routes can leave first."""


@dataclass(frozen=True)
class Remains:
    """What may be left of a resource at one site. `seen` is None where nobody could look."""

    site: str
    seen: tuple[ApplicationView, ...] | None
    why_unknown: str = ""


@dataclass(frozen=True)
class Deletion:
    """The next step of a deletion."""

    changes: tuple[DeleteApplication, ...]
    pending: tuple[Remains, ...]
    finished: bool
    expired: bool

    @property
    def message(self) -> str:
        """What deletion waits for."""
        return "; ".join(f"{remains.site}: {_tell(remains)}" for remains in self.pending)


def step(remains: Iterable[Remains], since: datetime, deadline: timedelta, now: datetime) -> Deletion:
    """Delete what is seen, wait for what is not, and give up after the deadline."""
    pending = tuple(one for one in remains if one.seen is None or one.seen)
    expired = bool(pending) and now - since >= deadline
    return Deletion(removals(pending), pending, not pending or expired, expired)


def removals(remains: Iterable[Remains]) -> tuple[DeleteApplication, ...]:
    """Deletes every application that was seen and is not already on its way out."""
    return tuple(
        DeleteApplication(one.site, view.name, view.owner_uid)
        for one in remains
        for view in one.seen or ()
        if view.owner_uid and view.status != "DELETING"
    )


def gave_up(deletion: Deletion, deadline: timedelta) -> Event:
    """Tells where something may be left."""
    sites = ", ".join(one.site for one in deletion.pending)
    text = (
        f"gave up after {words(deadline)}; an application may be left at: {sites} ({deletion.message})."
        " It is removed when the site answers again"
    )
    return Event("Warning", "DeletionDeadlineExceeded", text)


def _tell(remains: Remains) -> str:
    if remains.seen is None:
        return remains.why_unknown or "unknown"
    return "removing " + ", ".join(sorted(view.name for view in remains.seen))
