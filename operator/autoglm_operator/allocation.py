"""From a deployment and what is known of its sites to replicas for each site, by `placing`; and the status that tells of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoglm_operator import placing, views
from autoglm_operator.ages import age
from autoglm_operator.api import AutoGLMDeployment, DeploymentSiteStatus, PlacementSpec, PlacementStatus, SitePlacement
from autoglm_operator.api.quantities import bits_per_second, seconds
from autoglm_operator.state import ApplicationView, SiteView, clip
from autoglm_serving.config import Worker

RESIDENCY = "serving.autoglm.dev/residency"
"""The label of a site that says where data stays that is sent there."""

SCREENSHOT_BITS = 4_000_000
"""What one request sends, for the latency of a site: half a megabyte."""

MAX_ROWS = 256
ENGINE = "Engine"
WAITING = "to be scheduled"
"""Ray's words for replicas that do not fit on the cluster."""


@dataclass(frozen=True)
class Allocated:
    """Replicas that shall run now, by site; the status that tells where that leads; what cannot be had, if anything."""

    now: Mapping[str, int]
    status: PlacementStatus
    shortfall: str


@dataclass(frozen=True)
class _Place:
    """One site as placement sees it. `out` says why it is not used at all."""

    view: SiteView
    offer: placing.Offer
    wanted: int
    ready: int
    out: str = ""


def allocate(
    deployment: AutoGLMDeployment, worker: Worker, selected: Iterable[SiteView], now: datetime
) -> Allocated | None:
    """The decision about one deployment; None for one without spec.placement, which runs everywhere."""
    spec = deployment.spec.placement
    if spec is None:
        return None
    look = _Look(deployment, spec, worker, now)
    places = [look.at(view) for view in sorted(selected, key=lambda view: view.name)]
    usable = [place for place in places if not place.out]
    problem = placing.Problem(deployment.spec.replicas, tuple(place.offer for place in usable), _limits(spec))
    decision = placing.decide(problem, _standing(deployment, spec, usable, now), _habits(spec))
    return Allocated(decision.now, _status(deployment, decision, places, now), problem.shortfall)


@dataclass(frozen=True)
class _Look:
    deployment: AutoGLMDeployment
    spec: PlacementSpec
    worker: Worker
    now: datetime

    def at(self, view: SiteView) -> _Place:
        """What a site offers, and what it has."""
        live, row = views.is_live(view, self.now), self._row(view.name)
        found = next(iter(views.owned(view, self.deployment.metadata.uid)), None) if live else None
        if live:
            wanted, ready = _submitted(found), found.ready_replicas if found else 0
        else:
            wanted, ready = (row.desired, row.ready) if row else (0, 0)
        room = self._room(view, found) if live else wanted
        offer = placing.Offer(view.name, room, self._price(view), self.spec.site_cost, self._domain(view))
        return _Place(view, offer, wanted, ready, self._out(view, row, live))

    def _row(self, site: str) -> DeploymentSiteStatus | None:
        status = self.deployment.status
        return next((row for row in (status.sites if status else ()) if row.name == site), None)

    def _room(self, view: SiteView, found: ApplicationView | None) -> int:
        """What runs there, and what fits besides. A cluster that does not tell what it has is taken at its word by trying."""
        waits = found is not None and WAITING in found.message
        own = found.ready_replicas if found is not None and waits else _submitted(found)
        if waits:
            return own
        if view.capacity is None:
            return own + self.deployment.spec.replicas
        free = view.capacity.available
        needs = {"CPU": self.worker.cpus, "GPU": self.worker.gpus, **self.worker.custom}
        fits = [int(free.get(name, 0.0) / need + 1e-6) for name, need in needs.items() if need > 0]
        return own + max(0, min(fits, default=self.deployment.spec.replicas))

    def _price(self, view: SiteView) -> float:
        return view.site.spec.price + self.spec.latency_weight * latency_s(view)

    def _domain(self, view: SiteView) -> str:
        label = self.spec.spread.domain_label
        return view.site.metadata.labels.get(label, "") if label else ""

    def _out(self, view: SiteView, row: DeploymentSiteStatus | None, live: bool) -> str:
        """Why a site is not used, whatever it offers."""
        labels, rtt = view.site.metadata.labels, view.site.spec.link.rtt
        if self.spec.residency is not None and labels.get(RESIDENCY, "") not in self.spec.residency:
            return f"its label {RESIDENCY} is {labels.get(RESIDENCY, 'missing')}: spec.placement.residency does not allow it"
        if self.spec.max_rtt is not None and rtt is not None and seconds(rtt) > seconds(self.spec.max_rtt):
            return f"its round trip of {rtt} is above spec.placement.maxRtt {self.spec.max_rtt}"
        if live:
            return ""
        seen = view.observed_at or (row.observed_at if row else None)
        if seen is None:
            return "it was never seen"
        silent = age(seen, self.now) >= timedelta(seconds=seconds(self.spec.grace))
        return f"it is silent for longer than spec.placement.grace {self.spec.grace}" if silent else ""


def latency_s(view: SiteView) -> float:
    """Seconds until a screenshot has arrived at a site, by its spec; what the spec does not tell costs nothing."""
    link = view.site.spec.link
    upload = SCREENSHOT_BITS / bits_per_second(link.bandwidth) if link.bandwidth else 0.0
    return (seconds(link.rtt) if link.rtt else 0.0) + upload


def _submitted(found: ApplicationView | None) -> int:
    """Replicas that were last asked for."""
    if found is None or found.status == "DELETING":
        return 0
    asked = (part.get("num_replicas") for part in found.deployments if part.get("name") == ENGINE)
    return next((count for count in asked if isinstance(count, int)), found.target_replicas)


def _limits(spec: PlacementSpec) -> placing.Limits:
    return placing.Limits(spec.spread.min_sites, spec.spread.max_per_site, spec.spread.max_per_domain)


def _habits(spec: PlacementSpec) -> placing.Habits:
    return placing.Habits(spec.max_moves, spec.min_gain / 100)


def _standing(
    deployment: AutoGLMDeployment, spec: PlacementSpec, places: list[_Place], now: datetime
) -> placing.Standing:
    before = deployment.status.placement if deployment.status else None
    moved = before.moved_at if before else None
    settled = moved is None or age(moved, now) >= timedelta(seconds=seconds(spec.settle))
    ready = {place.offer.site: place.ready for place in places}
    return placing.Standing(
        wanted={place.offer.site: place.wanted for place in places},
        ready=ready,
        goal={row.name: row.replicas for row in before.sites if row.replicas} if before else None,
        calm=settled and all(place.ready >= place.wanted for place in places),
    )


def _status(
    deployment: AutoGLMDeployment, decision: placing.Decision, places: list[_Place], now: datetime
) -> PlacementStatus:
    before = deployment.status.placement if deployment.status else None
    return PlacementStatus(
        reason=clip(decision.reason),
        solver=decision.solver,
        price=round(decision.goal_cost, 4),
        best_price=None if decision.best_cost is None else round(decision.best_cost, 4),
        moved_at=now.replace(microsecond=0) if decision.moved else (before.moved_at if before else None),
        sites=tuple(_row(place, decision) for place in places)[:MAX_ROWS],
    )


def _row(place: _Place, decision: placing.Decision) -> SitePlacement:
    offer, count = place.offer, decision.goal.get(place.offer.site, 0)
    price = f"a replica costs {offer.price:.3g} an hour"
    if place.out:
        why = place.out
    elif count:
        why = f"{count} of {offer.room} that fit; {price}"
    elif not offer.room:
        why = "no replica fits into what is free"
    else:
        why = f"not needed; {price}" + (f" and the site {offer.opening:.3g}" if offer.opening else "")
    return SitePlacement(name=offer.site, replicas=count, why=clip(why, 512))
