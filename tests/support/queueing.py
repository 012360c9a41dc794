"""One site as a queue in front of replicas, second by second, and the decisions of scaling about it. No I/O."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from autoglm_operator.scaling.decide import decide
from autoglm_operator.scaling.history import History, told
from autoglm_operator.scaling.terms import Load, Policy, SiteLoad, Standing

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLACES = 4
"""Requests that a replica works on at the same time."""

SITE = "a"


@dataclass
class Queueing:
    """Replicas take time to start. Every request takes a place for `service_s`; those that find the queue full are refused."""

    starts_in_s: float
    service_s: float = 10.0
    queue_limit: int = 64
    desired: int = 1
    ready: int = 1
    changes: list[tuple[float, int]] = field(default_factory=list)
    """When the number of replicas became which one."""
    waits: list[float] = field(default_factory=list)
    """How long each request waited that came to run."""
    refused: int = 0
    replica_s: float = 0.0
    """Replicas that ran or started, times seconds."""
    answered: list[int] = field(default_factory=list)
    """Answers in each of the last 60 seconds."""
    _changed: datetime = BEGIN - timedelta(hours=1)
    _history: History | None = None
    _queue: list[float] = field(default_factory=list)
    _running: list[float] = field(default_factory=list)
    _starting: list[float] = field(default_factory=list)
    _levels: list[int] = field(default_factory=list)
    _came: list[int] = field(default_factory=list)

    def second(self, at: float, arrivals: int) -> None:
        """One second goes by."""
        self.ready += sum(moment <= at for moment in self._starting)
        self._starting = [moment for moment in self._starting if moment > at]
        self.replica_s += self.ready + len(self._starting)
        done = sum(end <= at for end in self._running)
        self._running = [end for end in self._running if end > at]
        room = self.queue_limit + max(PLACES * self.ready - len(self._running), 0) - len(self._queue)
        taken = min(arrivals, max(room, 0))
        self.refused += arrivals - taken
        self._queue += [at] * taken
        free = max(PLACES * self.ready - len(self._running), 0)
        begun, self._queue = self._queue[:free], self._queue[free:]
        self.waits += [at - came for came in begun]
        self._running += [at + self.service_s] * len(begun)
        self._levels = [*self._levels, len(self._queue) + len(self._running)][-20:]
        self._came, self.answered = [*self._came, arrivals][-60:], [*self.answered, done][-60:]

    def decide(self, at: float, policy: Policy) -> None:
        """What the operator would do now."""
        now, span = BEGIN + timedelta(seconds=at), max(len(self._came), 5)
        load = SiteLoad(sum(self._levels) / 20, sum(self._came) / span, sum(self.answered) / span)
        self._history = told(self._history, Load({SITE: load}, ready={SITE: self.ready}), now, policy.window)
        standing = Standing(self.desired, self.ready, self._changed)
        decision = decide(policy, standing, self._history.figures(SITE, policy.window, now), now)
        if decision.desired != self.desired:
            self._changed = now
            self.become(decision.desired, at)

    def become(self, desired: int, at: float) -> None:
        """So many replicas shall there be. Those that start are taken back first."""
        if desired == self.desired:
            return
        fewer = max(self.desired - desired, 0)
        unstarted = min(fewer, len(self._starting))
        self._starting = self._starting[: len(self._starting) - unstarted]
        self._starting += [at + self.starts_in_s] * max(desired - self.desired, 0)
        self.ready -= fewer - unstarted
        self.desired = desired
        self.changes.append((at, desired))
