"""From a deployment and what is known of its load to replicas, by `scaling`; and the status that tells of it.

Without spec.placement each site follows its own load. With it all sites together have one number, which placement spreads.
Whether there are replicas at all is decided for all sites together: a site that has none gets no requests that could wake it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from autoglm_operator import applications, views
from autoglm_operator.api import (
    AutoGLMDeployment,
    RolloutStatus,
    ScaledSite,
    ScalingDecision,
    ScalingReason,
    ScalingSpec,
    ScalingStatus,
)
from autoglm_operator.api.quantities import duration, seconds
from autoglm_operator.scaling.decide import decide, is_idle, is_wanted
from autoglm_operator.scaling.history import History
from autoglm_operator.scaling.terms import TOLERANCE, Decision, Figures, Policy, Standing
from autoglm_operator.state import Event, SiteView, Verdict, clip

TOGETHER = "*"
"""Stands for all sites together."""

DECISIONS = 10

STARTS_WITHIN = timedelta(minutes=30)
"""After so long, or after a window if that is longer, nobody waits for replicas any more that are still not there: a site
that is silent, has no room or cannot load the model must not keep all others awake."""

_RAISES = ("Started", "LoadRose", "FirstBytesLate", "Woken")
"""Decisions after which replicas start."""


@dataclass(frozen=True)
class Scaled:
    """Replicas that shall run: on all sites together (`total`), or on each (`at`)."""

    status: ScalingStatus
    verdict: Verdict
    events: tuple[Event, ...]
    again: timedelta | None
    """When the same figures may give another decision."""

    @cached_property
    def at(self) -> Mapping[str, int]:
        """Replicas by site; none of them with spec.placement."""
        return {row.name: row.desired for row in self.status.sites if row.name != TOGETHER}

    @property
    def total(self) -> int | None:
        """Replicas of all sites together; None without spec.placement."""
        return next((row.desired for row in self.status.sites if row.name == TOGETHER), None)

    @property
    def is_new(self) -> bool:
        """Whether a number is another one than what is stored."""
        return bool(self.events)

    @property
    def is_asleep(self) -> bool:
        """Whether there shall be none, because nobody asks for any."""
        return _is_asleep(self.status.sites)


@dataclass(frozen=True)
class Scene:
    """What scaling looks at: the deployment, its selected sites, and what gateways told of its load."""

    deployment: AutoGLMDeployment
    sites: Sequence[SiteView]
    load: History | None
    now: datetime


def scale(scene: Scene) -> Scaled | None:
    """The decision about one deployment; None for one without spec.scaling, and for one that is suspended."""
    spec = scene.deployment.spec.scaling
    if spec is None or scene.deployment.spec.suspend:
        return None
    return _Look(scene, spec).scaled


def policy(deployment: AutoGLMDeployment) -> Policy | None:
    """What is asked of the replicas of a deployment; None where they do not follow the load."""
    spec = deployment.spec.scaling
    return None if spec is None else _policy(deployment, spec)


def _policy(deployment: AutoGLMDeployment, spec: ScalingSpec) -> Policy:
    return Policy(
        least=max(spec.min, 1),
        most=spec.max,
        per_replica=spec.target.queue or deployment.spec.engine.max_concurrency,
        ttft_s=seconds(spec.target.ttft) if spec.target.ttft else None,
        window=timedelta(seconds=seconds(spec.down_after)),
    )


@dataclass(frozen=True)
class _Step:
    """One target with the decision about it."""

    before: int
    row: ScaledSite
    decision: Decision


@dataclass(frozen=True)
class _Look:
    """A deployment whose replicas follow its load."""

    scene: Scene
    spec: ScalingSpec

    @property
    def scaled(self) -> Scaled:
        steps = tuple(self._step(name) for name in self._names)
        changed = [one for one in steps if one.decision.cause not in (None, "Started")]
        status = ScalingStatus(
            sites=tuple(one.row for one in steps),
            decisions=((self._before.decisions if self._before else ()) + tuple(map(_logged, changed)))[-DECISIONS:],
        )
        again = [one.decision.again for one in steps if one.decision.again is not None]
        if (falls_asleep := self._falls_asleep_in) is not None:
            again.append(falls_asleep)
        return Scaled(status, self._verdict(steps), tuple(map(_event, changed)), min(again, default=None))

    # What is asked for

    @cached_property
    def policy(self) -> Policy:
        return _policy(self.scene.deployment, self.spec)

    # What is remembered and seen

    @cached_property
    def _before(self) -> ScalingStatus | None:
        return self.scene.deployment.status.scaling if self.scene.deployment.status else None

    @cached_property
    def _rows(self) -> Mapping[str, ScaledSite]:
        return {row.name: row for row in (self._before.sites if self._before else ())}

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.scene.deployment.spec.placement is not None:
            return (TOGETHER,)
        return tuple(sorted(view.name for view in self.scene.sites))

    @cached_property
    def _views(self) -> Mapping[str, SiteView]:
        return {view.name: view for view in self.scene.sites}

    def _of(self, name: str) -> tuple[SiteView, ...]:
        return tuple(self.scene.sites) if name == TOGETHER else (self._views[name],)

    def _figures(self, name: str) -> Figures:
        if self.scene.load is None:
            return Figures()
        return self.scene.load.figures(None if name == TOGETHER else name, self.policy.window, self.scene.now)

    def _ready(self, view: SiteView) -> int:
        """Replicas that are ready at a site, of both revisions; of a silent one as many as it last had."""
        if views.is_live(view, self.scene.now):
            owned = views.owned(view, self.scene.deployment.metadata.uid)
            return sum(found.ready_replicas for found in owned if found.status != "DELETING")
        rows = self.scene.deployment.status.sites if self.scene.deployment.status else ()
        return next((row.ready for row in rows if row.name == view.name), 0)

    def _running(self, view: SiteView) -> int:
        """Replicas that a site was asked to have before anything was decided."""
        owned = views.owned(view, self.scene.deployment.metadata.uid)
        asked = sum(applications.submitted_replicas(found) for found in owned if found.status != "DELETING")
        rows = self.scene.deployment.status.sites if self.scene.deployment.status else ()
        return asked or next((row.desired for row in rows if row.name == view.name), 0)

    @property
    def _rollout(self) -> RolloutStatus | None:
        return self.scene.deployment.status.rollout if self.scene.deployment.status else None

    @property
    def _may_fall(self) -> bool:
        """While two revisions share the load each needs what it has."""
        return self._rollout is None or (self._rollout.candidate is None and not self._is_held)

    @property
    def _is_held(self) -> bool:
        """Whether a rollout is paused: then replicas stay as they are, so no other number is decided."""
        return self._rollout is not None and self._rollout.phase == "Paused"

    # What is decided

    @cached_property
    def _sleep(self) -> ScalingReason | None:
        """Whether there shall be no replicas (Idle), or some again; None where each target decides for itself."""
        rows = tuple(self._rows.values())
        if self.spec.min > 0 or not rows:
            return "Bounds" if _is_asleep(rows) else None
        if _is_asleep(rows):
            since = min((row.since for row in rows if row.since is not None), default=self.scene.now)
            if since > self.scene.now:  # another clock's error
                since = self.scene.now - self.policy.window
            return "Woken" if is_wanted(self.scene.load, since) else "Idle"
        window, now = self.policy.window, self.scene.now
        young = any(row.since is None or (row.since <= now < self._settled_at(row, row.since) + window) for row in rows)
        return "Idle" if self._may_fall and not young and is_idle(self.scene.load, window, now) else None

    @property
    def _falls_asleep_in(self) -> timedelta | None:
        """When nothing but time is missing until there shall be no replicas: how much of it, at the least."""
        load, now, window = self.scene.load, self.scene.now, self.policy.window
        if self.spec.min > 0 or self._sleep is not None or load is None or load.load.total.in_flight:
            return None
        since, rows = load.seen_since(window), tuple(self._rows.values())
        settled = [self._settled_at(row, row.since) for row in rows if row.since is not None]
        if since is None or not rows or len(settled) < len(rows):
            return None
        begun = max(at for at in (since, load.load.asked_at, *settled) if at is not None)
        return max(begun + window - now, window / 10)

    def _settled_at(self, row: ScaledSite, since: datetime) -> datetime:
        """When the replicas of a decision were there, or when nobody waits for them any more, which may be still to come. Who
        woke a model needs time to find it awake."""
        if row.reason not in _RAISES:
            return since
        took = max(self.policy.window, STARTS_WITHIN) if row.took is None else timedelta(seconds=seconds(row.took))
        return since + took

    def _step(self, name: str) -> _Step:
        old, now = self._rows.get(name), self.scene.now
        ready = sum(map(self._ready, self._of(name)))
        if old is None:
            return self._first(name)
        if self._sleep is not None:
            decision = self._slept(old, self._sleep)
        elif self._is_held or not any(views.is_live(view, now) for view in self._of(name)):
            decision = Decision(old.desired, None, old.desired)
        else:
            standing = Standing(old.desired, ready, old.since, self._may_fall)
            decision = decide(self.policy, standing, self._figures(name), now)
        return _Step(old.desired, self._row(old, decision, ready), decision)

    def _first(self, name: str) -> _Step:
        """As many as run already, within the bounds; no site begins asleep, so that what is described is seen to serve once."""
        running = sum(map(self._running, self._of(name)))
        count = min(max(running, self.policy.least), self.policy.most)
        if self._rows and _is_asleep(tuple(self._rows.values())) and self._sleep == "Idle":
            count = 0
        text = f"{running} ran already" if running else f"spec.scaling.min is {self.spec.min}"
        row = ScaledSite(
            name=name, desired=count, reason="Started", message=text, since=self.scene.now.replace(microsecond=0)
        )
        return _Step(count, row, Decision(count, "Started", count))

    def _slept(self, old: ScaledSite, sleep: ScalingReason) -> Decision:
        desired = 0 if sleep == "Idle" else self.policy.least
        return Decision(desired, sleep if desired != old.desired else None, desired)

    def _row(self, old: ScaledSite, decision: Decision, ready: int) -> ScaledSite:
        now = self.scene.now
        if decision.cause is None:
            if old.took is not None or old.reason not in _RAISES or old.since is None or ready < old.desired:
                return old
            return old.model_copy(update={"took": duration((now - old.since).total_seconds())})
        return ScaledSite(
            name=old.name,
            desired=decision.desired,
            reason=decision.cause,
            message=clip(self._why(old.name, decision), 512),
            since=now.replace(microsecond=0),
            took=None if decision.cause in _RAISES else old.took,
        )

    def _why(self, name: str, decision: Decision) -> str:
        """Why, with the figures of now."""
        load, policy = self._figures(name).load, self.policy
        each = f"{policy.per_replica:g} for each replica"
        under_way = f"{load.in_flight:.3g} requests under way" if load is not None else "no figures"
        beyond = f"; the load asks for {decision.asked}" if decision.asked > decision.desired else ""
        match decision.cause:
            case "LoadRose":
                return f"{under_way}, {each}{beyond}"
            case "FirstBytesLate":
                late = duration(load.ttft_s) if load is not None and load.ttft_s is not None else "late"
                return f"95 % of the answers begin within {late}, the target is {self.spec.target.ttft}{beyond}"
            case "LoadFell":
                peak = self._figures(name).peak or 0.0
                return f"at most {peak:.3g} requests under way for {self.spec.down_after}, {each}"
            case "Idle":
                return f"no request for {self.spec.down_after}"
            case "Woken":
                return "a request came"
            case _:
                return f"spec.scaling allows {self.spec.min} to {self.spec.max}"

    # What is told

    def _verdict(self, steps: Sequence[_Step]) -> Verdict:
        """Whether the replicas follow the load. Its words have no figures: they stay while nothing changes."""
        if _is_asleep(tuple(one.row for one in steps)):
            return Verdict(
                "True", "ScaledToZero", f"no request for {self.spec.down_after}: the next one wakes the model"
            )
        load, now = self.scene.load, self.scene.now
        if load is None or not load.is_fresh(now):
            return Verdict("Unknown", "LoadUnknown", "no gateway tells the load: replicas stay as they are")
        if load.since is None:
            text = "not every gateway tells the load: replicas are added by what is known, and none are taken away"
            return Verdict("Unknown", "LoadUnknown", text)
        full = [one.row.name for one in steps if self._is_full(one)]
        if full:
            where = "" if full == [TOGETHER] else f" at {', '.join(full)}"
            text = f"the load asks for more than spec.scaling.max, which is {self.spec.max}{where}"
            return Verdict("True", "AtMaximum", clip(text))
        return Verdict("True", "FollowingLoad", f"replicas follow the load, from {self.spec.min} to {self.spec.max}")

    def _is_full(self, step: _Step) -> bool:
        """Whether the load asked for more than the maximum within the window: one that comes and goes is not told each time."""
        if step.row.desired < self.spec.max:
            return False
        peak = self._figures(step.row.name).peak or 0.0
        return step.decision.asked > self.spec.max or peak > self.spec.max * self.policy.per_replica * (1 + TOLERANCE)


def of_total(deployment: AutoGLMDeployment, scaled: Scaled | None) -> AutoGLMDeployment:
    """The deployment as placement sees it: with the replicas that scaling decided."""
    if scaled is None or scaled.total is None:
        return deployment
    return deployment.model_copy(update={"spec": deployment.spec.model_copy(update={"replicas": scaled.total})})


def _is_asleep(rows: Sequence[ScaledSite]) -> bool:
    return bool(rows) and all(row.desired == 0 for row in rows)


def _logged(step: _Step) -> ScalingDecision:
    row = step.row
    assert row.since is not None, "a decision has its time"
    return ScalingDecision(
        at=row.since, site=row.name, before=step.before, after=row.desired, reason=row.reason, message=row.message
    )


def _event(step: _Step) -> Event:
    where = "" if step.row.name == TOGETHER else f"{step.row.name}: "
    up = step.row.desired > step.before
    text = f"{where}{step.before} -> {step.row.desired} replicas: {step.row.message}"
    return Event("Normal", "ScaledUp" if up else "ScaledDown", text)
