"""The state machine of one rollout: from what is wanted, remembered and observed to the next step, with reasons.

A candidate goes through the steps of the spec and then through one more, in which it has all replicas and all traffic;
when every gateway says so, it is promoted. Whatever goes wrong before leads back to the stable revision, which changes in
no other way than by a promotion. A paused rollout decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from autoglm_operator.ages import age, words
from autoglm_operator.api import RolloutGate
from autoglm_operator.rollout.gates import Check, Figures, check_all

Phase = Literal["Stable", "Progressing", "Paused", "RolledBack", "Blocked"]
Action = Literal["Started", "Advanced", "Promoted", "RolledBack", "Superseded", "Cancelled", "Replaced"]
Level = Literal["unknown", "none", "some", "enough"]

EVERYTHING = 100


@dataclass(frozen=True)
class Step:
    """One step: the candidate's share of the sessions in percent, and what ends the step."""

    weight: int
    hold: timedelta = timedelta(0)
    approval: bool = False


@dataclass(frozen=True)
class Policy:
    """What the spec and the annotations say. Words of annotations are empty where they are absent."""

    steps: tuple[Step, ...] = ()
    gates: tuple[RolloutGate, ...] = ()
    deadline: timedelta = timedelta(minutes=15)
    """How long a candidate may take to become ready for a step."""
    paused: bool = False
    promote: str = ""
    """The revision that shall skip what is left of its steps, holds and gates."""
    abort: str = ""
    """The revision that shall be taken back."""
    approve: str = ""
    """`REVISION/STEP`: the step that may end."""
    retry: str = ""
    """Another word than the remembered one lets a rejected revision try again."""

    def weight(self, step: int) -> int:
        """The weight of a step, counted from 0; all there is after the last one."""
        return self.steps[step].weight if step < len(self.steps) else EVERYTHING


@dataclass(frozen=True)
class Rejection:
    """A revision that was taken back, why and when."""

    revision: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class Memory:
    """What is remembered from one decision to the next. `weight` is what gateways were last told."""

    stable: str
    candidate: str | None = None
    weight: int = 0
    step: int = 0
    attempt: int = 0
    entered_at: datetime | None = None
    step_since: datetime | None = None
    rejected: Rejection | None = None
    retried: str = ""
    proven: bool = False
    """Whether the stable revision ever answered a real request."""

    @property
    def window(self) -> str:
        """Names the measurement: a step at its own weight. What came before the weight was told is another one."""
        return f"{self.candidate}/{self.attempt}/{self.step + 1}/{self.weight}"


@dataclass(frozen=True)
class Situation:
    """What was observed.

    `target` is the revision that the spec describes. `level` says how far the candidate is: enough replicas for its step,
    admitted by every gateway; some; none; or unknown, because nobody could look. `waiting` says what is missing. `failed` is
    set when the candidate cannot become ready. `applied` is the candidate's share that every gateway reports, None while
    they differ or do not tell. `blocked` says why no rollout can start here.
    """

    target: str
    level: Level = "unknown"
    waiting: str = ""
    failed: str = ""
    applied: int | None = None
    figures: Figures = field(default_factory=Figures)
    blocked: str = ""


@dataclass(frozen=True)
class Taken:
    """One decision that was taken just now, and why."""

    revision: str
    action: Action
    reason: str


@dataclass(frozen=True)
class Decision:
    """What to remember and what to say. The weight to tell gateways is in the memory."""

    memory: Memory
    phase: Phase
    message: str
    checks: tuple[Check, ...] = ()
    taken: tuple[Taken, ...] = ()


def advance(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """The next decision. Pure; the same observation twice decides nothing twice."""
    if policy.paused and (memory.candidate is not None or seen.target != memory.stable):
        return Decision(memory, "Paused", _paused(memory, seen))
    if seen.target == memory.stable:
        return _nothing_to_do(memory)
    if memory.candidate not in (None, seen.target):
        return _superseded(memory, seen)
    if policy.abort == seen.target and not _is_rejected(memory, seen.target):
        return _reject(memory, seen.target, "it was aborted by annotation", now)
    memory = _retried(policy, memory)
    if _is_rejected(memory, seen.target):
        return _stay_back(memory)
    if memory.candidate is None:
        return _start(policy, memory, seen, now)
    return _go_on(policy, memory, seen, now)


def _paused(memory: Memory, seen: Situation) -> str:
    if memory.candidate is None:
        return f"paused: revision {seen.target} is not rolled out yet"
    return f"paused: revision {memory.candidate} keeps {memory.weight} %"


def _nothing_to_do(memory: Memory) -> Decision:
    """The spec describes what serves. What was rejected stays rejected, so that a look back and forth retries nothing."""
    text = f"revision {memory.stable} serves"
    if memory.candidate is None:
        return Decision(memory, "Stable", text)
    why = f"the spec describes the stable revision {memory.stable} again"
    return Decision(_without_candidate(memory), "Stable", text, taken=(Taken(memory.candidate, "Cancelled", why),))


def _superseded(memory: Memory, seen: Situation) -> Decision:
    assert memory.candidate is not None, "only a candidate can be superseded"
    taken = Taken(memory.candidate, "Superseded", f"the spec describes revision {seen.target} now")
    return Decision(_without_candidate(memory), "Progressing", f"revision {seen.target} is next", taken=(taken,))


def _reject(memory: Memory, revision: str, reason: str, now: datetime) -> Decision:
    """Back to the stable revision, whatever step it was."""
    back = replace(_without_candidate(memory), rejected=Rejection(revision, reason, now))
    return replace(_stay_back(back), taken=(Taken(revision, "RolledBack", reason),))


def _stay_back(memory: Memory) -> Decision:
    rejected = memory.rejected
    assert rejected is not None, "only called for a rejected revision"
    text = f"revision {rejected.revision} was taken back: {rejected.reason}; revision {memory.stable} serves"
    return Decision(memory, "RolledBack", text)


def _retried(policy: Policy, memory: Memory) -> Memory:
    if not policy.retry or policy.retry == memory.retried:
        return memory
    return replace(memory, retried=policy.retry, rejected=None)


def _is_rejected(memory: Memory, revision: str) -> bool:
    return memory.rejected is not None and memory.rejected.revision == revision


def _start(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    if seen.blocked:
        return Decision(memory, "Blocked", seen.blocked)
    if not memory.proven:
        taken = Taken(seen.target, "Replaced", f"revision {memory.stable} never answered a request")
        put = replace(memory, stable=seen.target)
        return Decision(put, "Stable", f"revision {seen.target} is the first to serve", taken=(taken,))
    begun = replace(memory, candidate=seen.target, step=0, weight=0, entered_at=now, attempt=memory.attempt + 1)
    taken = Taken(seen.target, "Started", f"the spec describes it; revision {memory.stable} serves meanwhile")
    return Decision(begun, "Progressing", f"{_where(policy, begun)}: it is being put on the sites", taken=(taken,))


def _go_on(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """A candidate that is on its way: ready, then routed, then held and measured, then on."""
    weight, where = policy.weight(memory.step), _where(policy, memory)
    checks = _checks(policy, memory, seen)
    if fault := _fault(seen, checks):
        return replace(_reject(memory, str(memory.candidate), fault, now), checks=checks)
    if seen.level == "unknown":
        return Decision(memory, "Progressing", f"{where}: {seen.waiting or 'nobody could look'}")
    if seen.level != "enough":
        return _wait_for_replicas(policy, memory, seen, now)
    if seen.applied != weight or memory.weight != weight:
        told = replace(memory, weight=weight)
        return Decision(told, "Progressing", f"{where}: gateways are being told to send it {weight} %")
    if memory.step_since is None:
        memory = replace(memory, step_since=now)
    if memory.step >= len(policy.steps):
        return _promote(memory, "it has all replicas and all traffic")
    return _measure(policy, memory, checks, now)


def _checks(policy: Policy, memory: Memory, seen: Situation) -> tuple[Check, ...]:
    """What the gates say of the present step. Figures of another weight than the step's own are another measurement."""
    told = memory.step < len(policy.steps) and memory.weight == policy.weight(memory.step)
    return check_all(policy.gates, seen.figures) if told else ()


def _fault(seen: Situation, checks: Sequence[Check]) -> str:
    """Why the candidate has to go, whatever else is missing; empty where nothing is known against it."""
    if seen.failed:
        return f"it does not start: {seen.failed}"
    return "; ".join(found.message for found in checks if found.state == "Failed")


def _wait_for_replicas(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """Not enough replicas: the share falls back to what is safe, and the step begins anew when they are there."""
    if memory.step_since is not None:
        memory = replace(memory, step_since=None, entered_at=now)
    waited = age(memory.entered_at, now) if memory.entered_at else timedelta(0)
    if waited >= policy.deadline:
        why = f"it was not ready within {words(policy.deadline)}: {seen.waiting or 'no replica'}"
        return _reject(memory, str(memory.candidate), why, now)
    safe = policy.weight(memory.step - 1) if memory.step > 0 and seen.level == "some" else 0
    waiting = replace(memory, weight=min(memory.weight, safe))
    return Decision(waiting, "Progressing", f"{_where(policy, memory)}: {seen.waiting or 'its replicas start'}")


def _measure(policy: Policy, memory: Memory, checks: tuple[Check, ...], now: datetime) -> Decision:
    """A step at its own weight, with no gate that failed: held, measured and approved, then on."""
    step, where = policy.steps[memory.step], _where(policy, memory)
    if policy.promote == memory.candidate:
        return _next(policy, memory, checks, "promoted by annotation", now, to=len(policy.steps))
    left = step.hold - age(memory.step_since, now) if memory.step_since else step.hold
    if left > timedelta(0):
        return Decision(memory, "Progressing", f"{where}: held for {words(step.hold)}", checks)
    short = [found.gate.metric for found in checks if found.state == "Waiting"]
    if short:
        return Decision(memory, "Progressing", f"{where}: too few samples for {', '.join(short)}", checks)
    approved = f"{memory.candidate}/{memory.step + 1}"
    if step.approval and policy.approve != approved:
        text = f"{where}: waits for the annotation serving.autoglm.dev/rollout-approve={approved}"
        return Decision(memory, "Progressing", text, checks)
    return _next(policy, memory, checks, _passed(step, checks), now, to=memory.step + 1)


def _next(policy: Policy, memory: Memory, checks: Sequence[Check], why: str, now: datetime, *, to: int) -> Decision:
    moved = replace(memory, step=to, step_since=None, entered_at=now)
    taken = Taken(str(memory.candidate), "Advanced", f"step {memory.step + 1} of {len(policy.steps)}: {why}")
    return Decision(moved, "Progressing", f"{_where(policy, moved)}: begins", tuple(checks), (taken,))


def _promote(memory: Memory, why: str) -> Decision:
    candidate = str(memory.candidate)
    promoted = replace(_without_candidate(memory), stable=candidate, rejected=None)
    return Decision(promoted, "Stable", f"revision {candidate} serves", taken=(Taken(candidate, "Promoted", why),))


def _passed(step: Step, checks: Sequence[Check]) -> str:
    told = [found.message for found in checks]
    return "; ".join([*told, f"held for {words(step.hold)}" if step.hold else "no hold was asked for"])


def _without_candidate(memory: Memory) -> Memory:
    return replace(memory, candidate=None, weight=0, step=0, entered_at=None, step_since=None)


def _where(policy: Policy, memory: Memory) -> str:
    weight = policy.weight(memory.step)
    if memory.step >= len(policy.steps):
        return f"revision {memory.candidate} takes over with {weight} %"
    return f"revision {memory.candidate} in step {memory.step + 1} of {len(policy.steps)} with {weight} %"
