"""The resolution study: what follows from answers at several sizes."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoglm_serving.routing_table import ResolutionPolicy
from autoglm_serving.training.study import simulated
from autoglm_serving.training.study.data import Answer, Asked, Study, Timing
from autoglm_serving.training.study.page import controllers, page
from autoglm_serving.training.study.picture import picture
from autoglm_serving.training.study.policies import (
    ByKind,
    Cascade,
    Fixed,
    Solved,
    fixed_against_many,
    outcome,
    split,
)

SIDES = (168, 336, 512, 1080)
TOKENS = {168: 72, 336: 300, 512: 700, 1080: 3200}


def task(number: int, kind: str, right_from: int, confidence: float = 0.5) -> Asked:
    """A task that is right from a size on, sure where it is right."""
    return Asked(
        task=f"s{number // 2} t{number}",
        screen=f"s{number // 2}",
        kind=kind,
        answers=tuple(
            Answer(right=side >= right_from, confidence=0.95 if side >= right_from else confidence) for side in SIDES
        ),
        tokens=tuple(TOKENS[side] for side in SIDES),
    )


def study(tasks: list[Asked] | None = None) -> Study:
    """Phones need 336 pixels, desktops 512; nothing needs 1080."""
    kinds = [task(number, "phone", 336) for number in range(60)]
    kinds += [task(number, "desktop", 512) for number in range(60, 120)]
    return Study(
        model="m",
        source="autoglm eval tiny x --study y",
        measured="2026-01-31",
        machine="a machine",
        short_sides=SIDES,
        gflops=(1.0, 4.0, 10.0, 60.0),
        tasks=tuple(tasks or kinds),
        timings=tuple(
            Timing(image_tokens=n * m, milliseconds=20 + 0.5 * n * m) for n in TOKENS.values() for m in (1, 2)
        ),
    )


def test_a_size_stops_paying_where_no_larger_one_is_better() -> None:
    made = study()
    assert [made.short_sides[made.stops_paying(kind)] for kind in ("phone", "desktop", "*")] == [336, 512, 512]


def test_a_difference_that_chance_makes_is_none() -> None:
    tasks = [task(number, "phone", 168 if number else 1080) for number in range(20)]
    assert study(tasks).stops_paying("phone") == 0


def test_the_time_is_the_fitted_one() -> None:
    made = study()
    assert made.mean_ms("*", 1) == pytest.approx(170, rel=0.02)
    assert made.latency_error is not None
    assert made.latency_error.points == 8
    assert made.latency_error.held_out_relative < 0.05


def test_too_few_times_give_a_line_and_no_claim_about_its_error() -> None:
    made = study().model_copy(update={"timings": (Timing(image_tokens=100, milliseconds=50),)})
    assert made.latency.at(300) == pytest.approx(150)
    assert made.latency_error is None
    assert "too few to check" in page(made)


@pytest.mark.parametrize(
    "change",
    [{"short_sides": (336, 168, 512, 1080)}, {"gflops": (1.0,)}, {"short_sides": (168, 336), "gflops": (1.0, 2.0)}],
)
def test_a_study_that_does_not_fit_together_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Study.model_validate({**study().model_dump(), **change})


def test_sizes_by_kind_win_against_one_size() -> None:
    found = fixed_against_many(study(), 512)
    assert (found.fixed.right, found.fixed.total) == (120, 120)
    assert found.fixed.milliseconds == pytest.approx(370, rel=0.02)
    assert found.same_accuracy.right == 120
    assert found.same_accuracy.milliseconds < 0.85 * found.fixed.milliseconds
    assert found.same_time.right == 120


def test_a_policy_is_judged_on_screens_that_it_was_not_chosen_on() -> None:
    first, second = split(study().tasks)
    assert {each.screen for each in first}.isdisjoint(each.screen for each in second)
    assert first
    assert second


@settings(max_examples=15)
@given(st.lists(st.sampled_from([168, 336, 512, 1080]), min_size=4, max_size=12), st.integers(0, 3), st.integers(0, 3))
def test_counts_added_up_by_kind_are_those_of_task_after_task(starts: list[int], phone: int, desktop: int) -> None:
    made = study([task(number, ("phone", "desktop")[number % 2], start) for number, start in enumerate(starts)])
    policy = ByKind((("desktop", desktop), ("phone", phone)))
    added, plain = Solved(made, made.tasks).by(policy), outcome(made, policy, made.tasks)
    assert (added.right, added.total) == (plain.right, plain.total)
    assert added.milliseconds == pytest.approx(plain.milliseconds)


def test_a_cascade_pays_for_both_pictures_only_where_the_first_answer_is_unsure() -> None:
    made = study([task(0, "phone", 168), task(1, "phone", 512)])
    sure, unsure = made.tasks
    cascade = Cascade(0, 2, 0.9)
    assert cascade.solve(made, sure) == (True, made.milliseconds(sure, 0))
    assert cascade.solve(made, unsure) == (True, made.milliseconds(unsure, 0) + made.milliseconds(unsure, 2))


def test_conditions_are_the_same_for_the_same_seed_and_stay_in_their_bounds() -> None:
    made = study()
    assert simulated.moments(made, 1) == simulated.moments(made, 1)
    assert simulated.moments(made, 1) != simulated.moments(made, 2)
    for moment in simulated.moments(made):
        assert 0 <= moment.load <= 1
        assert 0 <= moment.bandwidth_share <= 1


def test_the_formula_never_leaves_its_bounds_and_costs_less_than_full_size() -> None:
    made = study()
    policy = ResolutionPolicy(mode="dynamic", min_short_side=336, max_short_side=1080)
    choice = simulated.by_formula(made, policy)
    places = [choice(asked, moment) for asked, moment in zip(made.tasks, simulated.moments(made), strict=True)]
    assert min(places) >= 1
    assert (
        simulated.run(made, simulated.by_formula(made, policy)).milliseconds
        < simulated.run(made, simulated.fixed(3)).milliseconds
    )


def test_down_sampling_by_load_keeps_within_the_deadline_where_it_can() -> None:
    made = study()
    choice = simulated.by_load(made, 400)
    for asked, moment in zip(made.tasks, simulated.moments(made), strict=True):
        place = choice(asked, moment)
        spent = simulated.slowed(made.milliseconds(asked, place), moment)
        assert spent <= 400 or place == 0


def test_the_page_says_where_full_size_stops_paying_and_what_each_controller_did() -> None:
    text = page(study())
    assert "| phone | 336 px | 100.0 % (94 to 100) | 100.0 % (94 to 100) |" in text
    assert "| all | 512 px |" in text
    assert "several sizes, at least the same accuracy" in text
    assert {each.group for each in controllers(study())} == {6, 7, 8}
    assert "48 ms, 6.2 % lost; 46 ms, 3.1 % lost" in text


def test_what_is_stored_gives_the_same_page_and_picture() -> None:
    made = study()
    again = Study.model_validate_json(made.model_dump_json(by_alias=True))
    assert page(again) == page(made)
    assert picture(again) == picture(made)


def test_the_picture_is_svg_with_a_line_for_each_kind_in_both_parts() -> None:
    tree = ET.fromstring(picture(study()))
    lines = [each for each in tree.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2 * 3
    for line in lines:
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 720
            assert 0 <= y <= 660


def test_one_size_for_everything_is_what_it_says() -> None:
    made = study()
    assert outcome(made, Fixed(0), made.tasks).right == 0
    assert outcome(made, Fixed(3), made.tasks).accuracy == 1
