"""Shrink a picture by the load of its server until its predicted time fits.

    step = max(1, floor(4 * load))

Source: "Open-AutoGLM model compression and acceleration", section 3.3, where every step-th element of the input is kept and
the rule repeats itself until the time fits (48 ms and 6.2 % loss became 46 ms and 3.1 %). A picture keeps one pixel in
`step`: its sides shrink by the square root. The article repeats with the same step, which never ends on a steady load; here
each round takes one step more, and a floor ends it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.vision.sizing import at_short_side

LOAD_STEPS = 4

DownsamplingReason = Literal["fits", "load", "deadline", "floor"]


@dataclass(frozen=True)
class Budget:
    """What a picture may cost: `deadline_s` seconds, never below a short side of `floor_short_side` pixels."""

    deadline_s: float
    floor_short_side: int


@dataclass(frozen=True)
class Downsampling:
    """The size that is sent, and why.

    fits: as it is; load: the load's own step was enough; deadline: more was needed; floor: the floor was reached, and
    `predicted_s` may be over the deadline.
    """

    width: int
    height: int
    step: int
    predicted_s: float
    reason: DownsamplingReason


def load_step(load: float) -> int:
    """One pixel in how many is kept at a load of 0 (idle) to 1 (full); loads outside are clamped."""
    return max(1, math.floor(LOAD_STEPS * min(max(load, 0.0), 1.0)))


def downsample(
    size: tuple[int, int], load: float, budget: Budget, predict: Callable[[int, int], float]
) -> Downsampling:
    """The size for a picture of (width, height). `predict(width, height)` gives seconds, and less for less pixels."""
    first = load_step(load)
    floor = min(budget.floor_short_side, *size)
    step = first
    while True:
        side = max(floor, math.floor(min(size) / math.sqrt(step)))
        width, height = at_short_side(*size, side)
        seconds = predict(width, height)
        if seconds <= budget.deadline_s:
            return Downsampling(width, height, step, seconds, _why_it_fits(step, first))
        if side == floor:
            return Downsampling(width, height, step, seconds, "floor")
        step += 1


def _why_it_fits(step: int, first: int) -> DownsamplingReason:
    if step > first:
        return "deadline"
    return "fits" if step == 1 else "load"
