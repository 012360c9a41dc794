"""The decision about one AutoGLMDeployment: what was observed in, what to do out.

Order of the checks: deletion, spec, suspension, selection of sites, each site, gateways. Three rules stand above all:
- what belongs to somebody else is never touched;
- a site that does not answer is never written to, and its last figures stay with their age;
- nothing is written while nothing changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoglm_operator import (
    conditions,
    last_routes,
    leaving,
    news,
    outcomes,
    placement,
    removal,
    rolling,
    routes,
    variants,
    views,
)
from autoglm_operator.ages import AT_REST, PROGRESSING, STEADY, WAITING, backoff
from autoglm_operator.api import AutoGLMDeployment, DeploymentCondition, DeploymentStatus, GatewayTable
from autoglm_operator.state import (
    FINALIZER,
    ApplicationChange,
    Event,
    InvalidDeployment,
    Observed,
    Plan,
    Published,
    SiteOutcome,
    SiteView,
    Verdict,
)
from autoglm_operator.subject import Subject
from autoglm_serving.routing_table import Route

SELECTOR = "serving.autoglm.dev/deployment"
MAX_ROWS = 256


def reconcile(deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """Decide what to do about a deployment. Pure: the same input gives the same plan."""
    if deployment.metadata.deletion_timestamp is not None:
        return removal.plan(deployment, observed, now)
    if isinstance(deployment, InvalidDeployment):
        return _refuse(deployment, observed, now)
    subject = Subject(deployment, observed, now)
    return _serve(subject, rolling.begin(subject))


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
        routes=last_routes.of(deployment, observed),
    )


def _serve(spec: Subject, rollout: rolling.Rolling | None) -> Plan:
    """A deployment that shall exist, step by step. While a rollout is under way the stable revision is what is judged."""
    subject = spec if rollout is None else rollout.subject
    selected = outcomes.at_all(subject)
    places = leaving.find(subject, selected)
    route = _route(subject, selected, places, rollout)
    published = _published(subject, route)
    left = tuple(leaving.farewell(subject, place, published) for place in places)
    verdicts = _with_scaling(subject, _with_rollout(_verdicts(subject, selected, left, route), rollout))
    meta, before = subject.deployment.metadata, subject.deployment.status
    written = conditions.written(verdicts, before, meta.generation, subject.now)
    changes = tuple(outcome.change for outcome in (*selected, *left) if outcome.change is not None)
    changes += _of_rollout(rollout, published)
    decided = _decides(subject)
    if decided:
        changes = ()  # first the goal is stored: whoever did not know it would take it back halfway
    status = _status(subject, (*selected, *left), written, route)
    if rollout is not None:
        status = status.model_copy(update={"revision": spec.config.revision, "rollout": rollout.status})
    return Plan(
        status=news.of_deployment(before, status, subject.now),
        requeue_after=timedelta(0) if decided else _again(subject, selected, verdicts, bool(changes)),
        applications=changes,
        add_finalizer=FINALIZER not in meta.finalizers,
        events=_of_scaling(
            subject, _events(subject, written) if rollout is None else _events_of_rollout(subject, written, rollout)
        ),
        routes=() if route is None else (route,),
    )


def _decides(subject: Subject) -> bool:
    """Whether replicas shall run elsewhere, or in another number, than what is stored says."""
    moves = subject.allocated is not None and subject.allocated.moves
    return moves or (subject.scaled is not None and subject.scaled.is_new)


def _of_rollout(rollout: rolling.Rolling | None, published: Published | None) -> tuple[ApplicationChange, ...]:
    """What to write for the second revision, and what to take away of one that has gone from the routes."""
    if rollout is None:
        return ()
    subject = rollout.subject
    answering = views.reporting(subject.observed.gateways, subject.now)
    held = published is not None and bool(answering) and all(views.holds(view, published) for view in answering)
    return rollout.changes + (rollout.leftovers if held else ())


def _with_rollout(verdicts: conditions.Verdicts, rollout: rolling.Rolling | None) -> conditions.Verdicts:
    """Ready is about what the spec describes: it is not True while another revision serves instead."""
    if rollout is None or rollout.subject.stopped is not None:
        return verdicts
    parts = (verdicts["SitesReady"], verdicts["GatewayReady"], rollout.verdict)
    found = {**verdicts, "RolledOut": rollout.verdict, "Ready": conditions.combine(parts, verdicts["Ready"])}
    if rollout.verdict.reason == "RollingOut":
        found["Progressing"] = Verdict("True", "RollingOut", rollout.verdict.message)
    return found


def _with_scaling(subject: Subject, verdicts: conditions.Verdicts) -> conditions.Verdicts:
    """Whether replicas follow the load is a fact of its own: what was decided last goes on when nobody tells the load."""
    return verdicts if subject.scaled is None else {**verdicts, "ScalingActive": subject.scaled.verdict}


def _of_scaling(subject: Subject, told: tuple[Event, ...]) -> tuple[Event, ...]:
    """Each change of the number of replicas with its reason. That sites are scaling then is not told again."""
    if subject.scaled is None:
        return told
    return subject.scaled.events + tuple(event for event in told if event.reason != "Scaling")


def _events_of_rollout(
    subject: Subject, written: tuple[DeploymentCondition, ...], rollout: rolling.Rolling
) -> tuple[Event, ...]:
    """What was decided, told with its reason; the condition that follows from it is not told again."""
    told = conditions.events(subject.deployment.status, written)
    return rollout.events + tuple(event for event in told if event.reason not in ("RollingOut", "RolledBack"))


def _route(
    subject: Subject,
    selected: Sequence[SiteOutcome],
    places: Sequence[leaving.Leaving],
    rollout: rolling.Rolling | None,
) -> Route | None:
    """The route, or None where an older deployment holds the model name."""
    if routes.holder(subject.deployment, subject.observed.deployments) is not None:
        return None
    conflicts = {outcome.name for outcome in selected if outcome.status.state == "Conflict"}
    stops = [
        _stop(subject, view, subject.config_at(view.name).revision)
        for view in subject.chosen
        if view.name not in conflicts
    ]
    stops += [_stop(subject, place.view, place.revision) for place in places if place.serves]
    stopped, asleep = subject.stopped is not None, subject.is_asleep
    route = routes.route(subject.deployment, subject.config, stops, suspended=stopped and not asleep, asleep=asleep)
    canary = rollout.canary if rollout is not None else None
    route = route.model_copy(update={"variants": variants.policy_of(subject.deployment.spec.model)})
    return route if canary is None else route.model_copy(update={"canary": canary})


def _stop(subject: Subject, view: SiteView, revision: str) -> routes.Stop:
    choice = subject.variant_choices.get(view.name)
    wanted = subject.config_at(view.name).revision
    return routes.Stop(view, revision, subject.path(view), choice.name if choice else None, wanted)


def _published(subject: Subject, route: Route | None) -> Published | None:
    """The published table, if it carries exactly the present routes."""
    published = subject.observed.published
    wanted = () if route is None else (route,)
    return published if published is not None and published.routes == wanted else None


def _verdicts(
    subject: Subject, selected: Sequence[SiteOutcome], left: Sequence[SiteOutcome], route: Route | None
) -> conditions.Verdicts:
    if subject.stopped is not None:
        return _stopped_verdicts(subject.stopped, (*selected, *left))
    checks = _gateway_checks(subject, selected, route)
    sites = _sites_verdict(subject, selected)
    gateway = _gateway_verdict(subject, checks, route)
    good = Verdict("True", "Answering", f"revision {subject.config.revision} answers at {_count(selected)}")
    return {
        "Ready": conditions.combine((sites, gateway), good),
        "SitesReady": sites,
        "GatewayReady": gateway,
        "Progressing": conditions.progressing((*selected, *left), sites, gateway),
        "Degraded": conditions.with_left_out(
            placement.beyond(subject.selection), conditions.degraded(selected, checks)
        ),
    }


def _stopped_verdicts(stopped: Verdict, rows: Sequence[SiteOutcome]) -> conditions.Verdicts:
    going = [outcome for outcome in rows if outcome.status.state == "Deleting" and outcome.live]
    text = "; ".join(f"{outcome.name}: {outcome.status.message}" for outcome in going)
    moving = Verdict("True", "Deleting", text) if going else Verdict("False", stopped.reason, "nothing is under way")
    return conditions.uniform(stopped, others=moving)


def _sites_verdict(subject: Subject, selected: Sequence[SiteOutcome]) -> Verdict:
    wrong = placement.verdict(subject.selection)
    short = subject.allocated.shortfall if subject.allocated else ""
    enough = subject.scaled is not None and sum(one.status.ready for one in selected) >= subject.fewest
    wanting = Verdict("False", "InsufficientResources", f"placement: {short}") if short and not enough else None
    sound = _quorum(subject, selected)
    checks = tuple(subject.check(outcome) for outcome in sound)
    good = Verdict("True", "UpToDate", f"revision {subject.config.revision} runs at {_count(selected)}")
    if len(sound) < len(selected):
        text = f"revision {subject.config.revision} runs at {len(sound)} of {_count(selected)}, enough by spec.sites.quorum"
        good = Verdict("True", "Quorum", text)
    return conditions.combine((*(one for one in (wrong, wanting) if one is not None), *checks), good)


def _quorum(subject: Subject, selected: Sequence[SiteOutcome]) -> tuple[SiteOutcome, ...]:
    """The sites that Ready is judged by: those in order if they are enough, else all."""
    enough = -(-len(selected) * subject.deployment.spec.sites.quorum // 100)
    sound = tuple(one for one in selected if subject.check(one).status == "True" and subject.is_admitted(one.name))
    return sound if enough <= len(sound) < len(selected) else tuple(selected)


def _gateway_checks(subject: Subject, selected: Sequence[SiteOutcome], route: Route | None) -> tuple[Verdict, ...]:
    old = conditions.find(subject.deployment.status, "GatewayReady")
    generation = subject.deployment.metadata.generation
    confirmed = old is not None and old.status == "True" and old.observed_generation == generation
    targets = tuple(
        replace(subject.target(one.name), expected=not one.live or one.status.ready > 0)
        for one in _quorum(subject, selected)
    )
    needs = views.Admissible(targets, _published(subject, route), confirmed)
    return views.gateway_checks(subject.observed.gateways, needs, subject.now)


def _gateway_verdict(subject: Subject, checks: Sequence[Verdict], route: Route | None) -> Verdict:
    if route is None:
        return _name_taken(subject)
    if not subject.observed.gateways:
        return Verdict("Unknown", "GatewayMissing", "the operator knows no gateway: start it with --gateway URL")
    if not subject.chosen:
        return Verdict("False", "NoSites", "there is no site to send traffic to")
    return conditions.combine(checks, Verdict("True", "Admitted", f"revision {subject.config.revision} is admitted"))


def _name_taken(subject: Subject) -> Verdict:
    other = routes.holder(subject.deployment, subject.observed.deployments)
    assert other is not None, "a route is withheld for this reason alone"
    holder = f"{other.metadata.namespace or 'default'}/{other.metadata.name}"
    text = f"model name {subject.config.model.name} is held by {holder}, which is older: choose another spec.model.name"
    return Verdict("False", "ModelNameTaken", text)


def _status(
    subject: Subject,
    found: Sequence[SiteOutcome],
    written: tuple[DeploymentCondition, ...],
    route: Route | None,
) -> DeploymentStatus:
    rows = tuple(outcome.status for outcome in found)
    return DeploymentStatus(
        observed_generation=subject.deployment.metadata.generation,
        revision=subject.config.revision,
        replicas=sum(_running(subject, outcome) for outcome in found),
        ready_replicas=sum(row.ready for row in rows),
        selector=f"{SELECTOR}={subject.deployment.metadata.name}",
        conditions=written,
        sites=rows[:MAX_ROWS],
        gateway_table=_table(subject, route),
        ttft=views.ttft(subject.observed.gateways, subject.config.deployment, subject.now),
        placement=subject.allocated.status if subject.allocated else None,
        scaling=subject.scaled.status if subject.scaled else None,
    )


def _running(subject: Subject, outcome: SiteOutcome) -> int:
    """Replicas that run at a site, of whatever revision."""
    view = next(view for view in subject.observed.sites if view.name == outcome.name)
    found = views.owned(view, subject.deployment.metadata.uid) if outcome.live else ()
    return sum(one.ready_replicas for one in found) if found else outcome.status.ready


def _table(subject: Subject, route: Route | None) -> GatewayTable | None:
    published, before = _published(subject, route), subject.deployment.status
    if published is None or route is None:
        return before.gateway_table if before and route is not None else None
    gateways = subject.observed.gateways
    seen = [view.observed_at for view in gateways if view.observed_at and views.holds(view, published)]
    latest = outcomes.second(max(seen, default=None))
    return GatewayTable(epoch=published.epoch, version=published.version, since=latest)


def _events(subject: Subject, written: tuple[DeploymentCondition, ...]) -> tuple[Event, ...]:
    """What happened since the stored status. A new revision is told as such, once."""
    told = conditions.events(subject.deployment.status, written)
    before, now = subject.deployment.status, subject.config.revision
    if before is None or before.revision in (None, now) or subject.stopped is not None:
        return told
    rollout = Event("Normal", "RollingOut", f"revision {now} replaces {before.revision}")
    return (rollout, *(event for event in told if event.reason != "RollingOut"))


def _again(
    subject: Subject, selected: Sequence[SiteOutcome], verdicts: conditions.Verdicts, changes: bool
) -> timedelta:
    """When to look again though nobody wakes us: soon where time itself decides, else late.

    A site or gateway that changes, falls silent or answers again wakes the deployment, and so does a word of a gateway that
    became too old. But a silence has to last before it is called so, and what failed is tried again: where a quorum is Ready,
    the sites beside it still have to get there.
    """
    if subject.observed.failures:
        return backoff(subject.observed.failures)
    again = _by_the_clock(subject, selected, verdicts, changes)
    later = subject.scaled.again if subject.scaled is not None else None
    return again if later is None else min(again, max(later, PROGRESSING))


def _by_the_clock(
    subject: Subject, selected: Sequence[SiteOutcome], verdicts: conditions.Verdicts, changes: bool
) -> timedelta:
    moving = changes or verdicts["Progressing"].status == "True"
    if subject.lead is not None or subject.allocated is not None:
        return PROGRESSING if moving else STEADY
    if moving:
        return WAITING
    silent = any(site.error for site in subject.chosen) or any(gateway.error for gateway in subject.observed.gateways)
    settled = verdicts["Ready"].status == "True" and all(found.status.state == "Ready" for found in selected)
    return AT_REST if settled and not silent else STEADY


def _count(selected: Sequence[SiteOutcome]) -> str:
    """How many sites, and which variants of the model run there."""
    text = "1 site" if len(selected) == 1 else f"{len(selected)} sites"
    names = [one.status.variant for one in selected if one.status.variant is not None]
    found = ", ".join(f"{name} at {names.count(name)}" for name in sorted(set(names)))
    return f"{text} ({found})" if found else text
