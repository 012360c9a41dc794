"""What the controllers of resolution would have done to the study's tasks: R(t), and down-sampling by load.

Each task meets its own conditions, drawn from a seed: bandwidth and load between 0 and 1. The right answer at a size is the
study's; the time is the fitted one, slowed by the load (a server that is busy by half takes twice as long).
"""

from collections.abc import Callable
from dataclasses import dataclass

from autoglm_serving.resolution import Conditions, choose
from autoglm_serving.routing_table import ResolutionPolicy
from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.study.data import Asked, Study
from autoglm_serving.training.study.policies import Outcome
from autoglm_serving.vision.downsampling import Budget, downsample

_GRAIN = 1000
MOST_SLOWED = 0.9
"""Load above this is counted as this: nothing would ever be answered at a load of 1."""


@dataclass(frozen=True)
class Moment:
    """The conditions that a task meets."""

    bandwidth_share: float
    load: float


Chooser = Callable[[Asked, Moment], int]
"""The place of the size that a task's screen gets."""


def moments(study: Study, seed: int = 0) -> list[Moment]:
    """One for each task; the same for the same seed. Load goes up and down, as traffic does."""
    found: list[Moment] = []
    load = 0.5
    for number, _ in enumerate(study.tasks):
        dice = Dice(seed, "moment", number)
        load = min(max(load + (dice.below(_GRAIN) / _GRAIN - 0.5) * 0.4, 0.0), 1.0)
        found.append(Moment(dice.below(_GRAIN) / _GRAIN, load))
    return found


def run(study: Study, choice: Chooser, seed: int = 0) -> Outcome:
    """All tasks, each under its own conditions."""
    right, spent = 0, 0.0
    for asked, moment in zip(study.tasks, moments(study, seed), strict=True):
        place = choice(asked, moment)
        right += asked.answers[place].right
        spent += slowed(study.milliseconds(asked, place), moment)
    return Outcome(right, len(study.tasks), spent / len(study.tasks))


def slowed(milliseconds: float, moment: Moment) -> float:
    """Time on a server that is busy with other work."""
    return milliseconds / (1 - min(moment.load, MOST_SLOWED))


def fixed(place: int) -> Chooser:
    """Always the same size."""
    return lambda *_: place


def by_formula(study: Study, policy: ResolutionPolicy) -> Chooser:
    """R(t), smoothed from task to task; the nearest measured size answers."""
    previous: list[int | None] = [None]

    def choice(_: Asked, moment: Moment) -> int:
        size = choose(policy, Conditions(moment.bandwidth_share, moment.load), previous[0])
        previous[0] = size.smoothed
        return study.nearest(size.short_side)

    return choice


def by_load(study: Study, deadline_ms: float) -> Chooser:
    """step = max(1, floor(4 * load)), one more at a time until the predicted time fits."""
    largest, smallest = study.short_sides[-1], study.short_sides[0]

    def choice(asked: Asked, moment: Moment) -> int:
        def predict(width: int, height: int) -> float:
            return slowed(study.milliseconds(asked, study.nearest(min(width, height))), moment) / 1000

        budget = Budget(deadline_ms / 1000, smallest)
        found = downsample((largest, 2 * largest), moment.load, budget, predict)
        return study.nearest(min(found.width, found.height))

    return choice


def fixed_within(study: Study, deadline_ms: float, seed: int = 0) -> int:
    """The largest fixed size whose mean time under the same conditions is within the deadline; the smallest always is."""
    within = [
        place for place in range(len(study.short_sides)) if run(study, fixed(place), seed).milliseconds <= deadline_ms
    ]
    return max(within, default=0)
