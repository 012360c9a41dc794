"""How replicas are placed over sites: what is asked for, and what was decided."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from autoglm_operator.api.base import Model, Reported, Rule, Unique
from autoglm_operator.api.text import Deadline, RoundTrip

Count = Annotated[int, Field(ge=0)]
LabelText = Annotated[str, Field(max_length=63)]


class PlacementSpread(Model):
    """How widely the replicas are spread."""

    min_sites: Annotated[int, Field(ge=1, le=200)] = 1
    """Sites to use at least, so that the loss of one leaves others."""
    max_per_site: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Replicas at one site at most."""
    domain_label: Annotated[str, Field(max_length=317)] | None = None
    """Label of sites that fail together, such as "topology.kubernetes.io/region". Sites without it are domains of their own."""
    max_per_domain: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Replicas at sites with the same value of that label, at most."""

    rules = (
        Rule(
            "has(self.domainLabel) == has(self.maxPerDomain)",
            lambda spread: (spread.domain_label is None) == (spread.max_per_domain is None),
            "domainLabel and maxPerDomain belong together: set both, or remove both",
        ),
    )


class PlacementSpec(Model):
    """Places the replicas over the selected sites at least cost. docs/placement.md has the formulas."""

    latency_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """What one second until a screenshot has arrived is worth, in units of the sites' spec.price."""
    site_cost: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """What using a site costs for an hour besides its replicas, in units of the sites' spec.price."""
    max_rtt: RoundTrip | None = None
    """Longest round trip of a site that is used, such as "50ms"; absent means any."""
    residency: Annotated[tuple[LabelText, ...], Field(min_length=1, max_length=32), Unique()] | None = None
    """Values of the label serving.autoglm.dev/residency that a site must have one of, such as "eu"; absent means any site."""
    spread: PlacementSpread = PlacementSpread()
    """How widely the replicas are spread."""
    max_moves: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas that move at once to a cheaper placement."""
    min_gain: Annotated[int, Field(ge=0, le=90)] = 10
    """Percent that a move has to save of what it touches. 10 keeps replicas in place while prices jitter by 5 percent."""
    settle: Deadline = "5m"
    """How long a placement stays before the next move to a cheaper one."""
    grace: Deadline = "2m"
    """How long a site may be silent before its replicas are placed elsewhere."""


class SitePlacement(Reported):
    """What was decided for one site."""

    name: LabelText
    """Name of the site."""
    replicas: Count = 0
    """Replicas that shall run there in the end."""
    why: Annotated[str, Field(max_length=512)] = ""
    """Why, in a sentence for people."""
    refused_at: AwareDatetime | None = None
    """When replicas last found no place there although figures had room for them, or there were no figures."""
    refusals: Count | None = None
    """How often that was in a row. The site gets no further replicas for ten minutes, then 20, 40, up to an hour."""


class PlacementStatus(Reported):
    """What was decided about the placement, and why."""

    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why the placement is as it is."""
    solver: Annotated[str, Field(max_length=32)] = ""
    """What looked for the best placement: HiGHS or heuristic; empty when nothing had to be looked for."""
    price: Annotated[float, Field(ge=0)] = 0.0
    """Price of the placement for an hour, latency and site costs included."""
    best_price: Annotated[float, Field(ge=0)] | None = None
    """Price of the best placement that is known; absent when nobody looked for it."""
    moved_at: AwareDatetime | None = None
    """When replicas last began to move to a cheaper placement."""
    sites: Annotated[tuple[SitePlacement, ...], Field(max_length=256), Unique("name")] = ()
    """Every site that spec.sites selects."""
