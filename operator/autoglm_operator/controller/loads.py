"""Remembers what gateways told of the load of deployments that scale, and wakes those whose load became another one.

What is remembered is what was observed in the last minutes. It is lost with the process: then replicas are not taken away
before a whole window was seen again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoglm_operator import views
from autoglm_operator.scaling.decide import features
from autoglm_operator.scaling.history import History, told
from autoglm_operator.scaling.terms import Policy
from autoglm_operator.state import GatewayView

GATHER_S = 1.0
"""Reports that come closer together are gathered at once."""

QUIET = timedelta(seconds=5)
"""A deployment is woken so often at most."""


@dataclass(frozen=True)
class Sources:
    """Where figures come from: gateways that take requests, ready replicas of a deployment by site, and two clocks."""

    gateways: Callable[[], tuple[GatewayView, ...]]
    ready: Callable[[str], Mapping[str, int]]
    now: Callable[[], datetime]
    clock: Callable[[], float]


@dataclass
class _Watched:
    policy: Policy
    history: History | None = None
    woken_at: datetime | None = None
    woken_for: History | None = None


class Loads:
    """The load of each deployment that is watched ("namespace/name")."""

    def __init__(self, sources: Sources) -> None:
        """Nothing is read before `gather`."""
        self._from = sources
        self._gathered = float("-inf")
        self._watched: dict[str, _Watched] = {}

    def watch(self, deployment: str, policy: Policy | None) -> None:
        """From now on a deployment is watched; without a policy it is not."""
        if policy is None:
            self._watched.pop(deployment, None)
        else:
            self._watched.setdefault(deployment, _Watched(policy)).policy = policy

    def of(self, deployment: str) -> History | None:
        """What was told of the load of a deployment."""
        watched = self._watched.get(deployment)
        return watched.history if watched is not None else None

    def gather(self) -> frozenset[str]:
        """A gateway was looked at: the deployments whose load is another one than when they were last woken."""
        if self._from.clock() - self._gathered < GATHER_S:
            return frozenset()
        self._gathered = self._from.clock()
        gateways, now = self._from.gateways(), self._from.now()
        return frozenset(name for name, one in self._watched.items() if self._note(name, one, gateways, now))

    def _note(self, name: str, one: _Watched, gateways: tuple[GatewayView, ...], now: datetime) -> bool:
        load = views.load(gateways, name, now)
        if load is None:
            known, one.woken_for = one.woken_for, one.woken_for if _is_fresh(one.history, now) else None
            return known is not None and one.woken_for is None
        history = told(one.history, replace(load, ready=self._from.ready(name)), now, one.policy.window)
        before, one.history = one.woken_for, history
        if before is not None and not _is_news(one.policy, before, history):
            return False
        if one.woken_at is not None and timedelta(0) <= now - one.woken_at < QUIET:
            return False
        one.woken_at, one.woken_for = now, history
        return True


def _is_fresh(history: History | None, now: datetime) -> bool:
    return history is not None and history.is_fresh(now)


def _is_news(policy: Policy, seen: History, told: History) -> bool:
    """Whether a decision may be another one, or the first request came after none."""
    if (seen.since is None) != (told.since is None):
        return True
    before, after = seen.load, told.load
    asked = after.asked_at is not None and (
        before.asked_at is None or after.asked_at - before.asked_at > timedelta(seconds=1)
    )
    if asked and not after.total.in_flight:
        return True
    pairs = [(before.at(name), after.at(name)) for name in before.sites.keys() | after.sites.keys()]
    return any(features(policy, old) != features(policy, new) for old, new in (*pairs, (before.total, after.total)))
