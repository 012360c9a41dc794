"""From checks to conditions: which facts hold, since when, and which changes are worth an event.

Ready is earned. It is True only if every check on sites and on gateways is True, False as soon as one is False, and
Unknown otherwise: what nobody could look at is not called true, and not called false either.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from autoglm_operator.api import (
    ConditionStatus,
    DeploymentCondition,
    DeploymentConditionType,
    DeploymentStatus,
    Reason,
    SiteCondition,
)
from autoglm_operator.state import LEFT_OUT, Event, SiteOutcome, Verdict, clip

ORDER: tuple[DeploymentConditionType, ...] = (
    "Ready", "SitesReady", "GatewayReady", "RolledOut", "ScalingActive", "Progressing", "Degraded",
)  # fmt: skip

_CALM: frozenset[Reason] = frozenset(
    {
        "Answering", "UpToDate", "Healthy", "Connected", "Admitted", "Suspended", "ScaledToZero", "Deploying", "RollingOut",
        "Scaling", "Probing", "Deleting", "TablePending", "NotObserved", "Quorum", "RolloutPaused", "FollowingLoad",
    }
)  # fmt: skip
"""Reasons that belong to the ordinary course of things. An event with another reason is a Warning."""

_QUIET: frozenset[Reason] = frozenset({"Probing", "TablePending", "NotObserved"})
"""Steps on the way that are not worth an event."""

_MOVING = ("Pending", "Deploying", "Deleting")

Verdicts = Mapping[DeploymentConditionType, Verdict]


def combine(checks: Iterable[Verdict], good: Verdict) -> Verdict:
    """All checks as one: False if one is False, Unknown if one is Unknown, else `good`.

    The reason is that of the worst check: what needs a person comes before what passes by itself, and a known fault before
    one that nobody could look at. The messages of all failed checks are joined in the same order.
    """
    failed = sorted((check for check in checks if check.status != "True"), key=_severity)
    if not failed:
        return good
    status: ConditionStatus = "False" if any(check.status == "False" for check in failed) else "Unknown"
    return Verdict(status, failed[0].reason, "; ".join(check.message for check in failed))


def site_check(outcome: SiteOutcome) -> Verdict:
    """Whether one site does what it shall. A site that is silent is neither ready nor not."""
    text = f"{outcome.name}: {outcome.status.message or outcome.status.state}"
    if not outcome.live:
        return Verdict("Unknown", outcome.reason, text)
    return Verdict("True" if outcome.status.state == "Ready" else "False", outcome.reason, text)


def progressing(outcomes: Sequence[SiteOutcome], sites: Verdict, gateway: Verdict) -> Verdict:
    """Whether something is under way that ends without anybody's help."""
    moving = [outcome for outcome in outcomes if outcome.live and outcome.status.state in _MOVING]
    if moving:
        text = "; ".join(f"{outcome.name}: {outcome.status.message}" for outcome in moving)
        return Verdict("True", moving[0].reason, text)
    if sites.status == "True" and gateway.status == "False" and gateway.reason in ("Probing", "TablePending"):
        return Verdict("True", gateway.reason, gateway.message)
    return Verdict("False", sites.reason, "nothing is under way")


def degraded(outcomes: Sequence[SiteOutcome], gateway_checks: Sequence[Verdict]) -> Verdict:
    """Whether some of what shall serve does not, while the rest does."""
    bad = [outcome for outcome in outcomes if outcome.status.state != "Ready" and outcome.reason != "Scaling"]
    serving = [outcome for outcome in outcomes if outcome.live and outcome.status.ready > 0]
    unseen = [outcome for outcome in bad if not outcome.live]
    text = "; ".join(site_check(outcome).message for outcome in bad)
    if bad and serving:
        return Verdict("True", bad[0].reason, text)
    if unseen:
        return Verdict("Unknown", unseen[0].reason, text)
    refused = [check for check in gateway_checks if check.status != "True"]
    if refused and len(refused) < len(gateway_checks):
        return Verdict("True", refused[0].reason, "; ".join(check.message for check in refused))
    return Verdict("False", bad[0].reason if bad else "Healthy", text)


def with_left_out(left_out: Verdict | None, found: Verdict) -> Verdict:
    """Degraded, where sites that match are not used: that is known, whatever else is not. It comes first in the message,
    which may be cut; the reason is that of a site that does not do what it shall, if there is one."""
    if left_out is None:
        return found
    reason = found.reason if found.status == "True" else left_out.reason
    return Verdict("True", reason, "; ".join(filter(None, (left_out.message, found.message))))


def uniform(verdict: Verdict, *, others: Verdict | None = None) -> Verdicts:
    """The same verdict for Ready, SitesReady and GatewayReady, and `others` (else False) for the rest."""
    rest = others or Verdict("False", verdict.reason, verdict.message)
    return {
        "Ready": verdict,
        "SitesReady": verdict,
        "GatewayReady": verdict,
        "Progressing": rest,
        "Degraded": Verdict("False", verdict.reason, ""),
    }


def written(
    verdicts: Verdicts, before: DeploymentStatus | None, generation: int, now: datetime
) -> tuple[DeploymentCondition, ...]:
    """The conditions. The time of the last transition is that of the last change of the status, of nothing else."""
    return tuple(
        DeploymentCondition(
            type=kind,
            status=verdicts[kind].status,
            reason=verdicts[kind].reason,
            message=clip(verdicts[kind].message),
            observed_generation=generation,
            last_transition_time=_since(find(before, kind), verdicts[kind], now),
        )
        for kind in ORDER
        if kind in verdicts
    )


def find(status: DeploymentStatus | None, kind: DeploymentConditionType) -> DeploymentCondition | None:
    """One condition of a status."""
    return next((one for one in (status.conditions if status else ()) if one.type == kind), None)


def site_condition(verdict: Verdict, before: SiteCondition | None, generation: int, now: datetime) -> SiteCondition:
    """The condition Connected of a site."""
    return SiteCondition(
        type="Connected",
        status=verdict.status,
        reason=verdict.reason,
        message=clip(verdict.message),
        observed_generation=generation,
        last_transition_time=_since(before, verdict, now),
    )


def events(before: DeploymentStatus | None, after: Sequence[DeploymentCondition]) -> tuple[Event, ...]:
    """What happened between two statuses, told once and by the condition that knows. The same status again is no event."""
    told: dict[Reason, Event] = {}
    by_type = {condition.type: condition for condition in after}
    for condition in (by_type["SitesReady"], by_type["GatewayReady"], by_type["Ready"]):
        old = find(before, condition.type)
        if (old and (old.status, old.reason) == (condition.status, condition.reason)) or condition.reason in _QUIET:
            continue
        if condition.status == "True" and condition.type != "Ready":
            continue
        told.setdefault(condition.reason, event_of(condition.reason, condition.message))
    degraded, old = by_type["Degraded"], find(before, "Degraded")
    if degraded.message.startswith(LEFT_OUT) and not (old and old.message.startswith(LEFT_OUT)):
        told.setdefault("TooManySites", event_of("TooManySites", degraded.message))
    return tuple(told.values())


def event_of(reason: Reason, message: str) -> Event:
    """An event: a Warning if the reason says that something is wrong."""
    return Event("Normal" if reason in _CALM else "Warning", reason, message)


def _severity(check: Verdict) -> tuple[bool, bool]:
    return (check.reason in _CALM, check.status == "Unknown")


def _since(before: DeploymentCondition | SiteCondition | None, verdict: Verdict, now: datetime) -> datetime:
    same = before is not None and before.status == verdict.status
    return before.last_transition_time if same and before else now.replace(microsecond=0)
