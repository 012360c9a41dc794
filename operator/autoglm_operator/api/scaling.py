"""How replicas follow the load: what is asked for, and what was decided."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from autoglm_operator.api.base import Model, NotYet, Reported, Rule, Unique
from autoglm_operator.api.text import LatencyTarget, ScalingWindow

Count = Annotated[int, Field(ge=0)]

ScalingReason = Literal["Started", "LoadRose", "FirstBytesLate", "LoadFell", "Idle", "Woken", "Bounds"]


class ScalingTarget(Model):
    """What scaling keeps to."""

    queue: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Requests under way for each replica, those that wait included. Absent means as many as a replica works on at the same
    time, spec.engine.maxConcurrency."""
    ttft: LatencyTarget | None = None
    """Time to the first byte at the 95th percentile of the last minute, such as "2s": while it is longer and replicas are at
    least half busy, there are more of them. An answer that does not stream begins when it is complete."""


class ScalingForecast(Model):
    """Scaling ahead of the load."""

    enabled: bool = True
    """Whether scaling looks ahead."""
    horizon: LatencyTarget = "5m"
    """How far ahead; at least the time that a replica takes to start."""


class ScalingSpec(Model):
    """Replicas that follow the load. docs/scaling.md has the rules."""

    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest replicas on each selected site; with spec.placement, on all of them together. 0: none at any site after nobody
    asked for the length of downAfter. The next request is answered with 503 and Retry-After, and wakes the model."""
    max: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas on each selected site; with spec.placement, on all of them together."""
    target: ScalingTarget = ScalingTarget()
    """What scaling keeps to."""
    down_after: ScalingWindow = "5m"
    """Replicas are taken away when for so long none of them was needed, at most once in this time."""
    forecast: Annotated[ScalingForecast | None, NotYet("remove it; replicas follow the load as it is")] = None
    """Scaling ahead of the load."""

    rules = (
        Rule(
            "self.min <= self.max",
            lambda scaling: scaling.min <= scaling.max,
            "must not be above spec.scaling.max: lower it",
            "min",
        ),
    )


class ScaledSite(Reported):
    """What was decided for one site."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the site; "*" stands for all sites together, with spec.placement."""
    desired: Count = 0
    """Replicas that shall run."""
    reason: ScalingReason
    """Why, as one word from a closed list."""
    message: Annotated[str, Field(max_length=512)] = ""
    """Why, in a sentence with the figures of that moment."""
    since: AwareDatetime | None = None
    """When that was decided."""
    took: Annotated[str, Field(max_length=16)] | None = None
    """How long it took until as many replicas were ready; absent while some start."""


class ScalingDecision(Reported):
    """One change of the number of replicas."""

    at: AwareDatetime
    """When it was decided."""
    site: Annotated[str, Field(max_length=63)]
    """For which site; "*" for all together."""
    before: Count = 0
    """Replicas until then."""
    after: Count = 0
    """Replicas from then on."""
    reason: ScalingReason
    """Why, as one word from a closed list."""
    message: Annotated[str, Field(max_length=512)] = ""
    """Why, in a sentence."""


class ScalingStatus(Reported):
    """How many replicas the load asks for, and why. Written when a number changes: what is decided holds until the next one."""

    sites: Annotated[tuple[ScaledSite, ...], Field(max_length=256), Unique("name")] = ()
    """Each selected site, or all together."""
    decisions: Annotated[tuple[ScalingDecision, ...], Field(max_length=10)] = ()
    """The last changes, the newest at the end."""
