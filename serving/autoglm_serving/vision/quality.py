"""What is lost at a smaller size: measured accuracy by content and short side, with what is known about its certainty.

A table comes from an evaluation (`autoglm eval tiny` writes one). Between measured sizes the answer lies on a line; more
pixels never count as worse: where a measurement says so, it is taken for noise and pooled with its neighbours (isotonic
regression weighted by samples). Outside the measured sizes the nearest one answers, and says so.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from autoglm_serving.routing_table import MeasuredQuality
from autoglm_serving.vision.costs import FitError, Latency

Basis = Literal["measured", "between", "below_range", "above_range"]

EVERY_KIND = "*"
_Z = 1.959964
"""Two-sided 95 % of the normal distribution."""


class _Part(BaseModel):
    """Base of what the file holds: frozen, strict about unknown keys, camelCase."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class FittedLatency(_Part):
    """Milliseconds to the first token on the machine of the measurement: a * tokens**b + c."""

    a: Annotated[float, Field(ge=0)]
    b: Annotated[float, Field(ge=0)]
    c: Annotated[float, Field(ge=0)]
    held_out_relative: Annotated[float, Field(ge=0)]
    """Mean error on points that the fit has not seen, as a share (k-fold cross-validation)."""
    points: Annotated[int, Field(ge=1)]


class QualityTable(_Part):
    """The file: measurements of one model, and where they come from. Its rows are those of `spec.resolution.quality`."""

    model: str
    source: str
    """The command and data that gave the figures."""
    measured: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    """The day; empty where nobody said."""
    measurements: Annotated[tuple[MeasuredQuality, ...], Field(min_length=1)]
    latency: FittedLatency | None = None

    def text(self) -> str:
        """What is written to the file; `load` reads it."""
        return self.model_dump_json(indent=1, by_alias=True, exclude_none=True) + "\n"


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


class Loss(NamedTuple):
    """The answer to "what do I lose at this size?"."""

    kind: str
    """The kind that answered: the one asked for, or `*` (all kinds together) where it was never measured."""
    short_side: int
    accuracy: float
    full_accuracy: float
    """At the largest measured size."""
    interval: Interval
    """Of `accuracy`."""
    basis: Basis
    samples: int
    """Behind `accuracy`: the fewer of the two neighbours."""
    source: str

    @property
    def loss(self) -> float:
        """The share of answers that were right at full size and are wrong here; never below zero."""
        return max(0.0, self.full_accuracy - self.accuracy)


class _Level(NamedTuple):
    short_side: int
    accuracy: float
    samples: int


class Quality:
    """A table made ready for questions. It does not change."""

    def __init__(self, table: QualityTable) -> None:
        self.table = table
        kinds = {each.kind for each in table.measurements} | {EVERY_KIND}
        self._curves = {kind: _monotone(_of_kind(table.measurements, kind)) for kind in sorted(kinds)}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of content with measurements of their own."""
        return tuple(kind for kind in self._curves if kind != EVERY_KIND)

    def loss_at(self, short_side: int, kind: str = EVERY_KIND) -> Loss:
        """What the model gets right at a short side, compared with the largest measured one."""
        known = kind if kind in self._curves else EVERY_KIND
        curve = self._curves[known]
        accuracy, samples, basis = _read(curve, short_side)
        return Loss(
            kind=known,
            short_side=short_side,
            accuracy=accuracy,
            full_accuracy=curve[-1].accuracy,
            interval=interval(accuracy, samples),
            basis=basis,
            samples=samples,
            source=", ".join(filter(None, (self.table.model, self.table.measured))) + f": {self.table.source}",
        )

    def smallest_within(self, max_loss: float, kind: str = EVERY_KIND) -> int:
        """The smallest measured short side that loses at most `max_loss`; the largest one always does."""
        curve = self._curves[kind if kind in self._curves else EVERY_KIND]
        full = curve[-1].accuracy
        return next(level.short_side for level in curve if full - level.accuracy <= max(max_loss, 0.0))

    def smallest_keeping(self, share: float, kind: str = EVERY_KIND) -> int:
        """The smallest measured short side that solves this share of what the largest one solves; the largest always does."""
        curve = self._curves[kind if kind in self._curves else EVERY_KIND]
        least = min(share, 1.0) * curve[-1].accuracy
        return next(level.short_side for level in curve if level.accuracy >= least)


def with_costs(table: QualityTable, latency: Latency, error: FitError) -> QualityTable:
    """The table with what a size costs."""
    fitted = FittedLatency(
        a=latency.a, b=latency.b, c=latency.c, held_out_relative=error.held_out_relative, points=error.points
    )
    return table.model_copy(update={"latency": fitted})


def load(text: str) -> Quality:
    """From the JSON of a table. Raises pydantic's ValidationError, which names the field."""
    return Quality(QualityTable.model_validate_json(text))


def interval(accuracy: float, samples: int) -> Interval:
    """Wilson's score interval (1927) of a share: right also near 0 and 1, and for few samples."""
    spread = _Z * _Z / samples
    centre = (accuracy + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(accuracy * (1 - accuracy) / samples + spread / (4 * samples)) / (1 + spread)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def _of_kind(measurements: Sequence[MeasuredQuality], kind: str) -> Sequence[MeasuredQuality]:
    """All kinds together are their own rows where the table has such, else the sum of the others."""
    own = [each for each in measurements if each.kind == kind]
    return own if own or kind != EVERY_KIND else measurements


def _monotone(measurements: Sequence[MeasuredQuality]) -> tuple[_Level, ...]:
    """One level for each short side, never falling: neighbours in the wrong order are pooled."""
    sides = sorted({each.short_side for each in measurements})
    pools: list[tuple[list[int], int, int]] = []  # short sides, right, samples
    counts: dict[int, int] = {}
    for side in sides:
        here = [each for each in measurements if each.short_side == side]
        right, samples = sum(each.right for each in here), sum(each.samples for each in here)
        counts[side] = samples
        members = [side]
        while pools and pools[-1][1] * samples > right * pools[-1][2]:
            before, more_right, more_samples = pools.pop()
            members, right, samples = before + members, right + more_right, samples + more_samples
        pools.append((members, right, samples))
    return tuple(_Level(side, right / samples, counts[side]) for members, right, samples in pools for side in members)


def _read(curve: tuple[_Level, ...], short_side: int) -> tuple[float, int, Basis]:
    if short_side < curve[0].short_side:
        return curve[0].accuracy, curve[0].samples, "below_range"
    if short_side > curve[-1].short_side:
        return curve[-1].accuracy, curve[-1].samples, "above_range"
    above = next(i for i, level in enumerate(curve) if level.short_side >= short_side)
    high = curve[above]
    if high.short_side == short_side:
        return high.accuracy, high.samples, "measured"
    low = curve[above - 1]
    share = (short_side - low.short_side) / (high.short_side - low.short_side)
    return low.accuracy + share * (high.accuracy - low.accuracy), min(low.samples, high.samples), "between"
