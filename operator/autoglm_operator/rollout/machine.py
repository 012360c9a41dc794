"""The state machine of one rollout: from what is wanted, remembered and observed to the next step, with reasons.

A candidate goes through the steps of the spec and then through one more, in which it has all replicas and all traffic;
when every gateway says so, it is promoted. Whatever goes wrong before leads back to the stable revision, which changes in
no other way than by a promotion. A paused rollout decides nothing.

What people say in annotations is about one attempt, so a word that is left behind does nothing to the next one.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoglm_operator.ages import age, words
from autoglm_operator.rollout.gates import Check, check_all
from autoglm_operator.rollout.terms import Decision, Memory, Policy, Rejection, Situation, Step, Taken

LOSSES = 10
"""How often a candidate may lose its replicas in one step: each time leaves it this part of the deadline less."""


def advance(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """The next decision. Pure; the same observation twice decides nothing twice."""
    if policy.paused and (memory.candidate is not None or seen.target != memory.stable):
        return Decision(memory, "Paused", _paused(memory, seen))
    if seen.target == memory.stable:
        return _nothing_to_do(memory)
    if memory.candidate not in (None, seen.target):
        return _superseded(memory, seen)
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


def stop(memory: Memory, why: str) -> Decision:
    """Nothing shall serve: a rollout that is under way ends, and the stable revision is what comes back."""
    taken = () if memory.candidate is None else (Taken(memory.candidate, "Cancelled", why),)
    return Decision(_without_candidate(memory), "Stable", why, taken=taken)


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
    begun = replace(
        memory, candidate=seen.target, steps=policy.steps, step=0, weight=0, entered_at=now, attempt=memory.attempt + 1
    )
    taken = Taken(seen.target, "Started", f"the spec describes it; revision {memory.stable} serves meanwhile")
    return Decision(begun, "Progressing", f"{_where(begun)}: it is being put on the sites", taken=(taken,))


def _go_on(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """A candidate that is on its way: ready, then routed, then held and measured, then on."""
    checks = _checks(policy, memory, seen)
    if fault := _fault(policy, memory, seen, checks):
        return replace(_reject(memory, str(memory.candidate), fault, now), checks=checks)
    if policy.steps != memory.steps:
        return _follow(policy, memory, now)
    found = _prepare(policy, memory, seen, now) or _go_through(policy, memory, seen, checks, now)
    return replace(found, message=found.message + _unheard(policy, memory)) if not found.taken else found


def _prepare(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision | None:
    """What a step needs before it counts: replicas, and gateways that apply its weight. None if all is there."""
    weight, where = memory.goal, _where(memory)
    if seen.level == "unknown":
        return Decision(memory, "Progressing", f"{where}: {seen.waiting or 'nobody could look'}")
    if seen.level != "enough":
        return _wait_for_replicas(policy, memory, seen, now)
    if seen.applied != weight or memory.weight != weight:
        told = replace(memory, weight=weight)
        return Decision(told, "Progressing", f"{where}: gateways are being told to send it {weight} %")
    return None


def _go_through(policy: Policy, memory: Memory, seen: Situation, checks: tuple[Check, ...], now: datetime) -> Decision:
    """A step whose replicas and weight are there."""
    if memory.step_since is None:
        memory = replace(memory, step_since=now, need=seen.need)
    if memory.step >= len(policy.steps):
        return _promote(memory, "it has all replicas and all traffic")
    return _measure(policy, memory, checks, now)


def _follow(policy: Policy, memory: Memory, now: datetime) -> Decision:
    """The steps of the spec were edited. What was passed as it stands there now stays passed; an edit never ends a step, so
    the last one at least is gone through again."""
    same = 0
    for old, new in zip(memory.steps, policy.steps, strict=False):
        if old != new:
            break
        same += 1
    moved = replace(memory, steps=policy.steps)
    if memory.step >= same:
        to = max(min(same, len(policy.steps) - 1), 0)
        moved = replace(moved, step=to, step_since=None, entered_at=now, losses=0)
    why = f"the steps of the spec were edited: it goes on in step {moved.step + 1} of {len(policy.steps)}"
    taken = Taken(str(memory.candidate), "StepsChanged", why)
    return Decision(moved, "Progressing", f"{_where(moved)}: the steps were edited", taken=(taken,))


def _unheard(policy: Policy, memory: Memory) -> str:
    """Says of annotations that name the candidate, but not this attempt, what would be heard."""
    words = {"promote": policy.promote, "abort": policy.abort, "approve": policy.approve}
    heard = {"promote": memory.name, "abort": memory.name, "approve": f"{memory.name}/{memory.step + 1}"}
    stale = [
        f"; the annotation rollout-{name}={word} is not about this attempt and does nothing: {heard[name]} would"
        for name, word in words.items()
        if word.split("/")[0] == memory.candidate and not (word + "/").startswith(memory.name + "/")
    ]
    return "".join(stale)


def _checks(policy: Policy, memory: Memory, seen: Situation) -> tuple[Check, ...]:
    """What the gates say of the present step. Figures of another weight than the step's own are another measurement."""
    told = memory.step < len(memory.steps) and memory.weight == memory.goal
    return check_all(policy.gates, seen.figures) if told else ()


def _fault(policy: Policy, memory: Memory, seen: Situation, checks: Sequence[Check]) -> str:
    """Why the candidate has to go, whatever else is missing; empty where nothing is known against it."""
    if policy.abort == memory.name:
        return "it was aborted by annotation"
    if seen.failed:
        return f"it does not start: {seen.failed}"
    return "; ".join(found.message for found in checks if found.state == "Failed")


def _wait_for_replicas(policy: Policy, memory: Memory, seen: Situation, now: datetime) -> Decision:
    """Not enough replicas: the share falls back to what is safe, and the step begins anew when they are there. Each time it
    is waited for less, or a candidate that crashes and comes back would be waited for without end; but not where more are
    asked for than before."""
    if memory.step_since is not None:
        lost = not 0 < memory.need < seen.need
        memory = replace(memory, step_since=None, entered_at=now, losses=memory.losses + lost)
    left = policy.deadline * max(LOSSES - memory.losses, 0) / LOSSES
    waited = age(memory.entered_at, now) if memory.entered_at else timedelta(0)
    if waited >= left:
        late = f"within {words(left)}" if left else "any more"
        again = f" after it lost replicas for the {memory.losses}. time in this step" if memory.losses else ""
        why = f"it was not ready {late}{again}: {seen.waiting or 'no replica'}"
        return _reject(memory, str(memory.candidate), why, now)
    safe = memory.steps[memory.step - 1].weight if memory.step > 0 and seen.level == "some" else 0
    waiting = replace(memory, weight=min(memory.weight, safe))
    return Decision(waiting, "Progressing", f"{_where(memory)}: {seen.waiting or 'its replicas start'}")


def _measure(policy: Policy, memory: Memory, checks: tuple[Check, ...], now: datetime) -> Decision:
    """A step at its own weight, with no gate that failed: held, measured and approved, then on."""
    step, where = policy.steps[memory.step], _where(memory)
    if policy.promote == memory.name:
        return _next(policy, memory, checks, "promoted by annotation", now, to=len(policy.steps))
    left = step.hold - age(memory.step_since, now) if memory.step_since else step.hold
    if left > timedelta(0):
        return Decision(memory, "Progressing", f"{where}: held for {words(step.hold)}", checks)
    short = [found.gate.metric for found in checks if found.state == "Waiting"]
    if short:
        return Decision(memory, "Progressing", f"{where}: too few samples for {', '.join(short)}", checks)
    approved = f"{memory.name}/{memory.step + 1}"
    if step.approval and policy.approve != approved:
        text = f"{where}: waits for the annotation serving.autoglm.dev/rollout-approve={approved}"
        return Decision(memory, "Progressing", text, checks)
    return _next(policy, memory, checks, _passed(step, checks), now, to=memory.step + 1)


def _next(policy: Policy, memory: Memory, checks: Sequence[Check], why: str, now: datetime, *, to: int) -> Decision:
    moved = replace(memory, step=to, step_since=None, entered_at=now, losses=0)
    taken = Taken(str(memory.candidate), "Advanced", f"step {memory.step + 1} of {len(policy.steps)}: {why}")
    return Decision(moved, "Progressing", f"{_where(moved)}: begins", tuple(checks), (taken,))


def _promote(memory: Memory, why: str) -> Decision:
    candidate = str(memory.candidate)
    promoted = replace(_without_candidate(memory), stable=candidate, rejected=None)
    return Decision(promoted, "Stable", f"revision {candidate} serves", taken=(Taken(candidate, "Promoted", why),))


def _passed(step: Step, checks: Sequence[Check]) -> str:
    told = [found.message for found in checks]
    return "; ".join([*told, f"held for {words(step.hold)}" if step.hold else "no hold was asked for"])


def _without_candidate(memory: Memory) -> Memory:
    """The stable revision alone."""
    return replace(
        memory, candidate=None, weight=0, step=0, steps=(), entered_at=None, step_since=None, losses=0, need=0
    )


def _where(memory: Memory) -> str:
    if memory.step >= len(memory.steps):
        return f"revision {memory.candidate} takes over with {memory.goal} %"
    return f"revision {memory.candidate} in step {memory.step + 1} of {len(memory.steps)} with {memory.goal} %"
