"""Recipes: what happens at a step follows from its number."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.training.recipe import LEAST_STEPS, PRESETS, Recipe, plan_step, resolution_weight, scaled

NIGHT = PRESETS["night"]


def test_the_resolution_weight_is_the_formula() -> None:
    assert resolution_weight(256, 256, 256) == 1
    assert resolution_weight(512, 512, 256) == 2
    assert resolution_weight(128, 128, 256) == 1.5
    assert resolution_weight(100, 400, 200) == 1, "only the area counts"


@given(st.integers(28, 4000), st.integers(28, 4000), st.floats(28, 4000))
def test_no_resolution_counts_less_than_the_base(width: int, height: int, base: float) -> None:
    assert resolution_weight(width, height, base) >= 1


@pytest.mark.parametrize("recipe", PRESETS.values(), ids=PRESETS.keys())
def test_stages_follow_each_other_and_fill_the_run(recipe: Recipe) -> None:
    names = [plan_step(recipe, number).stage.name for number in range(recipe.steps)]
    expected = [stage.name for stage in recipe.stages for _ in range(stage.steps)]
    assert names == expected
    told = [] if recipe.name == "hour" else ["telling"]
    sorts = ["reading", "gathering", "sorting"]
    assert [stage.name for stage in recipe.stages] == [*told, *sorts, "looking", "fixed", "scales", "groups"]
    for outside in (-1, recipe.steps):
        with pytest.raises(IndexError):
            plan_step(recipe, outside)


def test_each_stage_chooses_its_resolutions() -> None:
    *before, fixed, scales, groups = NIGHT.stages
    begin = sum(stage.steps for stage in before)
    sides = [plan_step(NIGHT, number).short_side for number in range(begin, NIGHT.steps)]
    assert set(sides[: fixed.steps]) == set(fixed.short_sides)
    middle = set(sides[fixed.steps : fixed.steps + scales.steps])
    assert min(middle) == min(scales.short_sides)
    assert max(middle) == max(scales.short_sides)
    assert all(side % 28 == 0 for side in middle)
    assert len(middle) == 1 + (max(scales.short_sides) - min(scales.short_sides)) // 28
    last = sides[fixed.steps + scales.steps :]
    assert last[:4] == list(groups.short_sides)
    assert {last.count(side) for side in groups.short_sides} == {groups.steps // 4}


def test_only_random_scales_are_weighted() -> None:
    weighted = {plan_step(NIGHT, n).stage.name for n in range(NIGHT.steps) if plan_step(NIGHT, n).weighted}
    assert weighted == {"scales"}


def test_a_seed_gives_the_same_scales_and_another_seed_others() -> None:
    other = replace(NIGHT, seed=1)
    steps = range(39_000, 39_100)
    assert [plan_step(NIGHT, n) for n in steps] == [plan_step(NIGHT, n) for n in steps]
    assert [plan_step(NIGHT, n).short_side for n in steps] != [plan_step(other, n).short_side for n in steps]


def test_the_learning_rate_warms_up_and_falls_four_times() -> None:
    """While upper layers learn to tell places, the tower to read, its last MLP to sort, and once after that for all."""
    rates = [
        plan_step(NIGHT, number).learning_rate / plan_step(NIGHT, number).stage.rate for number in range(NIGHT.steps)
    ]
    telling, reading, gathering, sorting = (stage.steps for stage in NIGHT.stages[:4])
    gathered = telling + reading + gathering
    parts = (rates[:telling], rates[telling : telling + reading], rates[gathered : gathered + sorting])
    for part in (*parts, rates[gathered + sorting :]):
        assert part[0] == pytest.approx(NIGHT.learning_rate / NIGHT.warmup)
        assert max(part) == part[NIGHT.warmup - 1] == pytest.approx(NIGHT.learning_rate)
        assert all(later <= earlier for earlier, later in pairwise(part[NIGHT.warmup - 1 :]))
        assert part[len(part) // 2] == pytest.approx(NIGHT.learning_rate), "full rate for the first half"
        assert part[-1] == pytest.approx(0.02 * NIGHT.learning_rate)


@given(st.integers(LEAST_STEPS, 100_000), st.sampled_from(sorted(PRESETS)))
def test_another_number_of_steps_keeps_every_stage(steps: int, name: str) -> None:
    recipe = scaled(PRESETS[name], steps)
    assert recipe.steps == steps
    assert all(stage.steps >= 1 for stage in recipe.stages)


def test_too_few_steps_for_the_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        scaled(NIGHT, 3)


@pytest.mark.parametrize("recipe", PRESETS.values(), ids=PRESETS.keys())
def test_what_was_gathered_is_in_memory_until_the_sorting_ends(recipe: Recipe) -> None:
    gathering = [n for n in range(recipe.steps) if plan_step(recipe, n).stage.name == "gathering"]
    first, last, end = gathering[0], gathering[-1], recipe.sorting.stop
    assert recipe.sorting.start == last + 1
    assert not recipe.gathered_by(first)
    assert list(recipe.gathered_by(last)) == gathering[:-1]
    for number in (last + 1, end - 1):
        assert list(recipe.gathered_by(number)) == gathering
    assert not recipe.gathered_by(end)
    assert not recipe.gathered_by(0)


def test_a_recipe_without_sorting_gathers_nothing() -> None:
    plain = replace(NIGHT, stages=NIGHT.stages[:2])
    assert not plain.sorting
    assert not any(plain.gathered_by(number) for number in (0, 100, plain.steps))


def test_a_recipe_that_sorts_what_it_has_not_gathered_is_refused() -> None:
    with pytest.raises(ValueError, match="right after it has gathered"):
        replace(NIGHT, stages=NIGHT.stages[3:])
