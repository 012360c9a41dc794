"""Stop when the answer is sure enough: after a small picture, a few tiles or an early layer, instead of after all of them.

Source: "Open-AutoGLM model compression and acceleration", section 2.5 (early exiting). Two thresholds, not one: a stream of
similar pictures near a single threshold would change its mind with every picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ExitReason = Literal["sure", "still_sure", "unsure", "last_stage"]


@dataclass(frozen=True)
class ExitPolicy:
    """Confidence (0 to 1) from which to stop early, and down to which to go on doing so."""

    enter: float = 0.9
    leave: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.leave <= self.enter <= 1:
            raise ValueError("early exit needs 0 <= leave <= enter <= 1")


@dataclass(frozen=True)
class Exit:
    """Whether to stop here, and why."""

    stops: bool
    reason: ExitReason


def decide(policy: ExitPolicy, confidence: float, *, last: bool, stopped_before: bool) -> Exit:
    """At one stage of one picture. `stopped_before`: the stream's previous picture stopped at this stage."""
    if last:
        return Exit(True, "last_stage")
    if confidence >= policy.enter:
        return Exit(True, "sure")
    if stopped_before and confidence >= policy.leave:
        return Exit(True, "still_sure")
    return Exit(False, "unsure")


def stage_reached(policy: ExitPolicy, confidences: Sequence[float], previous: int | None = None) -> int:
    """The stage (from 0) at which a picture stops, given its confidence at each. `previous`: of the picture before."""
    if not confidences:
        raise ValueError("early exit needs at least one stage")
    for stage, confidence in enumerate(confidences):
        last = stage == len(confidences) - 1
        if decide(policy, confidence, last=last, stopped_before=previous == stage).stops:
            return stage
    raise AssertionError("the last stage always stops")


def expected_cost(stage_costs: Sequence[float], reached: Sequence[int]) -> float:
    """The mean cost of pictures that stopped at the stages `reached`; a picture pays for every stage up to its own."""
    if not reached:
        raise ValueError("no pictures to take a mean of")
    return sum(sum(stage_costs[: stage + 1]) for stage in reached) / len(reached)
