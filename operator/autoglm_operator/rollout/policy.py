"""What the spec and the annotations of a deployment say about its rollouts."""

from collections.abc import Iterable
from datetime import timedelta

from autoglm_operator.api import AutoGLMDeployment, RolloutStep
from autoglm_operator.api.quantities import seconds
from autoglm_operator.rollout.terms import Policy, Step

PREFIX = "serving.autoglm.dev/rollout-"
"""Annotations: rollout-pause=true, rollout-promote=REVISION/ATTEMPT, rollout-abort=REVISION/ATTEMPT,
rollout-approve=REVISION/ATTEMPT/STEP and rollout-retry=ANYTHING. Each names the one attempt that it is about, so that reading
it twice does nothing twice, and what is left behind does nothing to the next attempt."""


def of(deployment: AutoGLMDeployment, *, direct: bool = False) -> Policy:
    """The policy of a deployment. `direct`: the revision that shall serve was good before, and needs no steps."""
    spec = deployment.spec.rollout
    steps = () if direct else steps_of(spec.steps or ())
    return Policy(
        steps=steps,
        gates=spec.gates if steps else (),
        deadline=timedelta(seconds=seconds(spec.progress_deadline)),
        paused=spec.paused or _word(deployment, "pause") == "true",
        promote=_word(deployment, "promote"),
        abort=_word(deployment, "abort"),
        approve=_word(deployment, "approve"),
        retry=_word(deployment, "retry")[:253],
    )


def steps_of(steps: Iterable[RolloutStep]) -> tuple[Step, ...]:
    """Steps as the API has them, for the machine. Holds are whole milliseconds, as they are stored: else each is an edit."""
    return tuple(
        Step(step.weight, timedelta(milliseconds=round(seconds(step.hold) * 1000)), step.approval) for step in steps
    )


def _word(deployment: AutoGLMDeployment, name: str) -> str:
    return deployment.metadata.annotations.get(PREFIX + name, "")
