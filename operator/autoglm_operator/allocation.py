"""From a deployment and what is known of its sites to replicas for each site, by `placing`; and the status that tells of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoglm_operator import applications, placing, views
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
    """One site as placement sees it. `still`: nothing starts there. `out` says why it is not used at all."""

    view: SiteView
    offer: placing.Offer
    wanted: int
    ready: int
    still: bool
    out: str = ""


@dataclass(frozen=True)
class _Held:
    """The replicas of all applications of a deployment at one site: during a rollout it has two."""

    parts: tuple[ApplicationView, ...]

    @property
    def asked(self) -> int:
        """Replicas that were last asked for."""
        return sum(map(_submitted, self.parts))

    @property
    def ready(self) -> int:
        """Replicas that run and are to stay."""
        return sum(part.ready_replicas for part in self.parts if part.status != "DELETING")

    @property
    def room(self) -> int:
        """Replicas that have a place: while some wait for one, only those that run; else also those on their way out."""
        if self.waits:
            return sum(part.ready_replicas for part in self.parts)
        return sum(max(_submitted(part), part.ready_replicas) for part in self.parts)

    @property
    def waits(self) -> bool:
        """Whether the cluster has no room for all that was asked for."""
        return any(WAITING in part.message for part in self.parts)


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
        """What a site offers, and what it has; a site that is silent has what it had, by its last answer or the status."""
        live, row = views.is_live(view, self.now), self._row(view.name)
        held = _Held(views.owned(view, self.deployment.metadata.uid))
        asked, ready = held.asked, held.ready
        if not live and not held.parts:
            asked, ready = (row.desired, row.ready) if row else (0, 0)
        wanted = self._without_surge(view.name, asked, held)
        room = self._room(view, held) if live else wanted
        offer = placing.Offer(view.name, room, self._price(view), self.spec.site_cost, self._domain(view))
        return _Place(view, offer, wanted, ready, ready >= asked, self._out(view, row, live))

    def _without_surge(self, site: str, asked: int, held: _Held) -> int:
        """What placement asked for. A rollout may have added its surge, from which no further surge must follow."""
        if sum(_submitted(part) > 0 for part in held.parts) < 2:
            return asked
        before = self.deployment.status.placement if self.deployment.status else None
        goal = next((row.replicas for row in (before.sites if before else ()) if row.name == site), 0)
        return max(asked - self.deployment.spec.rollout.max_surge, min(asked, goal))

    def _row(self, site: str) -> DeploymentSiteStatus | None:
        status = self.deployment.status
        return next((row for row in (status.sites if status else ()) if row.name == site), None)

    def _room(self, view: SiteView, held: _Held) -> int:
        """What runs there, and what fits besides. A cluster that does not tell what it has is taken at its word by trying."""
        if held.waits:
            return held.room
        if view.capacity is None:
            return held.room + self.deployment.spec.replicas
        free = view.capacity.available
        needs = {"CPU": self.worker.cpus, "GPU": self.worker.gpus, **self.worker.custom}
        fits = [int(free.get(name, 0.0) / need + 1e-6) for name, need in needs.items() if need > 0]
        return held.room + max(0, min(fits, default=self.deployment.spec.replicas))

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


def _submitted(part: ApplicationView) -> int:
    """Replicas that one application was last asked to have."""
    return 0 if part.status == "DELETING" else applications.submitted_replicas(part)


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
        calm=settled and all(place.still for place in places),
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
