"""What a resolution study stores: every answer at every size, and measured times. Everything else is computed from it."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from autoglm_serving.training.ablation.paired import Paired, compare
from autoglm_serving.training.intervals import Share, wilson
from autoglm_serving.vision.costs import FitError, Latency, NotEnoughPoints, check_latency, fit_latency

EVERY_KIND = "*"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Answer(_Part):
    """One answer at one size."""

    right: bool
    confidence: Annotated[float, Field(ge=0, le=1)]


class Asked(_Part):
    """One task: `answers` in the order of the study's sizes, `tokens` of its screen at each of them."""

    task: str
    screen: str
    kind: str
    answers: tuple[Answer, ...]
    tokens: tuple[int, ...]


class Timing(_Part):
    """Processor time of one thread until the first token of an answer, at a number of image tokens."""

    image_tokens: Annotated[int, Field(ge=1)]
    milliseconds: Annotated[float, Field(gt=0)]


class Study(_Part):
    """A whole study. `gflops` of a first token by size, mean over the tasks, from first principles."""

    model: str
    source: str
    measured: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    machine: str
    short_sides: Annotated[tuple[int, ...], Field(min_length=2)]
    gflops: tuple[float, ...]
    tasks: Annotated[tuple[Asked, ...], Field(min_length=1)]
    timings: Annotated[tuple[Timing, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> "Study":
        if sorted(set(self.short_sides)) != list(self.short_sides) or len(self.gflops) != len(self.short_sides):
            raise ValueError("sizes rise, and each has its work")
        if any(
            len(each.answers) != len(self.short_sides) or len(each.tokens) != len(self.short_sides)
            for each in self.tasks
        ):
            raise ValueError("every task is answered at every size")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({each.kind for each in self.tasks}))

    @cached_property
    def latency(self) -> Latency:
        """The fitted time for a number of image tokens; with too few measurements in proportion to them."""
        measured = points(self.timings)
        try:
            return fit_latency(measured)
        except NotEnoughPoints:
            return Latency(sum(time for _, time in measured) / sum(tokens for tokens, _ in measured), 1.0, 0.0)

    @cached_property
    def latency_error(self) -> FitError | None:
        """How far the fit is off on measurements that it has not seen; None with too few."""
        try:
            return check_latency(points(self.timings))
        except NotEnoughPoints:
            return None

    def of_kind(self, kind: str) -> tuple[Asked, ...]:
        """The tasks on screens of one kind; `*`: all."""
        return tuple(each for each in self.tasks if kind in (each.kind, EVERY_KIND))

    def nearest(self, short_side: float) -> int:
        """Place of the measured size nearest to another one."""
        return min(range(len(self.short_sides)), key=lambda place: abs(self.short_sides[place] - short_side))

    def milliseconds(self, asked: Asked, place: int) -> float:
        """Predicted time of a task's screen at a size."""
        return self.latency.at(asked.tokens[place])

    def share(self, kind: str, place: int) -> Share:
        """Right answers of a kind at a size."""
        tasks = self.of_kind(kind)
        return wilson(sum(each.answers[place].right for each in tasks), len(tasks))

    def mean_tokens(self, kind: str, place: int) -> float:
        """Image tokens, mean over the tasks."""
        tasks = self.of_kind(kind)
        return sum(each.tokens[place] for each in tasks) / len(tasks)

    def mean_ms(self, kind: str, place: int) -> float:
        """Predicted time, mean over the tasks."""
        tasks = self.of_kind(kind)
        return sum(self.milliseconds(each, place) for each in tasks) / len(tasks)

    def paired(self, kind: str, here: int, there: int) -> Paired:
        """Two sizes compared task by task."""
        tasks = self.of_kind(kind)
        return compare(outcomes(tasks, here), outcomes(tasks, there))

    def stops_paying(self, kind: str) -> int:
        """Place of the smallest size that no larger one beats beyond chance."""
        places = range(len(self.short_sides))
        return next(
            place
            for place in places
            if not any(_beats(self.paired(kind, larger, place)) for larger in places if larger > place)
        )


def outcomes(tasks: Iterable[Asked], place: int) -> dict[str, bool]:
    """By task: whether it was right at a size."""
    return {each.task: each.answers[place].right for each in tasks}


def points(timings: Sequence[Timing]) -> list[tuple[float, float]]:
    """For the fits."""
    return [(float(each.image_tokens), each.milliseconds) for each in timings]


def _beats(paired: Paired) -> bool:
    return paired.differs and paired.points > 0
