"""The decision about one AutoGLMSite: whether it answers, what lies there without an owner, and its deletion."""

from datetime import datetime, timedelta

from autoglm_operator import conditions, deletion, news, placement, views
from autoglm_operator.ages import PROGRESSING, age, backoff
from autoglm_operator.api import (
    AcceleratorType,
    DiscoveredAccelerator,
    SiteCapacity,
    SiteCondition,
    SiteLink,
    SiteStatus,
)
from autoglm_operator.state import (
    FINALIZER,
    STILL_LISTED,
    ApplicationView,
    Capacity,
    DeleteApplication,
    Event,
    Fleet,
    InvalidSite,
    SitePlan,
    SiteView,
    Verdict,
    clip,
)

LOOK_AGAIN = timedelta(seconds=30)
"""How often a site that answers is decided about anew: what is free is told so late, silence and changes at once."""

ORPHAN_AGE = timedelta(seconds=60)
"""An application younger than this is no orphan: its owner may be newer than the list of owners."""

MAX_RESOURCES = 64
MAX_MODELS = 16
ACCELERATORS: dict[AcceleratorType, str] = {"gpu": "GPU", "npu": "NPU", "cpu": "CPU"}
"""The resource that counts accelerators of each type."""


def reconcile_site(site: SiteView | InvalidSite, fleet: Fleet, now: datetime) -> SitePlan:
    """Decide what to do about a site. Pure: the same input gives the same plan."""
    if isinstance(site, InvalidSite):
        return _refuse(site, now)
    other = placement.duplicate_of(site.site, fleet.sites)
    if other is not None:
        return _refuse_duplicate(site, other.metadata.name, fleet, now)
    if site.site.metadata.deletion_timestamp is not None:
        return _delete(site, fleet, now)
    status = _status(site, fleet, _connected(site, now), now)
    return SitePlan(
        status=news.of_site(site.site.status, status, now),
        requeue_after=backoff(site.failures) if site.failures else LOOK_AGAIN,
        deletions=orphans(site, fleet, now),
        add_finalizer=FINALIZER not in site.site.metadata.finalizers,
        events=_events(site.site.status, status),
    )


def orphans(site: SiteView, fleet: Fleet, now: datetime) -> tuple[DeleteApplication, ...]:
    """Deletes the applications of ours whose resource is gone. Needs the full list of resources, and fresh figures.

    Other clusters may use the same Ray cluster. An application counts as ours only if it names our cluster.
    """
    if not fleet.complete or not fleet.cluster or not views.is_live(site, now):
        return ()
    named = tuple(found for found in site.applications or () if found.cluster == fleet.cluster)
    lost = tuple(found for found in named if _is_orphan(found, fleet.owners, now))
    return deletion.removals([deletion.Remains(site.name, lost)])


def _is_orphan(found: ApplicationView, owners: frozenset[str], now: datetime) -> bool:
    if found.owner_uid is None or found.owner_uid in owners:
        return False
    return found.deployed_at is None or age(found.deployed_at, now) >= ORPHAN_AGE


def _refuse(site: InvalidSite, now: datetime) -> SitePlan:
    """A spec that cannot be used. Nobody can reach the cluster, so nothing holds up the site's deletion."""
    text = "; ".join(str(problem) for problem in site.problems) or "the spec cannot be used"
    before = site.status
    condition = conditions.site_condition(
        Verdict("False", "InvalidSpec", text), _find(before), site.metadata.generation, now
    )
    status = (before or SiteStatus()).model_copy(
        update={
            "observed_generation": site.metadata.generation,
            "conditions": (condition,),
            "phase": "Unreachable",
            "message": condition.message,
        }
    )
    leaving = site.metadata.deletion_timestamp is not None and FINALIZER in site.metadata.finalizers
    return SitePlan(
        status=status,
        requeue_after=LOOK_AGAIN,
        remove_finalizer=leaving,
        events=_events(before, status),
    )


def _refuse_duplicate(site: SiteView, other: str, fleet: Fleet, now: datetime) -> SitePlan:
    """A second name for a Ray cluster. It is not used, so nothing of it has to be removed."""
    meta = site.site.metadata
    text = f"site {other} already stands for this Ray cluster: delete one of them, or correct spec.backend.ray.address"
    status = _status(site, fleet, Verdict("False", "DuplicateCluster", text), now)
    return SitePlan(
        status=news.of_site(site.site.status, status.model_copy(update={"applications": 0}), now),
        requeue_after=LOOK_AGAIN,
        remove_finalizer=FINALIZER in meta.finalizers,
        events=_events(site.site.status, status),
    )


def _delete(site: SiteView, fleet: Fleet, now: datetime) -> SitePlan:
    """Routes get a moment to leave, then our applications go, then the finalizer; at the deadline it goes anyway."""
    meta = site.site.metadata
    assert meta.deletion_timestamp is not None, "only called for a deletion"
    ours = tuple(found for found in site.applications or () if found.owner_uid in fleet.owners)
    unknown = None if views.is_live(site, now) else views.silence(site, now).message
    remains = deletion.Remains(site.name, None if unknown and _may_hold(site, ours) else ours, unknown or "")
    step = deletion.step([remains], meta.deletion_timestamp, deletion.DEFAULT_DEADLINE, now)
    held = FINALIZER in meta.finalizers
    drained = age(meta.deletion_timestamp, now) >= deletion.DRAIN
    verdict = _connected(site, now)
    status = _status(site, fleet, Verdict(verdict.status, "Deleting", step.message or "nothing is left"), now)
    gave_up = (deletion.gave_up(step, deletion.DEFAULT_DEADLINE),) if held and step.expired else ()
    return SitePlan(
        status=news.of_site(site.site.status, status, now),
        requeue_after=PROGRESSING,
        deletions=step.changes if held and drained else (),
        remove_finalizer=held and step.finished,
        events=(*_events(site.site.status, status), *gave_up),
    )


def _may_hold(site: SiteView, ours: tuple[ApplicationView, ...]) -> bool:
    """Whether a silent site may still have something of ours: it had when it was last seen, by us or by the status."""
    if site.applications is not None:
        return bool(ours)
    return bool(site.site.status and site.site.status.applications)


def _connected(site: SiteView, now: datetime) -> Verdict:
    """Whether the site answers. A refusal counts at once, silence only when it has lasted."""
    if views.is_live(site, now):
        return Verdict("True", "Connected", "")
    why = views.silence(site, now)
    silent = why.reason in ("NotObserved", "Stale", "Unreachable")
    lasting = views.phase(site, now) == "Unreachable"
    return why if silent and not lasting else Verdict("False", why.reason, why.message)


def _status(site: SiteView, fleet: Fleet, verdict: Verdict, now: datetime) -> SiteStatus:
    before, meta = site.site.status, site.site.metadata
    condition = conditions.site_condition(verdict, _find(before), meta.generation, now)
    count = None if site.applications is None else sum(_is_ours(found, fleet) for found in site.applications)
    return SiteStatus(
        observed_generation=meta.generation,
        conditions=(condition,),
        phase=views.phase(site, now),
        since=_second(_since(site)),
        applications=count if count is not None else (before.applications if before else None),
        ray_version=site.ray_version or (before.ray_version if before else None),
        message=clip(verdict.message) if verdict.status != "True" else "",
        link=_link(site, fleet, now),
        capacity=_capacity(site.capacity) or (before.capacity if before else ()),
        accelerators=_accelerators(site.capacity) or (before.accelerators if before else ()),
        capacity_observed_at=_second(_capacity_at(site)) or (before.capacity_observed_at if before else None),
        capacity_message=_capacity_message(site, before),
    )


def _link(site: SiteView, fleet: Fleet, now: datetime) -> SiteLink | None:
    """While no gateway is heard, as after a start of the operator, the old figures are the best ones."""
    found, before = views.link(fleet.gateways, site.name, now), site.site.status
    if found is None and before is not None and not views.reporting(fleet.gateways, now):
        return before.link
    return found


def _capacity_message(site: SiteView, before: SiteStatus | None) -> str:
    if site.capacity_unknown == STILL_LISTED and before is not None and before.capacity_observed_at is not None:
        return before.capacity_message
    return clip(site.capacity_unknown)


def _since(site: SiteView) -> datetime | None:
    """Since when it answers, or does not. Of one that still answers the older time is kept."""
    before = site.site.status
    if before is None:
        return site.observed_at
    return views.heard(site, views.Told(before.since, live=before.phase == "Connected"))


def _is_ours(found: ApplicationView, fleet: Fleet) -> bool:
    """Whether an application is of this cluster: it says so, or it names a resource that is stored here."""
    return found.owner_uid is not None and (
        found.owner_uid in fleet.owners or (bool(fleet.cluster) and found.cluster == fleet.cluster)
    )


def _capacity(capacity: Capacity | None) -> tuple[SiteCapacity, ...]:
    """What people ask for: resources that are counted, without Ray's own labels for nodes."""
    if capacity is None:
        return ()
    names = sorted(name for name in capacity.total if not name.startswith("node:"))[:MAX_RESOURCES]
    return tuple(
        SiteCapacity(resource=name[:128], total=capacity.total[name], available=capacity.available.get(name, 0.0))
        for name in names
    )


def _accelerators(capacity: Capacity | None) -> tuple[DiscoveredAccelerator, ...]:
    """What deployments can ask for, by type."""
    if capacity is None:
        return ()
    return tuple(
        DiscoveredAccelerator(
            type=kind,
            total=total,
            free=max(capacity.available.get(name, 0.0), 0.0),
            models=tuple(model[:128] for model in capacity.models.get(name, ())[:MAX_MODELS]),
        )
        for kind, name in ACCELERATORS.items()
        if (total := capacity.total.get(name, 0.0)) > 0
    )


def _capacity_at(site: SiteView) -> datetime | None:
    return None if site.capacity is None else site.capacity_at or site.observed_at


def _second(moment: datetime | None) -> datetime | None:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.replace(microsecond=0) if moment else None


def _events(before: SiteStatus | None, after: SiteStatus) -> tuple[Event, ...]:
    old, new = _find(before), after.conditions[0]
    if (old and (old.status, old.reason) == (new.status, new.reason)) or new.reason in ("NotObserved", "Deleting"):
        return ()
    return (conditions.event_of(new.reason, new.message or "the Ray cluster answers"),)


def _find(status: SiteStatus | None) -> SiteCondition | None:
    return status.conditions[0] if status and status.conditions else None
