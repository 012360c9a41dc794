"""The decision about one AutoGLMDeployment: what was observed in, what to do out.

Order of the checks: deletion, spec, suspension, selection of sites, each site, gateways. Three rules stand above all:
- what belongs to somebody else is never touched;
- a site that does not answer is never written to, and its last figures stay with their age;
- nothing is written while nothing changes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from autoglm_operator import applications, conditions, deletion, placement, revision, routes, views
from autoglm_operator.ages import PROGRESSING, STEADY, backoff
from autoglm_operator.api import (
    AutoGLMDeployment,
    DeploymentCondition,
    DeploymentSiteStatus,
    DeploymentStatus,
    GatewayTable,
    ObjectMeta,
    SiteState,
)
from autoglm_operator.api.quantities import seconds
from autoglm_operator.state import (
    FINALIZER,
    ApplyApplication,
    DeleteApplication,
    Event,
    InvalidDeployment,
    Observed,
    Plan,
    Published,
    SiteOutcome,
    SiteView,
    Verdict,
    clip,
)
from autoglm_serving.config import AppConfig
from autoglm_serving.routing_table import Route

SELECTOR = "serving.autoglm.dev/deployment"
MAX_ROWS = 256


def reconcile(deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """Decide what to do about a deployment. Pure: the same input gives the same plan."""
    if deployment.metadata.deletion_timestamp is not None:
        return _delete(deployment, observed, now)
    if isinstance(deployment, InvalidDeployment):
        return _refuse(deployment, observed, now)
    return _Pass(deployment, observed, now).plan()


def _refuse(deployment: InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """A spec that cannot be used: what runs goes on running as it was, and the status says what to repair."""
    before = deployment.status or DeploymentStatus()
    text = "; ".join(str(problem) for problem in deployment.problems) or "the spec cannot be used"
    verdicts = conditions.uniform(Verdict("False", "InvalidSpec", text))
    generation = deployment.metadata.generation
    written = conditions.written(verdicts, deployment.status, generation, now)
    status = before.model_copy(update={"observed_generation": generation, "conditions": written})
    return Plan(
        status=status,
        requeue_after=STEADY,
        events=conditions.events(deployment.status, written),
        routes=observed.published.routes if observed.published else (),
    )


def _delete(deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """Routes leave at once, applications wherever they are, and the finalizer when they are gone or at the deadline."""
    meta, before = deployment.metadata, deployment.status or DeploymentStatus()
    assert meta.deletion_timestamp is not None, "only called for a deletion"
    deadline = _deadline(deployment)
    step = deletion.step(_remains(deployment, observed, now), meta.deletion_timestamp, deadline, now)
    held = FINALIZER in meta.finalizers
    verdict = Verdict("False", "Deleting", step.message or "nothing is left")
    moving = Verdict("False" if step.finished else "True", "Deleting", verdict.message)
    written = conditions.written(conditions.uniform(verdict, others=moving), deployment.status, meta.generation, now)
    rows = tuple(_leaving_row(one, before, now) for one in step.pending)
    status = before.model_copy(
        update={
            "observed_generation": meta.generation,
            "conditions": written,
            "sites": rows[:MAX_ROWS],
            "replicas": sum(row.ready for row in rows),
            "ready_replicas": sum(row.ready for row in rows),
            "gateway_table": None,
        }
    )
    told = conditions.events(deployment.status, written)
    return Plan(
        status=conditions.settled(deployment.status, status),
        requeue_after=PROGRESSING if not observed.failures else backoff(observed.failures),
        applications=step.changes if held else (),
        remove_finalizer=held and step.finished,
        events=(*told, deletion.gave_up(step, deadline)) if held and step.expired else told,
    )


def _deadline(deployment: AutoGLMDeployment | InvalidDeployment) -> timedelta:
    if isinstance(deployment, InvalidDeployment):
        return deletion.DEFAULT_DEADLINE
    return timedelta(seconds=seconds(deployment.spec.deletion_deadline))


def _remains(
    deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime
) -> tuple[deletion.Remains, ...]:
    """Every site where an application of this deployment is, or where nobody can tell that none is."""
    uid = deployment.metadata.uid
    submitted = {row.name for row in (deployment.status or DeploymentStatus()).sites if row.revision is not None}
    sites = tuple(view.site for view in observed.sites)
    remains = []
    for view in sorted(observed.sites, key=lambda view: view.name):
        if placement.duplicate_of(view.site, sites) is not None:
            continue
        if views.is_live(view, now):
            remains.append(deletion.Remains(view.name, views.owned(view, uid)))
        elif view.name in submitted or views.owned(view, uid):
            remains.append(deletion.Remains(view.name, None, views.silence(view, now).message))
    invalid = {site.metadata.name for site in observed.invalid_sites}
    remains += [
        deletion.Remains(name, None, "the site's spec cannot be used, so it cannot be reached")
        for name in sorted(submitted & invalid)
    ]
    return tuple(remains)


def _leaving_row(remains: deletion.Remains, before: DeploymentStatus, now: datetime) -> DeploymentSiteStatus:
    old = next((row for row in before.sites if row.name == remains.site), None)
    seen = remains.seen[0] if remains.seen else None
    return DeploymentSiteStatus(
        name=remains.site,
        desired=0,
        ready=seen.ready_replicas if seen else (old.ready if old else 0),
        revision=(seen.revision if seen else None) or (old.revision if old else None),
        state="Deleting",
        message=clip("Ray Serve is removing the application" if seen else remains.why_unknown),
        observed_at=now.replace(microsecond=0) if seen else (old.observed_at if old else None),
    )


class _Pass:
    """One decision about a deployment that shall exist. Holds the input, so that steps need not hand it on."""

    def __init__(self, deployment: AutoGLMDeployment, observed: Observed, now: datetime) -> None:
        self.deployment = deployment
        self.observed = observed
        self.now = now
        self.meta: ObjectMeta = deployment.metadata
        self.before = deployment.status
        self.rows = {row.name: row for row in (deployment.status.sites if deployment.status else ())}
        self.config: AppConfig = revision.stamp(applications.config(deployment))
        self.wanted = applications.wanted(self.config, max(deployment.spec.replicas, 1))
        self.selection = placement.select(deployment.spec.sites, observed.sites, observed.invalid_sites)
        self.stopped = _stopped(deployment)

    def plan(self) -> Plan:
        """All steps in order."""
        outcomes = tuple(self._site(view) for view in self.selection.views)
        leaving = self._leaving(outcomes)
        route = self._route(outcomes, leaving)
        farewell = tuple(self._farewell(place, route) for place in leaving)
        checks = self._gateway_checks(route)
        verdicts = self._verdicts(outcomes, farewell, checks, route)
        written = conditions.written(verdicts, self.before, self.meta.generation, self.now)
        changes = tuple(outcome.change for outcome in (*outcomes, *farewell) if outcome.change is not None)
        return Plan(
            status=conditions.settled(self.before, self._status((*outcomes, *farewell), written, route)),
            requeue_after=self._again(verdicts, bool(changes)),
            applications=changes,
            add_finalizer=FINALIZER not in self.meta.finalizers,
            events=(*self._news(), *conditions.events(self.before, written)),
            routes=() if route is None else (route,),
        )

    # --- sites

    def _site(self, view: SiteView) -> SiteOutcome:
        if not views.is_live(view, self.now):
            return self._silent(view, self.deployment.spec.replicas if self.stopped is None else 0)
        return self._served(view) if self.stopped is None else self._emptied(view)

    def _served(self, view: SiteView) -> SiteOutcome:
        found = views.application(view, self.wanted.name)
        standing = applications.judge(found, self.wanted, self._history(view), self.now)
        row = DeploymentSiteStatus(
            name=view.name,
            desired=self.wanted.replicas,
            ready=standing.ready,
            revision=found.revision if found and found.owner_uid == self.wanted.uid else None,
            state=standing.state,
            message=clip(standing.message),
            observed_at=_second(view.observed_at),
        )
        change: ApplyApplication | DeleteApplication | None = None
        if standing.apply:
            change = ApplyApplication(view.name, self.wanted.application)
        elif standing.restart:
            change = DeleteApplication(view.name, self.wanted.name, self.wanted.uid)
        return SiteOutcome(row, standing.reason, True, change)

    def _emptied(self, view: SiteView) -> SiteOutcome:
        """A live site of a deployment that shall serve nothing."""
        assert self.stopped is not None, "only called for a stopped deployment"
        found = next(iter(views.owned(view, self.meta.uid)), None)
        row = DeploymentSiteStatus(
            name=view.name,
            ready=found.ready_replicas if found else 0,
            revision=found.revision if found else None,
            state="Deleting" if found else "Suspended",
            message="the application is being removed" if found else self.stopped.message,
            observed_at=_second(view.observed_at),
        )
        change = (
            DeleteApplication(view.name, found.name, self.meta.uid) if found and found.status != "DELETING" else None
        )
        return SiteOutcome(row, "Deleting" if found else self.stopped.reason, True, change)

    def _silent(self, view: SiteView, desired: int) -> SiteOutcome:
        """A site that does not answer keeps its last figures and their age, and is left as it is."""
        why, old = views.silence(view, self.now), self.rows.get(view.name)
        phase = views.phase(view, self.now)
        state: SiteState = "Pending" if phase is None else "Unreachable" if phase == "Unreachable" else "Stale"
        seen = _second(view.observed_at) or (old.observed_at if old else None)
        row = DeploymentSiteStatus(
            name=view.name,
            desired=desired,
            ready=old.ready if old else 0,
            revision=old.revision if old else None,
            state=state,
            message=clip(why.message),
            observed_at=seen,
        )
        return SiteOutcome(row, why.reason, False)

    def _history(self, view: SiteView) -> applications.History:
        old = self.rows.get(view.name)
        earned = (
            old is not None
            and old.revision == self.wanted.revision
            and old.ready > 0
            and views.is_admitted(self.observed.gateways, self._target(view.name), self.now)
        )
        ready = conditions.find(self.before, "SitesReady")
        failing = ready.last_transition_time if ready and ready.status != "True" else None
        return applications.History(earned, old is not None and old.revision is not None, failing)

    # --- sites that are being left

    def _leaving(self, outcomes: tuple[SiteOutcome, ...]) -> tuple["_Leaving", ...]:
        """Sites that are not selected any more and still have, or may have, the application."""
        chosen = {outcome.name for outcome in outcomes}
        duplicates = {choice.site for choice in self.selection.choices if choice.outcome == "Duplicate"}
        keep = self._keeps_leaving_sites(outcomes)
        places = []
        for view in sorted(self.observed.sites, key=lambda view: view.name):
            if view.name in chosen or view.name in duplicates:
                continue
            found, live = views.owned(view, self.meta.uid), views.is_live(view, self.now)
            old = self.rows.get(view.name)
            if found or (not live and old is not None and old.revision is not None):
                places.append(_Leaving(view, live, keep))
        return tuple(places)

    def _keeps_leaving_sites(self, outcomes: tuple[SiteOutcome, ...]) -> bool:
        """Whether the sites that are being left still have to serve, because the others do not yet."""
        if self.stopped is not None or not (outcomes or self.selection.problems):
            return False
        ready = all(
            outcome.live
            and outcome.status.state == "Ready"
            and views.is_admitted(self.observed.gateways, self._target(outcome.name), self.now)
            for outcome in outcomes
        )
        return bool(self.selection.problems) or not ready

    def _farewell(self, place: "_Leaving", route: Route | None) -> SiteOutcome:
        """A site that is being left: the others get ready, then the routes leave, then the application goes."""
        view, old = place.view, self.rows.get(place.view.name)
        found = next(iter(views.owned(view, self.meta.uid)), None)
        change = None
        if not place.live:
            text = f"not selected any more; the application goes when the site answers: {views.silence(view, self.now).message}"
        elif place.keep:
            text = "not selected any more; serves until the other sites are ready"
        elif not self._left_routes(view.name, route):
            text = "not selected any more; gateways are being told"
        else:
            text = "not selected any more; the application is being removed"
            if found is not None and found.status != "DELETING":
                change = DeleteApplication(view.name, found.name, self.meta.uid)
        row = DeploymentSiteStatus(
            name=view.name,
            ready=found.ready_replicas if found and place.live else (old.ready if old else 0),
            revision=(found.revision if found else None) or (old.revision if old else None),
            state="Deleting",
            message=clip(text),
            observed_at=_second(view.observed_at) or (old.observed_at if old else None),
        )
        return SiteOutcome(row, "Deleting", place.live, change)

    def _left_routes(self, site: str, route: Route | None) -> bool:
        """Whether every gateway that answers has a table without the site."""
        answering = views.reporting(self.observed.gateways, self.now)
        if not answering:
            return True
        published = self._published(route)
        if published is None or any(end.site == site for sent in published.routes for end in sent.endpoints):
            return False
        return all(views.holds(view, published) for view in answering)

    # --- routes and gateways

    def _route(self, outcomes: tuple[SiteOutcome, ...], leaving: tuple["_Leaving", ...]) -> Route | None:
        if routes.holder(self.deployment, self.observed.deployments) is not None:
            return None
        by_name = {view.name: view for view in self.observed.sites}
        stops = [
            routes.Stop(by_name[outcome.name], self.config.revision)
            for outcome in outcomes
            if outcome.status.state != "Conflict"
        ]
        stops += [routes.Stop(place.view, self._revision_at(place.view)) for place in leaving if place.keep]
        return routes.route(self.deployment, self.config, stops, suspended=self.stopped is not None)

    def _revision_at(self, view: SiteView) -> str:
        found = next(iter(views.owned(view, self.meta.uid)), None)
        old = self.rows.get(view.name)
        return (found.revision if found else None) or (old.revision if old else None) or self.config.revision

    def _target(self, site: str) -> views.Target:
        return views.Target(self.config.deployment, site, self.config.revision)

    def _published(self, route: Route | None) -> Published | None:
        """The published table, if it carries exactly the present routes."""
        published = self.observed.published
        wanted = () if route is None else (route,)
        return published if published is not None and published.routes == wanted else None

    def _gateway_checks(self, route: Route | None) -> tuple[Verdict, ...]:
        old = conditions.find(self.before, "GatewayReady")
        confirmed = old is not None and old.status == "True" and old.observed_generation == self.meta.generation
        targets = tuple(self._target(view.name) for view in self.selection.views)
        needs = views.Admissible(targets, self._published(route), confirmed)
        return views.gateway_checks(self.observed.gateways, needs, self.now)

    # --- verdicts

    def _verdicts(
        self,
        outcomes: tuple[SiteOutcome, ...],
        farewell: tuple[SiteOutcome, ...],
        checks: tuple[Verdict, ...],
        route: Route | None,
    ) -> conditions.Verdicts:
        if self.stopped is not None:
            return self._stopped_verdicts((*outcomes, *farewell))
        sites = self._sites_verdict(outcomes)
        gateway = self._gateway_verdict(checks, route)
        good = Verdict("True", "Answering", f"revision {self.config.revision} answers at {_count(outcomes)}")
        return {
            "Ready": conditions.combine((sites, gateway), good),
            "SitesReady": sites,
            "GatewayReady": gateway,
            "Progressing": conditions.progressing((*outcomes, *farewell), sites, gateway),
            "Degraded": conditions.degraded(outcomes, checks),
        }

    def _stopped_verdicts(self, outcomes: tuple[SiteOutcome, ...]) -> conditions.Verdicts:
        assert self.stopped is not None, "only called for a stopped deployment"
        left = [outcome for outcome in outcomes if outcome.status.state == "Deleting" and outcome.live]
        text = "; ".join(f"{outcome.name}: {outcome.status.message}" for outcome in left)
        moving = (
            Verdict("True", "Deleting", text) if left else Verdict("False", self.stopped.reason, "nothing is under way")
        )
        return conditions.uniform(self.stopped, others=moving)

    def _sites_verdict(self, outcomes: tuple[SiteOutcome, ...]) -> Verdict:
        wrong = placement.verdict(self.selection)
        checks = tuple(conditions.site_check(outcome) for outcome in outcomes)
        good = Verdict("True", "UpToDate", f"revision {self.config.revision} runs at {_count(outcomes)}")
        return conditions.combine(((wrong,) if wrong else ()) + checks, good)

    def _gateway_verdict(self, checks: tuple[Verdict, ...], route: Route | None) -> Verdict:
        if route is None:
            other = routes.holder(self.deployment, self.observed.deployments)
            assert other is not None, "a route is withheld for this reason alone"
            name = f"{other.metadata.namespace or 'default'}/{other.metadata.name}"
            text = (
                f"model name {self.config.model.name} is held by {name}, which is older: choose another spec.model.name"
            )
            return Verdict("False", "ModelNameTaken", text)
        if not self.observed.gateways:
            return Verdict("Unknown", "GatewayMissing", "the operator knows no gateway: start it with --gateway URL")
        if not self.selection.views:
            return Verdict("False", "NoSites", "there is no site to send traffic to")
        return conditions.combine(checks, Verdict("True", "Admitted", f"revision {self.config.revision} is admitted"))

    # --- status

    def _status(
        self,
        outcomes: tuple[SiteOutcome, ...],
        written: tuple[DeploymentCondition, ...],
        route: Route | None,
    ) -> DeploymentStatus:
        rows = tuple(outcome.status for outcome in outcomes)
        return DeploymentStatus(
            observed_generation=self.meta.generation,
            revision=self.config.revision,
            replicas=sum(self._running(outcome) for outcome in outcomes),
            ready_replicas=sum(row.ready for row in rows),
            selector=f"{SELECTOR}={self.meta.name}",
            conditions=written,
            sites=rows[:MAX_ROWS],
            gateway_table=self._table(route),
        )

    def _running(self, outcome: SiteOutcome) -> int:
        """Replicas that run at a site, of whatever revision."""
        view = next((view for view in self.observed.sites if view.name == outcome.name), None)
        if view is None or not outcome.live:
            return outcome.status.ready
        return sum(found.ready_replicas for found in views.owned(view, self.meta.uid))

    def _table(self, route: Route | None) -> GatewayTable | None:
        published = self._published(route)
        if published is None:
            return self.before.gateway_table if self.before and route is not None else None
        holders = [
            view.observed_at for view in self.observed.gateways if views.holds(view, published) and view.observed_at
        ]
        seen = _second(max(holders)) if holders else None
        return GatewayTable(epoch=published.epoch, version=published.version, observed_at=seen)

    def _news(self) -> tuple[Event, ...]:
        old = self.before.revision if self.before else None
        if old is None or old == self.config.revision or self.stopped is not None:
            return ()
        return (Event("Normal", "RollingOut", f"revision {self.config.revision} replaces {old}"),)

    def _again(self, verdicts: conditions.Verdicts, changes: bool) -> timedelta:
        if self.observed.failures:
            return backoff(self.observed.failures)
        return PROGRESSING if changes or verdicts["Progressing"].status == "True" else STEADY


@dataclass(frozen=True)
class _Leaving:
    """A site that is being left. `keep` says that it serves until the others do."""

    view: SiteView
    live: bool
    keep: bool


def _stopped(deployment: AutoGLMDeployment) -> Verdict | None:
    """Why a deployment shall serve nothing, if so."""
    if deployment.spec.suspend:
        return Verdict("False", "Suspended", "spec.suspend is true: set it to false to serve again")
    if deployment.spec.replicas == 0:
        return Verdict("False", "ScaledToZero", "spec.replicas is 0: raise it to serve again")
    return None


def _count(outcomes: tuple[SiteOutcome, ...]) -> str:
    return "1 site" if len(outcomes) == 1 else f"{len(outcomes)} sites"


def _second(moment: datetime | None) -> datetime | None:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.replace(microsecond=0) if moment else None
