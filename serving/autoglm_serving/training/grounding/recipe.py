"""How long each part of a grounding lasts, and what it sees. Everything that happens follows from this and the seed."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Views:
    """Which pictures are kept: whole screens, parts of them, cards."""

    count: int = 1650
    whole_sides: tuple[int, ...] = (308, 336, 364, 392, 448)
    """Short sides in pixels of screens that are shown whole; each as often as any other."""
    part_sides: tuple[int, int] = (280, 448)
    """Bounds of the short side that the screen would have where a part of it is shown."""
    whole_percent: int = 45
    cards_percent: int = 7


@dataclass(frozen=True)
class Lesson:
    """How one part learns: `steps` of so many pictures, image tokens or questions, and the highest learning rate."""

    steps: int
    each: int
    rate: float
    falling: float = 0.6
    """The part of the steps in which the rate falls."""


@dataclass(frozen=True)
class Grounding:
    """A whole grounding."""

    name: str
    views: Views
    sorting: Lesson
    merging: Lesson
    finding: Lesson
    saying: Lesson
    questions: int
    """Questions whose states are kept for the upper layers."""
    lower_rate: float = 0.1
    """The learning rate of the lower layers as a part of the merger's: they begin near where they shall go."""
    seed: int = 0


PRESETS = {
    "smoke": Grounding(
        name="smoke",
        views=Views(count=4, whole_sides=(112,), part_sides=(84, 140)),
        sorting=Lesson(2, 1, 2e-3),
        merging=Lesson(2, 16, 1e-3),
        finding=Lesson(3, 1, 5e-4),
        saying=Lesson(3, 6, 1e-3),
        questions=12,
    ),
    "hour": Grounding(
        name="hour",
        views=Views(),
        sorting=Lesson(1200, 1, 2e-3),
        merging=Lesson(5000, 768, 1e-3, falling=0.7),
        finding=Lesson(4400, 2, 6e-4, falling=0.7),
        saying=Lesson(10_000, 48, 1e-3),
        questions=102_000,
    ),
}


def rate_at(lesson: Lesson, step: int) -> float:
    """The learning rate of a step: a short way up, then the highest, then a straight fall."""
    rising = min(1.0, (step + 1) / min(_RISING, max(1, lesson.steps // 4)))
    left = (lesson.steps - step) / lesson.steps
    return lesson.rate * rising * min(1.0, max(_LEAST, left / lesson.falling))


def to_json(recipe: Grounding) -> dict[str, Any]:
    """Plain values, equal for equal recipes."""
    return asdict(recipe)


_RISING = 50
"""Steps until the rate is reached."""

_LEAST = 0.02
"""The lowest rate, as a part of the highest."""
