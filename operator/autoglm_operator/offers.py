"""What each site offers to a deployment that is placed: room, price, and why it may not be used at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from autoglm_operator import applications, placing, views
from autoglm_operator.ages import STALE_FOR, age, is_fresh
from autoglm_operator.api import AutoGLMDeployment, DeploymentSiteStatus, LinkSpec, PlacementSpec, SitePlacement
from autoglm_operator.api.quantities import bits_per_second, seconds
from autoglm_operator.fitting import Amounts, fitting
from autoglm_operator.kuberay.capacity import head_need, worker_need
from autoglm_operator.state import ApplicationView, Capacity, SiteView
from autoglm_serving.config import Worker

RESIDENCY = "serving.autoglm.dev/residency"
"""The label of a site that says where data stays that is sent there."""

SCREENSHOT_BITS = 4_000_000
"""What one request sends, for the latency of a site: half a megabyte."""

WAITING = "to be scheduled"
"""Ray's words for replicas that do not fit on the cluster."""

FIRST_PAUSE = timedelta(minutes=10)
LONGEST_PAUSE = timedelta(hours=1)
"""A site that let replicas wait although they seemed to fit gets no further ones for so long; each time twice as long. One
that runs all it was asked for since is worth a try after the first pause."""

FORGOTTEN = timedelta(hours=24)

STAYS = 1.5
"""Times spec.placement.maxRtt: a site that serves is left when its round trip is longer than this."""

STARTS_FOR = timedelta(minutes=10)
"""So long after the last change the pods of a Ray cluster of ours may still be pulling their image, and Serve says as well
that replicas wait to be scheduled: that says nothing of the room there."""


@dataclass(frozen=True)
class Refusal:
    """Replicas waited at a site although its figures had room for them, or there were none; the `count`th time in a row."""

    at: datetime
    count: int

    @property
    def until(self) -> datetime:
        """Until when the site gets no further replicas."""
        return self.at + min(FIRST_PAUSE * (1 << min(self.count - 1, 16)), LONGEST_PAUSE)

    def holds(self, now: datetime) -> bool:
        """Whether the pause is not over."""
        return now < self.until


@dataclass(frozen=True)
class Place:
    """One site as placement sees it. `still`: nothing starts there. `out` says why it is not used at all."""

    view: SiteView
    offer: placing.Offer
    wanted: int
    ready: int
    still: bool
    out: str = ""
    refusal: Refusal | None = None


@dataclass(frozen=True)
class _Held:
    """The replicas of all applications of a deployment at one site: during a rollout it has two."""

    parts: tuple[ApplicationView, ...]
    now: datetime

    @property
    def asked(self) -> int:
        """Replicas that were last asked for."""
        return sum(map(_submitted, self.parts))

    @property
    def ready(self) -> int:
        """Replicas that run and are to stay."""
        return sum(part.ready_replicas for part in self.parts if part.status != "DELETING")

    @property
    def running(self) -> int:
        """Replicas that run, also those on their way out."""
        return sum(part.ready_replicas for part in self.parts)

    @property
    def room(self) -> int:
        """Replicas that have a place: while some wait for one, only those that run; else also those on their way out."""
        return self.running if self.waits else sum(max(_submitted(part), part.ready_replicas) for part in self.parts)

    @property
    def waits(self) -> bool:
        """Whether the cluster has no room for all that was asked for."""
        return any(WAITING in part.message and not self._starts(part) for part in self.parts)

    def _starts(self, part: ApplicationView) -> bool:
        """Whether pods of its own may merely be starting."""
        return part.ray_service is not None and is_fresh(part.deployed_at, self.now, STARTS_FOR)


@dataclass(frozen=True)
class Look:
    """A deployment that looks for places. `worker` is what one replica takes of a Ray cluster."""

    deployment: AutoGLMDeployment
    spec: PlacementSpec
    worker: Worker
    now: datetime

    def at(self, view: SiteView) -> Place:
        """What a site offers, and what it has; a site that is silent has what it had, by its last answer or the status."""
        live, row = views.is_live(view, self.now), self._rows.get(view.name)
        held = _Held(views.owned(view, self.deployment.metadata.uid), self.now)
        asked, ready = held.asked, held.ready
        if not live and not held.parts:
            asked, ready = (row.desired, row.ready) if row else (0, 0)
        wanted = self._without_surge(view.name, asked, held)
        fits = self._fitting(view, held) if live else 0
        refusal = self._refusal(view.name, held, fits) if live else self._refused.get(view.name)
        room = self._room(held, fits, refusal) if live else wanted
        offer = placing.Offer(view.name, room, self._price(view), self.spec.site_cost, self._domain(view))
        return Place(view, offer, wanted, ready, ready >= asked, self._out(view, row, live), refusal)

    @cached_property
    def _rows(self) -> Mapping[str, DeploymentSiteStatus]:
        status = self.deployment.status
        return {row.name: row for row in (status.sites if status else ())}

    @cached_property
    def _placed(self) -> Mapping[str, SitePlacement]:
        before = self.deployment.status.placement if self.deployment.status else None
        return {row.name: row for row in (before.sites if before else ())}

    @cached_property
    def _refused(self) -> Mapping[str, Refusal]:
        """What the status remembers of sites that let replicas wait."""
        return {
            name: Refusal(row.refused_at, row.refusals or 1)
            for name, row in self._placed.items()
            if row.refused_at is not None and age(row.refused_at, self.now) < FORGOTTEN
        }

    def _without_surge(self, site: str, asked: int, held: _Held) -> int:
        """What placement asked for. A rollout may have added its surge, from which no further surge must follow."""
        if sum(_submitted(part) > 0 for part in held.parts) < 2:
            return asked
        goal = self._placed[site].replicas if site in self._placed else 0
        return max(asked - self.deployment.spec.rollout.max_surge, min(asked, goal))

    def _fitting(self, view: SiteView, held: _Held) -> int | None:
        """Further replicas that fit into what is free, by young figures; None where there are none."""
        known, kube = view.capacity, view.site.spec.backend.kube_ray
        if known is None or not is_fresh(view.capacity_at or view.observed_at, self.now, STALE_FOR):
            return None
        if kube is None:
            return fitting(known, _amounts(self.worker), self._encoders * self._to_come(held))
        return self._fitting_pods(known, view, held)

    @cached_property
    def _encoders(self) -> tuple[Amounts, ...]:
        """What encoders take that start with an application, as few as it may have. What is free is without those that run."""
        encoder = applications.encoder(self.deployment.spec)
        return (_amounts(encoder.worker),) * encoder.min_replicas if encoder is not None else ()

    def _to_come(self, held: _Held) -> int:
        """Applications that start here and are not there yet: each brings encoders of its own, or the head of a Ray cluster,
        also that of a candidate."""
        rollout = self.deployment.status.rollout if self.deployment.status else None
        wanted = 1 if rollout is None or rollout.candidate is None else 2
        return max(wanted - sum(part.status != "DELETING" for part in held.parts), 0)

    def _fitting_pods(self, known: Capacity, view: SiteView, held: _Held) -> int:
        """Worker pods that fit, beside the heads of Ray clusters that are not there yet: a candidate gets one of its own."""
        kube = view.site.spec.backend.kube_ray
        assert kube is not None, "only called for sites with the back end kubeRay"
        return fitting(known, worker_need(self.deployment, kube), (head_need(kube),) * self._to_come(held))

    def _refusal(self, site: str, held: _Held, fits: int | None) -> Refusal | None:
        """What is remembered of a site that lets replicas wait, or let them wait. Figures that say so need no memory."""
        before = self._refused.get(site)
        if held.waits and fits != 0:
            if before is not None and before.holds(self.now):
                return before
            return Refusal(self.now.replace(microsecond=0), before.count + 1 if before else 1)
        if before is None or not 0 < held.asked <= held.ready:
            return before
        first = Refusal(before.at, 1)  # it took what it was given since
        return first if first.holds(self.now) else None

    def _room(self, held: _Held, fits: int | None, refusal: Refusal | None) -> int:
        """What runs there, and what fits besides. A cluster that does not tell what it has is taken at its word by trying.

        What was asked for and does not run yet may or may not be in the figures of what is free: it counts once.
        """
        if held.waits or (refusal is not None and refusal.holds(self.now)):
            return held.room
        if fits is None:
            return held.room + self.deployment.spec.replicas
        return max(held.room, held.running + min(fits, self.deployment.spec.replicas))

    def _price(self, view: SiteView) -> float:
        return view.site.spec.price + self.spec.latency_weight * latency_s(view)

    def _domain(self, view: SiteView) -> str:
        label = self.spec.spread.domain_label
        return view.site.metadata.labels.get(label, "") if label else ""

    def _out(self, view: SiteView, row: DeploymentSiteStatus | None, live: bool) -> str:
        """Why a site is not used, whatever it offers."""
        labels, rtt = view.site.metadata.labels, link(view).rtt
        if self.spec.residency is not None and labels.get(RESIDENCY, "") not in self.spec.residency:
            return f"its label {RESIDENCY} is {labels.get(RESIDENCY, 'missing')}: spec.placement.residency does not allow it"
        # A loaded site answers later: what serves there is not taken away for a little of that.
        slack = STAYS if row is not None and row.ready else 1.0
        if self.spec.max_rtt is not None and rtt is not None and seconds(rtt) > seconds(self.spec.max_rtt) * slack:
            return f"its round trip of {rtt} is above spec.placement.maxRtt {self.spec.max_rtt}"
        if live:
            return ""
        seen = views.heard(view, views.told(row))
        if seen is None:
            return "it was never seen"
        silent = age(seen, self.now) >= timedelta(seconds=seconds(self.spec.grace))
        return f"it is silent for longer than spec.placement.grace {self.spec.grace}" if silent else ""


def link(view: SiteView) -> LinkSpec:
    """The network to a site: the round trip that gateways measure, and the narrower of the bandwidths.

    What is measured comes from the site's status, which moves when it is news: a placement does not follow every figure.
    """
    declared, measured = view.site.spec.link, view.site.status.link if view.site.status else None
    if measured is None:
        return declared
    widths = [width for width in (declared.bandwidth, measured.bandwidth) if width is not None]
    return LinkSpec(rtt=measured.rtt, bandwidth=min(widths, key=bits_per_second, default=None))


def latency_s(view: SiteView) -> float:
    """Seconds until a screenshot has arrived at a site; what nobody tells costs nothing."""
    known = link(view)
    upload = SCREENSHOT_BITS / bits_per_second(known.bandwidth) if known.bandwidth else 0.0
    return (seconds(known.rtt) if known.rtt else 0.0) + upload


def refused(place: Place, now: datetime) -> str:
    """That a site gets no further replicas for a while, and why; empty where it may."""
    if place.refusal is None or not place.refusal.holds(now):
        return ""
    since, until = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (place.refusal.at, place.refusal.until))
    return f"no further replica until {until}: replicas found no place there at {since}"


def _amounts(worker: Worker) -> Amounts:
    """What one process takes, by Ray's names."""
    return {"CPU": worker.cpus, "GPU": worker.gpus, **worker.custom}


def _submitted(part: ApplicationView) -> int:
    """Replicas that one application was last asked to have."""
    return 0 if part.status == "DELETING" else applications.submitted_replicas(part)
