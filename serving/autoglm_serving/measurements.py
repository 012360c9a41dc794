"""What a gateway measured about one revision, in a form that can be added up over gateways without losing the percentiles.

A `Sketch` counts durations in buckets whose bounds grow by 10 %, so every percentile is right to within 5 % and the
sketches of several gateways add up to the sketch of all their requests.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROWTH = 1.1
SHORTEST_S = 0.001
LONGEST_S = 3600.0

Count = Annotated[int, Field(ge=0)]
Role = Literal["stable", "canary"]


class Measured(BaseModel):
    """Base of everything here: frozen, camelCase on the wire. A newer gateway may tell more than is known here."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Sketch(Measured):
    """Durations by bucket; bucket n holds the seconds from `GROWTH ** (n - 1)` to `GROWTH ** n`."""

    counts: dict[int, Count] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that this share of all stays below; None without any."""
        rank, seen = share * self.total, 0
        for number, count in sorted(self.counts.items()):
            seen += count
            if seen >= rank and count:
                return float(2 * GROWTH**number / (GROWTH + 1))
        return None


class RevisionReport(Measured):
    """One revision of one deployment at one gateway, since the present `window` began.

    `weight` is the share of sessions in percent that the gateway sends there now: a canary without an endpoint that
    answers has 0, whatever the table wishes. `requests` are those of clients, `mirrored` those that were copied there;
    durations and errors count both. `skipped` are copies that were not made because too many were under way.
    """

    deployment: str
    revision: str
    role: Role
    window: str = ""
    weight: Annotated[int, Field(ge=0, le=100)]
    requests: Count = 0
    mirrored: Count = 0
    errors: Count = 0
    skipped: Count = 0
    compared: Count = 0
    agreed: Count = 0
    ttft: Sketch = Sketch()
    latency: Sketch = Sketch()

    @property
    def asked(self) -> int:
        """Everything that the revision was asked and that ended."""
        return self.requests + self.mirrored


class FirstBytes(Measured):
    """How long the answers of one deployment took to begin at one gateway, whatever revision gave them: clients' requests of
    the last five minutes that were answered. An answer that does not stream begins when it is complete."""

    deployment: str
    ttft: Sketch = Sketch()


class SiteLoadReport(Measured):
    """What one gateway sends to a deployment at one site."""

    site: str
    in_flight: Annotated[float, Field(ge=0)] = 0.0
    """Requests under way, those that wait at the site included: the mean of the last 20 s."""
    arrivals: Annotated[float, Field(ge=0)] = 0.0
    """Requests a second that were sent there in the last minute."""
    completions: Annotated[float, Field(ge=0)] = 0.0
    """Requests a second that were answered there in the last minute."""
    ttft: Sketch = Sketch()
    """How long answers took to begin in the last minute."""


class LoadReport(Measured):
    """What clients want of one deployment at one gateway."""

    deployment: str
    rate: Annotated[float, Field(ge=0)] = 0.0
    """Requests a second in the last minute, those included that nobody could serve."""
    asked_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds since the last request. A span and not a time, so that clocks need not agree."""
    sites: tuple[SiteLoadReport, ...] = ()
    """Sites to which requests went lately."""


def bucket(seconds: float) -> int:
    """The bucket of a duration. What is shorter or longer than the bounds counts as the bound."""
    return math.ceil(math.log(min(max(seconds, SHORTEST_S), LONGEST_S)) / math.log(GROWTH))


def merged(reports: Iterable[RevisionReport]) -> RevisionReport | None:
    """Several gateways' reports on one revision and window as one. The weight is the smallest; None without a report."""
    found = list(reports)
    if not found:
        return None
    sums = {
        name: sum(getattr(report, name) for report in found)
        for name in ("requests", "mirrored", "errors", "skipped", "compared", "agreed")
    }
    ttft = _added(report.ttft.counts for report in found)
    latency = _added(report.latency.counts for report in found)
    weight = min(report.weight for report in found)
    return found[0].model_copy(update={**sums, "ttft": ttft, "latency": latency, "weight": weight})


def added(sketches: Iterable[Sketch]) -> Sketch:
    """Several gateways' sketches as one."""
    return _added(sketch.counts for sketch in sketches)


def _added(parts: Iterable[Mapping[int, int]]) -> Sketch:
    counts: dict[int, int] = {}
    for part in parts:
        for number, count in part.items():
            counts[number] = counts.get(number, 0) + count
    return Sketch(counts=counts)
