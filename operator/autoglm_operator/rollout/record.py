"""A rollout as it is stored in the status: the machine's memory, what it decided, and what gateways do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from autoglm_operator.api import (
    GateStatus,
    GatewayTraffic,
    KnownRevision,
    Rejected,
    RevisionShare,
    RolloutDecision,
    RolloutStatus,
    RolloutStep,
)
from autoglm_operator.rollout import policy
from autoglm_operator.rollout.terms import Decision, Memory, Rejection, Step
from autoglm_operator.state import GatewayView, clip

DECISIONS = 10
ROWS = 32


def memory(status: RolloutStatus) -> Memory:
    """What the status remembers."""
    rejected = status.rejected
    return Memory(
        stable=status.stable,
        candidate=status.candidate,
        weight=status.weight,
        step=min(max(status.step - 1, 0), len(status.steps)),
        steps=policy.steps_of(status.steps),
        attempt=status.attempt,
        entered_at=status.entered_at,
        step_since=status.step_since,
        losses=status.losses,
        need=status.need,
        rejected=Rejection(rejected.revision, rejected.reason, rejected.at) if rejected else None,
        retried=status.retried,
        proven=status.proven,
    )


@dataclass(frozen=True)
class Scene:
    """What is stored beside the decision: the application of the stable revision, the history, and the traffic."""

    application: str
    revisions: tuple[KnownRevision, ...]
    traffic: tuple[GatewayTraffic, ...]


def status(before: RolloutStatus | None, decision: Decision, scene: Scene, now: datetime) -> RolloutStatus:
    """The status after a decision."""
    found, at = decision.memory, now.replace(microsecond=0)
    rejected = found.rejected
    told = tuple(
        RolloutDecision(at=at, revision=one.revision, action=one.action, reason=clip(one.reason))
        for one in decision.taken
    )
    return RolloutStatus(
        phase=decision.phase,
        message=clip(decision.message),
        stable=found.stable,
        application=scene.application,
        candidate=found.candidate,
        weight=found.weight,
        step=found.step + 1 if found.candidate is not None else 0,
        steps=tuple(_step(one) for one in found.steps),
        attempt=found.attempt,
        entered_at=found.entered_at,
        step_since=found.step_since,
        losses=found.losses,
        need=found.need,
        rejected=Rejected(revision=rejected.revision, reason=clip(rejected.reason), at=rejected.at)
        if rejected
        else None,
        retried=found.retried,
        proven=found.proven,
        revisions=scene.revisions[-ROWS:],
        traffic=scene.traffic,
        gates=tuple(
            GateStatus(metric=one.gate.metric, state=one.state, message=clip(one.message)) for one in decision.checks
        ),
        decisions=((before.decisions if before else ()) + told)[-DECISIONS:],
    )


def _step(step: Step) -> RolloutStep:
    hold = f"{step.hold.total_seconds():.3f}".rstrip("0").rstrip(".")
    return RolloutStep(weight=step.weight, hold=f"{hold}s", approval=step.approval)


def traffic(gateways: Sequence[GatewayView], deployment: str) -> tuple[GatewayTraffic, ...]:
    """What each gateway that reported does with a deployment that has two revisions."""
    return tuple(_traffic(view, deployment) for view in gateways[:ROWS] if view.report is not None)


def _traffic(view: GatewayView, deployment: str) -> GatewayTraffic:
    reports = view.report.revisions if view.report else ()
    shares = tuple(
        RevisionShare(
            revision=one.revision, percent=one.weight, requests=one.requests, mirrored=one.mirrored, errors=one.errors
        )
        for one in reports
        if one.deployment == deployment
    )
    seen = view.observed_at.replace(microsecond=0) if view.observed_at else None
    return GatewayTraffic(gateway=view.name[:253], shares=shares[:2], observed_at=seen)


def timeless(status: RolloutStatus) -> RolloutStatus:
    """The same without figures and their times: what is worth a write at once."""
    traffic = tuple(
        one.model_copy(update={"observed_at": None, "shares": tuple(_uncounted(one.shares))}) for one in status.traffic
    )
    gates = tuple(one.model_copy(update={"message": ""}) for one in status.gates)
    return status.model_copy(update={"traffic": traffic, "gates": gates})


def _uncounted(shares: Iterable[RevisionShare]) -> Iterable[RevisionShare]:
    return (one.model_copy(update={"requests": 0, "mirrored": 0, "errors": 0}) for one in shares)
