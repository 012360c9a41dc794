"""Which replica answers a call: footprints, a replica's books, and the choice."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.replica_routing.choice import STALE_S, ReplicaState, choose, predict
from autoglm_serving.replica_routing.footprint import (
    TEXT_BLOCK,
    Footprint,
    ImagePiece,
    TextPiece,
    footprint,
    image_name,
)
from autoglm_serving.replica_routing.ledger import FIRST_ANSWER, CacheSizes, Ledger, RecentNames, uncached
from autoglm_serving.replica_routing.report import MAX_NAMES, Report, Speeds, read_report

SYSTEM = TextPiece("system", "You drive a phone. " * 300)
SCREEN = ImagePiece("user", image_name(b"screen one"), 1200)
OTHER = ImagePiece("user", image_name(b"screen two"), 1200)
BIG = CacheSizes(100_000, 100_000)


def asked(*pieces: TextPiece | ImagePiece, new_tokens: int = 100) -> Footprint:
    return footprint(pieces, new_tokens)


def state(name: str, **changes: Any) -> ReplicaState:
    report = Ledger(CacheSizes()).report()
    fields = {field.name for field in dataclasses.fields(Report)}
    report = dataclasses.replace(
        report, **{key: value for key, value in changes.items() if key in fields - {"running"}}
    )
    rest = {key: value for key, value in changes.items() if key not in fields or key == "running"}
    return ReplicaState(**{"name": name, "report": report, "age_s": 0.0, "running": 0, "places": 4, **rest})


def keys(call: Footprint) -> frozenset[str]:
    return frozenset(block.key for block in call.blocks)


def test_prompts_share_exactly_their_common_beginning() -> None:
    first, second = asked(SYSTEM, SCREEN, TextPiece("user", "a")), asked(SYSTEM, SCREEN, TextPiece("user", "b"))
    assert [block.key for block in first.blocks[:-1]] == [block.key for block in second.blocks[:-1]]
    assert first.blocks[-1].key != second.blocks[-1].key
    assert not keys(asked(SYSTEM)) & keys(asked(TextPiece("user", SYSTEM.text)))


def test_an_image_has_one_name_wherever_it_stands_and_one_key_for_each_place() -> None:
    before, after = asked(SYSTEM, SCREEN), asked(SCREEN, SYSTEM)
    assert before.blocks[-1].image == after.blocks[0].image == SCREEN.name
    assert before.blocks[-1].key != after.blocks[0].key


def test_tenants_share_neither_names_nor_keys() -> None:
    assert image_name(b"x", "a") != image_name(b"x", "b")
    assert not keys(footprint([SYSTEM], 1, "a")) & keys(footprint([SYSTEM], 1, "b"))


def test_text_is_cut_so_that_a_change_at_its_end_keeps_its_beginning() -> None:
    text = "x" * (3 * TEXT_BLOCK)
    first, second = asked(TextPiece("user", text + "a")), asked(TextPiece("user", text + "b"))
    assert len(keys(first) & keys(second)) == 3


pieces = st.lists(
    st.one_of(
        st.builds(TextPiece, st.sampled_from(["system", "user"]), st.text(max_size=5)),
        st.builds(ImagePiece, st.just("user"), st.sampled_from(["a", "b"]), st.integers(1, 9)),
    ),
    max_size=5,
)


@given(pieces)
def test_what_was_just_read_is_cached_whole_and_what_was_never_read_not_at_all(parts: list[Any]) -> None:
    call = footprint(parts, 10)
    ledger = Ledger(BIG)
    assert uncached(call, frozenset(), frozenset()) == (call.image_tokens, call.prompt_tokens)
    ledger.begin(call, 0.0)
    report = ledger.report()
    assert uncached(call, report.images, report.keys) == (0, 0)
    assert read_report(report.as_dict()) == report


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 20)), max_size=40), st.integers(0, 30))
def test_recent_names_never_hold_more_than_their_capacity(uses: list[tuple[str, int]], capacity: int) -> None:
    names = RecentNames(capacity)
    sizes: dict[str, int] = {}
    for name, size in uses:
        names.touch(name, size)
        sizes[name] = size
        held = names.newest(99)
        assert sum(sizes[each] for each in held) <= capacity
        assert (name in held) == (size <= capacity)


def test_a_replica_without_caches_promises_none() -> None:
    ledger = Ledger(CacheSizes())
    ledger.begin(asked(SYSTEM, SCREEN), 0.0)
    assert (ledger.report().images, ledger.report().keys) == (frozenset(), frozenset())


def test_work_is_booked_from_the_first_moment_and_leaves_with_the_call() -> None:
    ledger = Ledger(BIG)
    call = asked(SYSTEM, SCREEN)
    handle = ledger.begin(call, 0.0)
    report = ledger.report()
    assert (report.image_tokens, report.prompt_tokens) == (call.image_tokens, call.prompt_tokens)
    assert (report.running, report.answer_tokens) == (1, FIRST_ANSWER)
    ledger.answered(handle, 1, 1.0)
    report = ledger.report()
    assert (report.image_tokens, report.prompt_tokens, report.answer_tokens) == (0, 0, FIRST_ANSWER - 1)
    ledger.end(handle, True, 2.0)
    report = ledger.report()
    assert (report.running, report.answer_tokens) == (0, 0)


def test_a_replica_learns_its_speeds_and_the_length_of_answers() -> None:
    ledger = Ledger(CacheSizes())
    foreseen = 1200 * Speeds().encode_s + 1200 * Speeds().prefill_s
    now = 0.0
    for _ in range(200):
        handle = ledger.begin(asked(SCREEN), now)
        ledger.answered(handle, 1, now + 2 * foreseen)
        ledger.answered(handle, 11, now + 2 * foreseen + 5.0)
        ledger.end(handle, True, now + 2 * foreseen + 5.0)
        now += 100.0
    report = ledger.report()
    assert report.mean_answer == pytest.approx(11, rel=0.01)
    assert report.speeds.decode_s == pytest.approx(0.5, rel=0.01)
    assert report.speeds.prefill_s == pytest.approx(2 * Speeds().prefill_s, rel=0.01)


def test_a_prompt_that_waited_for_another_one_teaches_nothing_about_speed() -> None:
    ledger = Ledger(CacheSizes())
    first, second = ledger.begin(asked(SCREEN), 0.0), ledger.begin(asked(OTHER), 0.0)
    ledger.answered(second, 1, 60.0)
    assert ledger.report().speeds == Speeds()
    ledger.end(second, False, 60.0)
    ledger.end(first, False, 60.0)


def test_reports_are_bounded() -> None:
    ledger = Ledger(CacheSizes(10**9, 10**9))
    for number in range(MAX_NAMES + 50):
        ledger.begin(asked(ImagePiece("user", f"{number:016x}", 10)), 0.0)
    report = ledger.report()
    assert len(report.images) == len(report.keys) == MAX_NAMES
    assert f"{MAX_NAMES + 49:016x}" in report.images


@pytest.mark.parametrize("stats", [{}, {"sequence": 1}, {"sequence": "x", "work": [1], "speeds": [], "images": 3}])
def test_statistics_that_are_no_report_are_none(stats: dict[str, Any]) -> None:
    assert read_report(stats) is None


def test_the_replica_with_the_prefix_is_chosen_when_all_are_idle() -> None:
    call = asked(SYSTEM, SCREEN)
    choice = choose(call, [state("a"), state("b", keys=keys(call)), state("c")])
    assert (choice.order[0].name, choice.reason) == ("b", "cached-prefix")


def test_the_replica_with_the_image_is_chosen_when_none_has_the_prefix() -> None:
    choice = choose(asked(SYSTEM, SCREEN), [state("a"), state("b"), state("c", images=frozenset({SCREEN.name}))])
    assert (choice.order[0].name, choice.reason) == ("c", "cached-image")


def test_work_beats_the_cache_when_there_is_enough_of_it() -> None:
    call = asked(SYSTEM, SCREEN)
    cached = state("cached", keys=keys(call), prompt_tokens=call.prompt_tokens // 2)
    assert choose(call, [cached, state("idle")]).order[0].name == "cached"
    cached = state("cached", keys=keys(call), prompt_tokens=10 * call.prompt_tokens)
    choice = choose(call, [cached, state("idle")])
    assert (choice.order[0].name, choice.reason) == ("idle", "least-work")


def test_image_work_counts_and_not_only_the_number_of_requests() -> None:
    choice = choose(asked(SCREEN), [state("images", image_tokens=20_000, running=1), state("texts", running=3)])
    assert choice.order[0].name == "texts"


def test_a_full_replica_costs_the_wait_for_a_place() -> None:
    call = asked(SCREEN)
    busy = state("busy", answer_tokens=400.0)
    full = dataclasses.replace(busy, running=4)
    assert predict(call, full).total_s > predict(call, busy).total_s


def test_old_reports_lead_to_no_choice_and_one_silent_replica_does_not() -> None:
    call = asked(SCREEN)
    old, new = state("old", age_s=STALE_S + 1), state("new")
    unheard = ReplicaState("unheard", None, 0.0, 0, 4)
    assert choose(call, [old, unheard]).order == ()
    assert choose(call, [old, unheard, new]).reason == "stale-reports"
    choice = choose(call, [old, new, state("second")])
    assert {each.name for each in choice.order} == {"new", "second"}


def test_equal_replicas_share_the_calls() -> None:
    replicas = [state(name) for name in "abcd"]
    first = [choose(asked(SCREEN), replicas, f"r{number}").order[0].name for number in range(400)]
    assert all(first.count(name) > 50 for name in "abcd")


def test_a_report_counts_less_the_older_it_is() -> None:
    call = asked(SCREEN)
    totals = [predict(call, state("a", prompt_tokens=10_000, age_s=age)).total_s for age in (0.0, 1.0, 4.0)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0]
