"""From a deployment and what is known of its sites to replicas for each site, by `placing`; and the status that tells of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoglm_operator import placing
from autoglm_operator.ages import age
from autoglm_operator.api import AutoGLMDeployment, PlacementSpec, PlacementStatus, SitePlacement
from autoglm_operator.api.quantities import seconds
from autoglm_operator.offers import Look, Place, refused
from autoglm_operator.state import SiteView, clip
from autoglm_serving.config import Worker

MAX_ROWS = 256


@dataclass(frozen=True)
class Allocated:
    """Replicas that shall run now, by site; the status that tells where that leads; what cannot be had, if anything.

    `moves` says that a move by choice begins, which is to be stored before it is carried out.
    """

    now: Mapping[str, int]
    status: PlacementStatus
    shortfall: str
    moves: bool = False


def allocate(
    deployment: AutoGLMDeployment, worker: Worker, selected: Iterable[SiteView], now: datetime
) -> Allocated | None:
    """The decision about one deployment; None for one without spec.placement, which runs everywhere."""
    spec = deployment.spec.placement
    if spec is None:
        return None
    look = Look(deployment, spec, worker, now)
    places = [look.at(view) for view in sorted(selected, key=lambda view: view.name)]
    usable = [place for place in places if not place.out]
    problem = placing.Problem(deployment.spec.replicas, tuple(place.offer for place in usable), _limits(spec))
    decision = placing.decide(problem, _standing(deployment, spec, usable, now), _habits(spec))
    if not decision.goal:
        decision = _waiting(problem, decision, usable)
    return Allocated(decision.now, _status(deployment, decision, places, now), problem.shortfall, decision.moved)


def _waiting(problem: placing.Problem, decision: placing.Decision, places: list[Place]) -> placing.Decision:
    """Where no site has room, what waits goes on waiting: taken away it could never start."""
    asked = {place.offer.site: place.wanted for place in places}
    offers = tuple(replace(offer, room=asked[offer.site]) for offer in problem.offers)
    kept = placing.fill(replace(problem, offers=offers), asked)
    if not kept:
        return decision
    reason = f"what waits stays: no site has room; {problem.shortfall}"
    return replace(decision, goal=kept, now=kept, goal_cost=placing.cost(problem, kept), reason=reason)


def _limits(spec: PlacementSpec) -> placing.Limits:
    return placing.Limits(spec.spread.min_sites, spec.spread.max_per_site, spec.spread.max_per_domain)


def _habits(spec: PlacementSpec) -> placing.Habits:
    return placing.Habits(spec.max_moves, spec.min_gain / 100)


def _standing(
    deployment: AutoGLMDeployment, spec: PlacementSpec, places: list[Place], now: datetime
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
    deployment: AutoGLMDeployment, decision: placing.Decision, places: list[Place], now: datetime
) -> PlacementStatus:
    before = deployment.status.placement if deployment.status else None
    return PlacementStatus(
        reason=clip(decision.reason),
        solver=decision.solver,
        price=round(decision.goal_cost, 4),
        best_price=None if decision.best_cost is None else round(decision.best_cost, 4),
        moved_at=now.replace(microsecond=0) if decision.moved else (before.moved_at if before else None),
        sites=tuple(_row(place, decision, now) for place in places)[:MAX_ROWS],
    )


def _row(place: Place, decision: placing.Decision, now: datetime) -> SitePlacement:
    offer, refusal = place.offer, place.refusal
    count = decision.goal.get(offer.site, 0)
    return SitePlacement(
        name=offer.site,
        replicas=count,
        why=clip(_why(place, count, now), 512),
        refused_at=refusal.at if refusal else None,
        refusals=refusal.count if refusal else None,
    )


def _why(place: Place, count: int, now: datetime) -> str:
    """Why a site has so many replicas, in a sentence for people."""
    offer, paused = place.offer, refused(place, now)
    price = f"a replica costs {offer.price:.3g} an hour"
    if place.out:
        return place.out
    if count > offer.room:
        return f"{count} waiting for room; {price}" + (f"; {paused}" if paused else "")
    if count:
        return f"{count} of {offer.room} that fit; {price}" + (f"; {paused}" if paused else "")
    if not offer.room:
        return paused or "no replica fits into what is free"
    return f"not needed; {price}" + (f" and the site {offer.opening:.3g}" if offer.opening else "")
