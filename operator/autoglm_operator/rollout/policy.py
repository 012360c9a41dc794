"""What the spec and the annotations of a deployment say about its rollouts."""

from datetime import timedelta

from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.api.quantities import seconds
from autoglm_operator.rollout.machine import Policy, Step

PREFIX = "serving.autoglm.dev/rollout-"
"""Annotations: rollout-pause=true, rollout-promote=REVISION, rollout-abort=REVISION, rollout-approve=REVISION/STEP and
rollout-retry=ANYTHING. Each names what it is about, so that reading it twice does nothing twice; one that still stands when
its revision is tried again counts again."""


def of(deployment: AutoGLMDeployment) -> Policy:
    """The policy of a deployment. A revision that is named in `spec.rollout.revision` takes over without steps."""
    spec = deployment.spec.rollout
    steps = (
        ()
        if spec.revision is not None
        else tuple(Step(step.weight, timedelta(seconds=seconds(step.hold)), step.approval) for step in spec.steps or ())
    )
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


def _word(deployment: AutoGLMDeployment, name: str) -> str:
    return deployment.metadata.annotations.get(PREFIX + name, "")
