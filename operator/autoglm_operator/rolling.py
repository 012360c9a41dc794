"""A deployment with two revisions: what was observed of both in, and out what to tell gateways, sites and the status.

The stable revision is the deployment's `Subject`, with its own arguments, application and sizes; everything that is decided
about a single revision holds for it. The candidate has an application of its own at every site, under the other of two
names, which the two revisions take in turn; with the back end kubeRay that is a RayService of its own.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from autoglm_operator import applications, candidate, routes, views
from autoglm_operator.api import GatewayTraffic, KnownRevision, RolloutStatus, WorkerSpec
from autoglm_operator.kuberay import names
from autoglm_operator.rollout import history, machine, policy, record, sizes, terms
from autoglm_operator.rollout.gates import Figures
from autoglm_operator.state import ApplicationChange, ApplicationView, Event, SiteView, Verdict
from autoglm_operator.subject import Lead, Subject
from autoglm_serving.config import AppConfig
from autoglm_serving.measurements import RevisionReport, merged
from autoglm_serving.routing_table import Canary

SECOND = ".2"
"""Ending of the second of the two names that a deployment's applications have."""


@dataclass(frozen=True)
class Rolling:
    """The rollout of one deployment after one decision."""

    subject: Subject
    """The stable revision."""
    decision: terms.Decision
    other: candidate.Candidate | None
    status: RolloutStatus

    @cached_property
    def changes(self) -> tuple[ApplicationChange, ...]:
        """What to write for the candidate. Nothing while the rollout is paused."""
        if self.other is None or self.decision.phase == "Paused":
            return ()
        return tuple(change for place in self.other.places if (change := place.change) is not None)

    @property
    def leftovers(self) -> tuple[ApplicationChange, ...]:
        """Takes away the applications of this deployment that are neither revision's. Nothing while the rollout is paused."""
        subject = self.subject
        if subject.stopped is not None or self.decision.phase == "Paused":
            return ()
        return tuple(
            candidate.deletion(view, app)
            for view in subject.chosen
            if subject.is_live(view)
            for app in views.owned(view, subject.deployment.metadata.uid)
            if app.status != "DELETING" and _stands_where_named(view, app) and not self._has_place(view, app)
        )

    def _has_place(self, view: SiteView, app: ApplicationView) -> bool:
        return app is self.subject.found(view) or (self.other is not None and self.other.has_place(view, app))

    @property
    def canary(self) -> Canary | None:
        """The candidate as gateways are told of it."""
        other, memory = self.other, self.decision.memory
        if other is None or self.subject.stopped is not None:
            return None
        spec = self.subject.deployment.spec.rollout
        mirror = spec.mirror if memory.step < len(memory.steps) else None
        stops = [
            routes.Stop(view, other.config.revision, other.name)
            for view in self.subject.chosen
            if other.stands_at(view)
        ]
        return Canary(
            revision=other.config.revision,
            endpoints=routes.endpoints(other.config, stops),
            weight=memory.weight,
            mirror=mirror.percent if mirror else 0,
            mirror_concurrency=mirror.concurrency if mirror else 4,
            tolerance=mirror.tolerance if mirror else 20,
            window=memory.window,
        )

    @property
    def verdict(self) -> Verdict:
        """Whether what the spec describes serves all traffic."""
        text = self.decision.message
        match self.decision.phase:
            case "Stable":
                return Verdict("True", "UpToDate", text)
            case "Progressing":
                return Verdict("False", "RollingOut", text)
            case "Paused":
                return Verdict("False", "RolloutPaused", text)
            case "RolledBack":
                return Verdict("False", "RolledBack", text)
            case "Blocked":
                return Verdict("False", "RolloutBlocked", text)

    @property
    def events(self) -> tuple[Event, ...]:
        """What was decided just now."""
        return tuple(
            Event(
                "Warning" if one.action == "RolledBack" else "Normal",
                "RolledBack" if one.action == "RolledBack" else "RollingOut",
                f"revision {one.revision}: {one.action}: {one.reason}",
            )
            for one in self.decision.taken
        )


def begin(subject: Subject) -> Rolling | None:
    """The rollout of a deployment that has steps, or had some; None where Serve replaces replicas in place."""
    before = subject.deployment.status.rollout if subject.deployment.status else None
    if subject.deployment.spec.rollout.steps is None:
        return None if before is None else _in_place(subject, before)
    return _Beginning(subject, before).rolling


def _in_place(subject: Subject, before: RolloutStatus) -> Rolling:
    """The steps were taken out of the spec: the application keeps its name, and what the spec describes goes there."""
    name = subject.config.revision
    memory = terms.Memory(stable=name, attempt=before.attempt, proven=before.proven)
    decision = terms.Decision(memory, "Stable", f"revision {name} goes in place: the spec has no steps")
    scene = record.Scene(before.application, before.revisions, ())
    base = applications.wanted(subject.config, 1).name
    other = _other_name(base, before.application)
    replicas = {view.name: _alone(subject, view, before.application, other) for view in subject.chosen}
    led = replace(subject, lead=Lead(subject.config, before.application, replicas))
    return Rolling(led, decision, None, record.status(before, decision, scene, subject.now))


def _other_name(base: str, name: str) -> str:
    """The other one of the two names that the revisions of a deployment take in turn."""
    return base + SECOND if name == base else base


def _alone(subject: Subject, view: SiteView, name: str, other: str) -> int:
    """Replicas of the stable revision's application while the other one is going, or gone."""
    there, beside = (candidate.counts(views.placed(view, one)) for one in (name, other))
    return sizes.alone(candidate.room(subject, view.name), there, beside.held)


@dataclass(frozen=True)
class _Beginning:
    """One decision in the making. `subject` is that of the spec."""

    subject: Subject
    before: RolloutStatus | None

    @cached_property
    def rolling(self) -> Rolling:
        memory, before, subject = self.memory, self.before, self.subject
        seen = self._seen(memory)
        if subject.stopped is not None:
            decision = machine.stop(memory, "nothing serves, so nothing is rolled out")
        else:
            decision = machine.advance(self.policy, memory, seen, subject.now)
        if decision.phase == "Paused" and before is not None:
            status = before.model_copy(update={"phase": "Paused", "message": decision.message})
            return Rolling(self._lead(decision), decision, self._candidate(decision.memory), status)
        scene = record.Scene(self._application(decision.memory), self._remembered(decision), self._traffic())
        status = record.status(before, decision, scene, subject.now)
        return Rolling(self._lead(decision), decision, self._candidate(decision.memory), status)

    # What is remembered

    @cached_property
    def policy(self) -> terms.Policy:
        return policy.of(self.subject.deployment, direct=self._goes_back)

    @property
    def _goes_back(self) -> bool:
        """Whether the spec names a revision that was good before, which takes over without steps and gates."""
        named = self.subject.deployment.spec.rollout.revision
        if named is None or self.memory.candidate == named:
            return named is not None and not self.memory.steps
        known = self.before.revisions if self.before else ()
        return any(one.revision == named and one.state in ("Stable", "Retired") for one in known)

    @cached_property
    def base(self) -> str:
        return applications.wanted(self.subject.config, 1).name

    @cached_property
    def adopted(self) -> ApplicationView | None:
        """An application of another revision that ran before there were steps: it is what is good until now."""
        if self.before is not None:
            return None
        name = self.subject.config.revision
        found = [
            app
            for view in self.subject.chosen
            if self.subject.is_live(view) and (app := views.placed(view, self.base)) is not None
            if app.owner_uid == self.subject.deployment.metadata.uid and app.revision not in (None, name)
            if app.status == "RUNNING" and app.ready_replicas > 0
        ]
        return max(found, key=lambda app: (app.ready_replicas, str(app.revision)), default=None)

    @cached_property
    def memory(self) -> terms.Memory:
        if self.before is None:
            old = self.adopted
            if old is not None and history.restored(old.args or {}, str(old.revision), self.subject.config):
                return terms.Memory(stable=str(old.revision), proven=True)
            return terms.Memory(stable=self.subject.config.revision, proven=self._answers(self.subject.config.revision))
        found = record.memory(self.before)
        if self.config(found.stable) is None:
            return replace(found, stable=self.subject.config.revision, candidate=None, weight=0)
        return replace(found, proven=found.proven or self._answers(found.stable))

    def _answers(self, revision: str) -> bool:
        """Whether a gateway gets real answers of this revision at a selected site."""
        of, gateways, now = self.subject.config.deployment, self.subject.observed.gateways, self.subject.now
        return any(
            views.is_admitted(gateways, views.Target(of, view.name, revision), now) for view in self.subject.chosen
        )

    def config(self, revision: str) -> AppConfig | None:
        """The arguments of a revision, if they are known."""
        known = self.before.revisions if self.before else ()
        found = history.config(known, revision, self.subject.config)
        if found is None and self.adopted is not None and self.adopted.revision == revision:
            return history.restored(self.adopted.args or {}, revision, self.subject.config)
        return found

    def _application(self, memory: terms.Memory) -> str:
        """The name of the stable revision's application: a promotion takes the other of the two."""
        if self.before is None:
            return self.base
        promoted = memory.stable != self.memory.stable and memory.stable == self.memory.candidate
        return _other_name(self.base, self.before.application) if promoted else self.before.application

    def _remembered(self, decision: terms.Decision) -> tuple[KnownRevision, ...]:
        memory = decision.memory
        names = [name for name in (memory.stable, memory.candidate) if name is not None]
        configs = {name: config for name in names if (config := self.config(name)) is not None}
        known = self.before.revisions if self.before else ()
        now = self.subject.now.replace(microsecond=0)
        limit = self.subject.deployment.spec.rollout.history_limit
        found = history.remembered(known, decision, configs, limit, now)
        return history.with_worker(found, self.subject.config.revision, self.subject.deployment.spec.worker)

    def _worker(self, revision: str) -> WorkerSpec | None:
        """What the pods of a revision are made from; None where that is not remembered."""
        if revision == self.subject.config.revision:
            return self.subject.deployment.spec.worker
        return history.worker(self.before.revisions if self.before else (), revision)

    # What is observed

    def _seen(self, memory: terms.Memory) -> terms.Situation:
        target = self.subject.deployment.spec.rollout.revision or self.subject.config.revision
        seen = terms.Situation(target=target, blocked=self._blocked(target))
        other = self._candidate(memory)
        if other is None:
            return seen
        found = other.progress(memory.goal)
        return replace(
            seen,
            level=found.level,
            waiting=found.waiting,
            failed=found.failed,
            need=found.need,
            applied=self._applied(other.config.revision),
            figures=self._figures(memory),
        )

    def _blocked(self, target: str) -> str:
        config = self.config(target)
        if config is None:
            return f"revision {target} is not in the history: spec.rollout.revision must be one of status.rollout.revisions"
        made = [view.name for view in self.subject.chosen if view.site.spec.backend.kube_ray is not None]
        if made and config.encoder is not None:
            return (
                f"revision {target} has encoders, for which the pods of sites with the back end kubeRay have no room"
                f" ({', '.join(made)}): remove spec.encoder, or choose other sites"
            )
        return ""

    def _reports(self) -> tuple[tuple[RevisionReport, ...], ...]:
        """What each gateway says of this deployment; a gateway that is not heard says nothing."""
        heard = views.reporting(self.subject.observed.gateways, self.subject.now)
        of = self.subject.config.deployment
        told = [tuple(one for one in view.report.revisions if one.deployment == of) for view in heard if view.report]
        return tuple(told)

    def _applied(self, revision: str) -> int | None:
        """The candidate's share, if every gateway reports the same one."""
        reports = self._reports()
        if len(reports) < len(self.subject.observed.gateways):
            return None
        weights = {next((one.weight for one in told if one.revision == revision), None) for told in reports}
        return weights.pop() if len(weights) == 1 else None

    def _figures(self, memory: terms.Memory) -> Figures:
        told = [one for reports in self._reports() for one in reports if one.window == memory.window]
        return Figures(
            merged(one for one in told if one.revision == memory.stable),
            merged(one for one in told if one.revision == memory.candidate),
        )

    def _traffic(self) -> tuple[GatewayTraffic, ...]:
        return record.traffic(self.subject.observed.gateways, self.subject.config.deployment)

    # What is wanted

    def _candidate(self, memory: terms.Memory) -> candidate.Candidate | None:
        config = self.config(memory.candidate) if memory.candidate is not None else None
        if config is None or self.subject.stopped is not None:
            return None
        name = _other_name(self.base, self._application(memory))
        worker = self._worker(config.revision)
        return candidate.Candidate(self.subject, config, name, self._application(memory), memory.goal, worker)

    def _lead(self, decision: terms.Decision) -> Subject:
        """The stable revision as the subject of everything that is decided about a single one."""
        memory, subject = decision.memory, self.subject
        config = self.config(memory.stable) or subject.config
        name, other = self._application(memory), self._candidate(memory)
        beside = _other_name(self.base, name)
        replicas: dict[str, int] = {}
        for view in subject.chosen:
            if decision.phase == "Paused":
                there = candidate.counts(views.placed(view, name))
                replicas[view.name] = there.target or _alone(subject, view, name, beside)
            elif other is not None:
                replicas[view.name] = other.at(view).sizes.stable
            else:
                replicas[view.name] = _alone(subject, view, name, beside)
        worker = self._worker(config.revision)
        return replace(subject, lead=Lead(config, name, replicas, worker, accompanied=other is not None))


def _stands_where_named(view: SiteView, app: ApplicationView) -> bool:
    """Whether an application can be taken away by its name. Two sites may share a namespace, and a person may have taken the
    label of a RayService away by which one is told from the other."""
    service = app.ray_service
    if service is None:
        return True
    return service.name == (names.of_unnamed(app.name) or names.ray_service(app.name, view.name))
