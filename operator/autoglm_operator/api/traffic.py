"""How requests reach the replicas of a deployment."""

from typing import Annotated, Literal

from pydantic import Field

from autoglm_operator.api.base import Model, NotYet, Rule, Unique
from autoglm_operator.api.model import NO_MORE_RIGHT_THAN_ASKED
from autoglm_operator.api.rollout import RevisionName, RolloutGate, RolloutMirror, RolloutStep
from autoglm_operator.api.text import Deadline, DnsLabel, LatencyTarget, RequestTimeout

Percent = Annotated[int, Field(ge=0, le=100)]


class QualityMeasurement(Model):
    """How many tasks the model solved on screens that it saw at one size. `autoglm eval tiny --study` measures it."""

    kind: Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9-]{0,31})$")] = "*"
    """Kind of screens, such as phone; * is all kinds together. Upright screens of 9:19 and longer are taken for phones."""
    short_side: Annotated[int, Field(ge=28, le=4096)]
    """Pixels of the screens' short side as the model saw them."""
    right: Annotated[int, Field(ge=0, le=10_000_000)]
    """Tasks that were solved."""
    samples: Annotated[int, Field(ge=1, le=10_000_000)]
    """Tasks that were asked."""

    rules = (NO_MORE_RIGHT_THAN_ASKED,)


class ResolutionSpec(Model):
    """In which resolution the model sees screenshots. Answers use relative coordinates, so clients see no difference."""

    mode: Literal["fixed", "dynamic"] = "fixed"
    """fixed: always maxShortSide. dynamic: between the two bounds, by bandwidth and load."""
    min_short_side: Annotated[int, Field(ge=28, le=4096)] = 480
    """Lowest resolution: pixels of an image's short side."""
    max_short_side: Annotated[int, Field(ge=28, le=4096)] = 1080
    """Highest resolution: pixels of an image's short side. Smaller images are never enlarged."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Weight of bandwidth against load when mode is dynamic: 1 looks at bandwidth alone, 0 at load alone."""
    quality: Annotated[tuple[QualityMeasurement, ...], Field(max_length=64)] | None = None
    """What the model was measured to solve at which size. The gateway then tells what a size loses, and in mode dynamic sends
    no pixels that win nothing."""
    quality_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the tasks solved at the largest measured size that a chosen size must still solve; needs quality, and mode
    dynamic. maxShortSide stays the limit."""

    rules = (
        Rule(
            "self.minShortSide <= self.maxShortSide",
            lambda resolution: resolution.min_short_side <= resolution.max_short_side,
            "must not be above spec.resolution.maxShortSide: lower it",
            "minShortSide",
        ),
        Rule(
            "!has(self.qualityFloor) || has(self.quality)",
            lambda resolution: resolution.quality_floor is None or resolution.quality is not None,
            "needs measurements: add spec.resolution.quality, or remove it",
            "qualityFloor",
        ),
    )


class SloSpec(Model):
    """What clients are promised."""

    ttft: LatencyTarget | None = None
    """Target for the time to the first token, such as "2s": the cheapest endpoint that meets it is chosen."""
    latency: Annotated[LatencyTarget | None, NotYet("remove it and set spec.routing.slo.ttft")] = None
    """Target for the time to the last token."""


class SpilloverSpec(Model):
    """Sending requests to another site when one is full."""

    sites: Annotated[tuple[DnsLabel, ...], Field(max_length=64), Unique()] | None = None
    """Sites that may take what spills over; absent means all sites of the deployment."""


class MirrorSpec(Model):
    """Sending copies of requests to another deployment, whose answers are dropped."""

    name: DnsLabel
    """Name of the deployment that gets the copies, in the same namespace."""
    percent: Percent
    """Share of requests that is copied."""


class CanarySpec(Model):
    """Sending a share of requests to another deployment."""

    name: DnsLabel
    """Name of the deployment that gets the share, in the same namespace."""
    percent: Percent
    """Share of requests that is sent there."""


class RoutingSpec(Model):
    """How the gateway chooses an endpoint for a request."""

    policy: Literal["leastWork", "roundRobin"] = "leastWork"
    """leastWork: the endpoint that is predicted to answer first. roundRobin: one after the other."""
    slo: SloSpec = SloSpec()
    """What clients are promised."""
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """How often a request that failed before its first byte is tried on another endpoint."""
    timeout: RequestTimeout = "10m"
    """Longest time for one request, from its arrival to the last byte of the answer."""
    spillover: Annotated[SpilloverSpec | None, NotYet("remove it; requests already go to every site in spec.sites")] = (
        None
    )
    """Sending requests to another site when one is full."""
    mirror: Annotated[MirrorSpec | None, NotYet()] = None
    """Sending copies of requests to another deployment."""
    canary: Annotated[CanarySpec | None, NotYet()] = None
    """Sending a share of requests to another deployment."""


class RolloutSpec(Model):
    """How a new revision replaces the old one."""

    max_surge: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many replicas there may be beyond the wanted number, on each site: of both revisions together during a rollout in
    steps, and otherwise for a second Ray cluster where the pods change at a site with the back end kubeRay, which starts only
    where all its replicas fit in. Without steps an existing Ray cluster needs none: there Serve replaces replicas one after
    the other."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many replicas may be missing, on each site: through a rollout in steps, and with the back end kubeRay through a
    change of the pods that has no room for a second Ray cluster, and through voluntary disruptions such as a drain."""
    steps: Annotated[tuple[RolloutStep, ...], Field(min_length=1, max_length=16)] | None = None
    """Steps by which a new revision takes over, as a second Serve application beside the old one. Absent: Ray Serve replaces
    the replicas of the one application."""
    gates: Annotated[tuple[RolloutGate, ...], Field(max_length=8), Unique("metric")] = ()
    """Measurements that every step has to pass. One that fails takes the new revision back."""
    mirror: RolloutMirror | None = None
    """Copies of requests for the new revision."""
    paused: bool = False
    """true stops a rollout in steps where it is; nothing is written for it, and no other annotation acts, until this is false.
    The annotation serving.autoglm.dev/rollout-pause: "true" does the same."""
    revision: RevisionName | None = None
    """A revision of status.rollout.revisions that shall serve instead of the one that the spec describes: the way back. One
    in state Retired takes over as soon as it is ready, without steps; one that never was stable goes through them."""
    history_limit: Annotated[int, Field(ge=1, le=20)] = 5
    """How many revisions besides the stable one and the new one can be gone back to."""
    progress_deadline: Deadline = "15m"
    """How long a new revision may take to become ready for a step before it is taken back. Each time that it loses its
    replicas in the step a tenth of this is taken off, so that one that crashes again and again is taken back."""

    rules = (
        Rule(
            "!has(self.steps) || self.maxSurge >= 1",
            lambda rollout: rollout.steps is None or rollout.max_surge >= 1,
            "must be at least 1 with steps, since both revisions run side by side: set spec.rollout.maxSurge to 1 or more",
            "maxSurge",
        ),
        Rule(
            "!has(self.steps) || self.steps.map(step, step.weight).isSorted()",
            lambda rollout: _is_sorted([step.weight for step in rollout.steps or ()]),
            "must not fall in weight from one step to the next",
            "steps",
        ),
        Rule(
            "has(self.steps) || (size(self.gates) == 0 && !has(self.mirror) && !has(self.revision) && !self.paused)",
            lambda rollout: (
                rollout.steps is not None or not (rollout.gates or rollout.mirror or rollout.revision or rollout.paused)
            ),
            "must be set with gates, mirror, revision or paused, which have no effect without",
            "steps",
        ),
        Rule(
            "!self.gates.exists(gate, gate.metric == 'agreement') || (has(self.mirror) && self.mirror.percent > 0)",
            lambda rollout: (
                all(gate.metric != "agreement" for gate in rollout.gates)
                or (rollout.mirror is not None and rollout.mirror.percent > 0)
            ),
            "must be set with a percent above 0 for the gate agreement, which compares mirrored requests",
            "mirror",
        ),
    )


def _is_sorted(values: list[int]) -> bool:
    return values == sorted(values)


ImageHost = Annotated[
    str,
    Field(
        max_length=259,
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[1-9][0-9]{0,4})?$",
    ),
]


class LimitsSpec(Model):
    """Bounds on one request. Gateway and application refuse what is beyond them, and name the bound."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=67_108_864)] = 16 * 1024 * 1024
    """Largest request body, in bytes."""
    max_images: Annotated[int, Field(ge=1, le=64)] = 10
    """Most images in one request."""
    max_image_pixels: Annotated[int, Field(ge=784, le=200_000_000)] = 50_000_000
    """Largest image, in pixels, read from its header before anything is decoded."""
    max_image_side: Annotated[int, Field(ge=28, le=65_535)] = 16384
    """Longest side of an image, in pixels."""
    max_new_tokens: Annotated[int, Field(ge=1, le=65_536)] = 4096
    """Longest answer, in tokens."""
    max_queue: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Most requests that wait for a replica on one site; further ones get 503 with Retry-After."""
    image_hosts: Annotated[tuple[ImageHost, ...], Field(max_length=32), Unique()] = ()
    """Hosts that images may be fetched from: a name, `*.example.com`, or either with `:port`. None: nothing is fetched."""
