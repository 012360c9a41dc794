"""The state machine of a rollout, the sizes of both revisions and the gates: what holds whatever is observed."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_operator.api import RolloutGate, RolloutStatus, RolloutStep
from autoglm_operator.rollout import record
from autoglm_operator.rollout.gates import Figures, check
from autoglm_operator.rollout.machine import advance
from autoglm_operator.rollout.policy import steps_of
from autoglm_operator.rollout.sizes import Counts, Room, during, needed
from autoglm_operator.rollout.terms import Decision, Level, Memory, Policy, Situation, Step
from autoglm_serving.measurements import RevisionReport, Sketch, bucket
from support.fleet import NOW

prove = settings(max_examples=60, deadline=None, derandomize=True)

AGREE = RolloutGate(metric="agreement", minimum=0.9, min_samples=10)
ERRORS = RolloutGate(metric="errors", maximum=0.05, min_samples=10)
TTFT = RolloutGate(metric="ttft", maximum_ratio=1.5, min_samples=10)
HALF = Step(50, timedelta(seconds=30))
GATED = Policy(steps=(Step(0), HALF), gates=(AGREE, ERRORS, TTFT))


def report(revision: str, seconds: float = 0.5, samples: int = 20, **values: Any) -> RevisionReport:
    sketch = Sketch(counts={bucket(seconds): samples})
    fields = {"requests": samples, "compared": samples, "agreed": samples, "ttft": sketch, "latency": sketch}
    return RevisionReport(deployment="t/q", revision=revision, role="canary", weight=0, **{**fields, **values})


GOOD = Figures(report("a"), report("b"))


def situation(**changes: Any) -> Situation:
    return replace(Situation("b", level="enough", figures=GOOD), **changes)


levels: st.SearchStrategy[Level] = st.sampled_from(["unknown", "none", "some", "enough", "enough", "enough"])
names = st.sampled_from(["a", "b", "c"])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    weights = sorted(draw(st.lists(st.integers(0, 99), min_size=1, max_size=3)))
    holds = st.sampled_from([timedelta(0), timedelta(seconds=20)])
    return Policy(
        steps=tuple(Step(weight, draw(holds), draw(st.integers(0, 9)) == 0) for weight in weights),
        gates=draw(st.sampled_from([(), (AGREE,), (AGREE, ERRORS, TTFT)])),
        deadline=timedelta(minutes=1),
        paused=draw(st.integers(0, 5)) == 0,
        promote=draw(st.sampled_from(["", "", "b/1", "b/2"])),
        abort=draw(st.sampled_from(["", "", "", "c/1", "c/2"])),
        retry=draw(st.sampled_from(["", "x"])),
    )


@st.composite
def situations(draw: st.DrawFn, memory: Memory) -> Situation:
    samples = draw(st.sampled_from([0, 9, 20, 20]))
    bad = draw(st.integers(0, 5)) == 0
    applied = draw(st.sampled_from([memory.weight, memory.weight, memory.weight, 0, None]))
    return Situation(
        target=draw(names),
        level=draw(levels),
        failed="it broke" if draw(st.integers(0, 9)) == 0 else "",
        applied=applied,
        figures=Figures(report("a"), report("b", samples=samples, errors=samples if bad else 0)),
        blocked="no room" if draw(st.integers(0, 9)) == 0 else "",
    )


def policies_without_words() -> st.SearchStrategy[Policy]:
    return policies().map(lambda policy: replace(policy, promote="", abort="", approve=""))


def walk(policy: Policy, seen: Situation, limit: int = 40) -> tuple[Memory, list[str], list[int]]:
    """Goes on with gateways that apply what they are told, ten seconds at a time, until a rollout ends."""
    memory, now = Memory("a", proven=True), NOW
    actions: list[str] = []
    weights: list[int] = []
    for _ in range(limit):
        decision = advance(policy, memory, replace(seen, applied=memory.weight), now)
        memory, now = decision.memory, now + timedelta(seconds=10)
        weights.append(memory.weight)
        actions += [one.action for one in decision.taken]
        if actions and actions[-1] in ("Promoted", "RolledBack"):
            break
    return memory, actions, weights


def test_a_good_candidate_goes_through_its_steps_and_is_promoted() -> None:
    memory, actions, weights = walk(GATED, situation())
    assert (memory.stable, memory.candidate) == ("b", None)
    assert actions == ["Started", "Advanced", "Advanced", "Promoted"]
    assert weights[-1] == 0, "a promoted revision is no candidate any more"
    assert list(dict.fromkeys(weights)) == [0, 50, 100]
    assert weights.count(50) >= 4, "the step was held for 30 s"


@pytest.mark.parametrize(
    ("bad", "metric"),
    [
        (report("b", agreed=17), "agreement"),
        (report("b", errors=2), "errors"),
        (report("b", seconds=1.0), "ttft"),
    ],
)
def test_a_gate_that_fails_takes_the_candidate_back_and_names_the_figures(bad: RevisionReport, metric: str) -> None:
    memory, actions, _ = walk(GATED, situation(figures=Figures(report("a"), bad)))
    assert (memory.stable, memory.candidate, actions) == ("a", None, ["Started", "RolledBack"])
    assert memory.rejected is not None
    assert memory.rejected.revision == "b"
    assert memory.rejected.reason.startswith(metric)
    again = advance(GATED, memory, situation(), NOW + timedelta(hours=1))
    assert (again.phase, again.memory, again.taken) == ("RolledBack", memory, ())


@pytest.mark.parametrize("samples", [0, 9])
def test_too_few_samples_are_never_good_however_long_it_takes(samples: int) -> None:
    for figures in (Figures(), Figures(report("a"), report("b", samples=samples)), Figures(None, report("b"))):
        memory, actions, _ = walk(GATED, situation(figures=figures), limit=200)
        assert (memory.stable, memory.candidate, actions) == ("a", "b", ["Started"])


def test_an_error_in_too_few_samples_is_no_failure_either() -> None:
    found = check(ERRORS, Figures(None, report("b", samples=9, errors=9)))
    assert found.state == "Waiting"


def test_a_step_with_approval_waits_for_the_revision_and_the_step_to_be_named() -> None:
    policy = Policy(steps=(Step(10, approval=True),))
    assert walk(policy, situation())[1] == ["Started"]
    for other in ("c/1/1", "b/2/1", "b/1/2", "b/1", "b"):
        assert walk(replace(policy, approve=other), situation())[1] == ["Started"], other
    assert walk(replace(policy, approve="b/1/1"), situation())[1] == ["Started", "Advanced", "Promoted"]


def test_promote_by_annotation_skips_holds_and_waiting_gates_but_never_a_failed_one_or_readiness() -> None:
    policy = replace(GATED, promote="b/1")
    assert walk(policy, situation(figures=Figures()))[1] == ["Started", "Advanced", "Promoted"]
    assert walk(policy, situation(figures=Figures(report("a"), report("b", errors=9))))[1][-1] == "RolledBack"
    assert walk(policy, situation(level="none"), limit=20)[1] == ["Started"]


def test_abort_takes_a_candidate_back_and_retry_lets_it_try_once_more() -> None:
    aborted, actions, _ = walk(replace(GATED, abort="b/1"), situation())
    assert (aborted.stable, actions) == ("a", ["Started", "RolledBack"])
    retried = advance(replace(GATED, retry="please"), aborted, situation(), NOW)
    assert (retried.memory.candidate, retried.memory.attempt) == ("b", 2)
    failed = replace(retried.memory, candidate=None, rejected=aborted.rejected)
    assert advance(replace(GATED, retry="please"), failed, situation(), NOW).phase == "RolledBack", "a word counts once"
    assert advance(replace(GATED, retry="again"), failed, situation(), NOW).memory.candidate == "b"


def test_a_retry_that_stood_before_anything_was_taken_back_retries_nothing() -> None:
    bad = situation(figures=Figures(report("a"), report("b", errors=9)))
    memory, actions, _ = walk(replace(GATED, retry="copied from another manifest"), bad)
    assert (memory.candidate, actions) == (None, ["Started", "RolledBack"])
    after = advance(replace(GATED, retry="copied from another manifest"), memory, bad, NOW)
    assert (after.phase, after.taken) == ("RolledBack", ())


@pytest.mark.parametrize("stale", ["promote", "abort", "approve"])
def test_a_word_that_is_left_behind_does_nothing_to_the_next_attempt_of_the_same_revision(stale: str) -> None:
    """The revision was promoted, aborted or approved once. Then it was taken back, and tried again."""
    policy = Policy(steps=(Step(10, timedelta(seconds=30), approval=True), HALF), gates=(ERRORS,))
    words: dict[str, Any] = {stale: {"approve": "b/1/1"}.get(stale, "b/1")}
    left = replace(policy, **words)
    again = Memory("a", "b", attempt=2, steps=policy.steps, entered_at=NOW, proven=True)
    quiet = situation(figures=Figures())
    memory, now, texts = again, NOW, []
    for _ in range(20):
        decision = advance(left, memory, replace(quiet, applied=memory.weight), now)
        assert decision.taken == ()
        memory, now = decision.memory, now + timedelta(seconds=10)
        texts.append(decision.message)
    assert (memory.candidate, memory.step) == ("b", 0)
    would = "b/2/1" if stale == "approve" else "b/2"
    assert f"rollout-{stale}" in texts[-1]
    assert f"is not about this attempt and does nothing: {would} would" in texts[-1]


@prove
@given(st.data(), policies_without_words())
def test_words_of_other_attempts_change_no_decision(data: st.DataObject, policy: Policy) -> None:
    memory, now = Memory("a", attempt=4, proven=True), NOW
    old = data.draw(st.sampled_from(["b", "b/4", "c/4", "b/55", "b/5x", "/5", "b/", "x/5"]))
    worded = replace(policy, promote=old, abort=old, approve=f"{old}/1")
    for _ in range(10):
        seen = data.draw(situations(memory))
        plain, found = advance(policy, memory, seen, now), advance(worded, memory, seen, now)
        assert (found.memory, found.taken) == (plain.memory, plain.taken)
        if found.memory.attempt > 5:
            return
        memory, now = found.memory, now + timedelta(seconds=15)


THREE = (Step(0), Step(10), Step(50, timedelta(seconds=30)))
EDITS: dict[str, tuple[tuple[Step, ...], int, int]] = {
    # the steps as they were edited to, the step that a candidate was in (from 0), the step in which it goes on
    "cut to those that were passed: the last one again": (THREE[:2], 2, 1),
    "cut to one": (THREE[:1], 2, 0),
    "a step before: everything from there": ((Step(0), Step(5), *THREE[1:]), 2, 1),
    "another weight for the present one": ((*THREE[:2], Step(20)), 2, 2),
    "all are others": ((Step(1), Step(2)), 2, 0),
    "more after the present one": ((*THREE, Step(90)), 2, 2),
    "fewer after the present one": (THREE[:2], 1, 1),
    "more while it took over": ((*THREE, Step(90)), 3, 3),
    "fewer while it took over": (THREE[:2], 3, 1),
}


@pytest.mark.parametrize(("steps", "was", "to"), EDITS.values(), ids=EDITS)
def test_edited_steps_never_let_a_candidate_skip_to_the_end(steps: tuple[Step, ...], was: int, to: int) -> None:
    weight = (0, 10, 50, 100)[was]
    memory = Memory("a", "b", weight, was, THREE, attempt=1, entered_at=NOW, step_since=NOW, proven=True)
    decision = advance(Policy(steps, (ERRORS,)), memory, situation(applied=weight), NOW + timedelta(hours=1))
    assert [one.action for one in decision.taken] == ["StepsChanged"]
    assert (decision.memory.step, decision.memory.goal) == (to, steps[to].weight)
    assert (decision.memory.step_since is None) == (THREE[was : was + 1] != (steps[to],) or was != to)
    later = advance(Policy(steps, (ERRORS,)), decision.memory, situation(applied=weight, figures=Figures()), NOW)
    assert not later.taken, "the step has to be measured as it is now"


def test_a_failed_gate_counts_also_in_the_moment_in_which_steps_are_edited() -> None:
    memory = Memory("a", "b", 50, 2, THREE, attempt=1, entered_at=NOW, step_since=NOW, proven=True)
    bad = situation(applied=50, figures=Figures(report("a"), report("b", errors=18)))
    assert advance(Policy(THREE[:1], (ERRORS,)), memory, bad, NOW).phase == "RolledBack"


def test_edited_steps_change_nothing_while_a_rollout_is_paused() -> None:
    memory = Memory("a", "b", 50, 2, THREE, attempt=1, entered_at=NOW, step_since=NOW, proven=True)
    paused = advance(Policy(THREE[:1], paused=True), memory, situation(applied=50), NOW)
    assert (paused.memory, paused.phase) == (memory, "Paused")


@pytest.mark.parametrize("hold", ["1.5ms", "0.5ms", "30s", "1.001m", "0.001h"])
def test_steps_are_remembered_as_they_are_read_so_that_what_is_stored_is_no_edit(hold: str) -> None:
    steps = steps_of([RolloutStep(weight=10, hold=hold)])
    decision = Decision(Memory("a", "b", steps=steps, attempt=1, proven=True), "Progressing", "")
    stored = record.status(None, decision, record.Scene("app", (), ()), NOW)
    assert record.memory(stored).steps == steps


@pytest.mark.parametrize("level", ["some", "enough"])
def test_a_stored_rollout_that_lost_its_steps_is_gone_on_with_all_the_same(level: Level) -> None:
    memory = record.memory(RolloutStatus(phase="Progressing", stable="a", application="app", candidate="b", step=3))
    assert memory.step == 0
    found = advance(Policy(), replace(memory, entered_at=NOW, proven=True), situation(level=level, applied=100), NOW)
    assert found.phase == "Progressing"


@pytest.mark.parametrize("seconds_up", [5, 600])
def test_a_candidate_that_crashes_before_it_has_enough_samples_is_taken_back_in_the_end(seconds_up: int) -> None:
    policy = replace(GATED, deadline=timedelta(minutes=15))
    memory, now, losses = Memory("a", proven=True), NOW, 0
    few = Figures(report("a"), report("b", samples=3, errors=3))
    for _ in range(40):
        for level, lasts in (("enough", 2), ("enough", seconds_up), ("none", 5)):
            seen = situation(level=level, applied=memory.weight, figures=few, waiting="a: 0 of 1 replicas are ready")
            decision = advance(policy, memory, seen, now)
            losses = max(losses, decision.memory.losses)
            memory, now = decision.memory, now + timedelta(seconds=lasts)
            if decision.phase == "RolledBack":
                assert losses == 9
                assert "it lost replicas for the 10. time in this step" in decision.taken[0].reason
                return
    raise AssertionError("it was waited for without end")


def test_each_loss_of_replicas_leaves_less_of_the_deadline_and_the_next_step_has_all_of_it() -> None:
    policy = replace(GATED, deadline=timedelta(minutes=10))
    memory = Memory("a", "b", 0, 0, GATED.steps, attempt=1, entered_at=NOW, step_since=NOW, losses=4, proven=True)
    lost = advance(policy, memory, situation(level="none", applied=0), NOW).memory
    assert lost.losses == 5
    early = advance(policy, lost, situation(level="none", applied=0), NOW + timedelta(minutes=4))
    late = advance(policy, lost, situation(level="none", applied=0), NOW + timedelta(minutes=5))
    assert (early.memory.candidate, late.phase) == ("b", "RolledBack")
    back = advance(policy, lost, situation(applied=0), NOW + timedelta(minutes=4)).memory
    assert (back.step, back.losses) == (1, 0), "the gates of the first step had passed"


def test_replicas_that_are_missing_because_more_are_asked_for_now_are_no_loss() -> None:
    policy = Policy(steps=(Step(0, timedelta(hours=1)), HALF))
    begun = Memory("a", "b", steps=policy.steps, attempt=1, entered_at=NOW, proven=True)
    held = advance(policy, begun, situation(applied=0, need=2), NOW).memory
    assert held.step_since == NOW
    raised = advance(policy, held, situation(level="some", applied=0, need=3), NOW + timedelta(seconds=60)).memory
    assert (raised.losses, raised.step_since, raised.entered_at) == (0, None, NOW + timedelta(seconds=60))
    again = advance(policy, raised, situation(applied=0, need=3), NOW + timedelta(seconds=90)).memory
    lost = advance(policy, again, situation(level="some", applied=0, need=3), NOW + timedelta(seconds=120)).memory
    assert lost.losses == 1
    stored = record.status(None, Decision(held, "Progressing", ""), record.Scene("app", (), ()), NOW)
    assert record.memory(stored).need == 2


def test_a_candidate_that_never_gets_ready_is_taken_back_at_the_deadline() -> None:
    policy = replace(GATED, deadline=timedelta(minutes=2))
    memory, actions, weights = walk(policy, situation(level="some", waiting="a: 0 of 1 replicas"))
    assert (memory.stable, actions, set(weights)) == ("a", ["Started", "RolledBack"], {0})
    assert memory.rejected is not None
    assert "2 min" in memory.rejected.reason or "120 s" in memory.rejected.reason


def test_a_candidate_that_loses_its_replicas_loses_its_share_and_begins_the_step_anew() -> None:
    memory = Memory(
        "a", "b", weight=50, step=1, steps=GATED.steps, attempt=1, entered_at=NOW, step_since=NOW, proven=True
    )
    found = advance(GATED, memory, situation(level="none", applied=50), NOW + timedelta(seconds=5)).memory
    assert (found.weight, found.step, found.step_since) == (0, 1, None)


def test_what_nobody_could_look_at_changes_nothing() -> None:
    memory = Memory(
        "a", "b", weight=50, step=1, steps=GATED.steps, attempt=1, entered_at=NOW, step_since=NOW, proven=True
    )
    later = NOW + timedelta(hours=9)
    assert advance(GATED, memory, situation(level="unknown", applied=None), later).memory == memory


UNWELL: list[dict[str, Any]] = [
    {"level": "unknown", "applied": None, "waiting": "not every gateway answers"},
    {"level": "none", "applied": 50, "waiting": "a: 0 of 1 replicas"},
    {"level": "some", "applied": 50, "waiting": "a: 0 of 1 replicas"},
    {"level": "enough", "applied": None},
]


@pytest.mark.parametrize("unwell", UNWELL, ids=str)
def test_a_failed_gate_counts_whatever_else_is_not_well(unwell: dict[str, Any]) -> None:
    memory = Memory(
        "a", "b", weight=50, step=1, steps=GATED.steps, attempt=1, entered_at=NOW, step_since=NOW, proven=True
    )
    bad = Figures(report("a"), report("b", errors=18))
    found = advance(GATED, memory, situation(figures=bad, **unwell), NOW)
    assert (found.phase, found.memory.candidate, found.memory.weight) == ("RolledBack", None, 0)
    assert found.taken[0].reason.startswith("errors: 90.0% of 20")
    assert "Failed" in [one.state for one in found.checks]


def test_figures_of_another_weight_say_nothing_about_a_step() -> None:
    bad = situation(figures=Figures(report("a"), report("b", errors=18)))
    told = Memory("a", "b", weight=0, step=1, steps=GATED.steps, attempt=1, entered_at=NOW, proven=True)
    assert advance(GATED, told, replace(bad, applied=0), NOW).memory == replace(told, weight=50)
    over = Memory("a", "b", weight=100, step=2, steps=GATED.steps, attempt=1, entered_at=NOW, proven=True)
    assert advance(GATED, over, replace(bad, applied=100), NOW).taken[0].action == "Promoted", "no step, no gate"


def test_a_revision_that_never_answered_is_replaced_without_steps() -> None:
    found = advance(GATED, Memory("a"), situation(), NOW)
    assert (found.memory.stable, found.memory.candidate, found.taken[0].action) == ("b", None, "Replaced")


@prove
@given(st.data(), policies())
def test_whatever_happens_only_a_promotion_changes_what_is_stable(data: st.DataObject, policy: Policy) -> None:
    memory, now = Memory("a", proven=True), NOW
    for _ in range(12):
        policy = replace(policy, paused=data.draw(st.integers(0, 5)) == 0)
        seen = data.draw(situations(memory))
        decision = advance(policy, memory, seen, now)
        after = decision.memory
        actions = [one.action for one in decision.taken]
        assert decision == advance(policy, memory, seen, now), "the same again gives the same"
        assert after.stable == memory.stable or (actions == ["Promoted"] and after.stable == memory.candidate)
        assert 0 <= after.weight <= 100
        assert after.candidate is not None or after.weight == 0
        assert after.candidate != after.stable
        if after.weight > memory.weight:
            assert seen.level == "enough", "no share for what is not ready"
        if actions == ["Promoted"]:
            assert (seen.level, seen.applied, memory.weight) == ("enough", 100, 100)
        if actions == ["RolledBack"]:
            assert (after.candidate, after.stable) == (None, memory.stable)
        if decision.phase == "Paused":
            assert (after, actions) == (memory, [])
        if seen.level == "unknown" and memory.candidate == seen.target and not (actions or seen.failed):
            assert after.weight == memory.weight
        memory, now = after, now + timedelta(seconds=data.draw(st.sampled_from([2, 15, 70])))


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    return Room(draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(0, 2)))


@prove
@given(rooms(), st.lists(st.integers(0, 100), min_size=1, max_size=4).map(sorted), st.randoms(use_true_random=False))
def test_sizes_never_exceed_the_surge_and_always_get_there(room: Room, weights: list[int], chance: Any) -> None:
    """Serve starts and stops replicas in any order; what is counted is what is asked for or still runs, whichever is more."""
    stable, candidate = Counts(room.replicas, room.replicas, room.replicas), Counts()
    for weight in weights:
        for _ in range(60):
            sizes = during(room, weight, stable, candidate)
            stable, candidate = replace(stable, target=sizes.stable), replace(candidate, target=sizes.candidate)
            assert stable.held + candidate.held <= room.limit
            assert stable.target >= 1
            assert stable.target + candidate.ready >= room.replicas - room.unavailable
            stable, candidate = _moved(stable, chance), _moved(candidate, chance)
            if candidate.ready >= needed(room, weight):
                break
        assert candidate.ready >= needed(room, weight)


def _moved(counts: Counts, chance: Any) -> Counts:
    """One replica starts or stops, or nothing happens yet."""
    toward = (counts.target > counts.running) - (counts.target < counts.running)
    running = counts.running + (toward if chance.random() < 0.7 else 0)
    return Counts(counts.target, running, running)
