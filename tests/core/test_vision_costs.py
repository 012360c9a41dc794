"""Fitted curves find the numbers that made the points, and say how far to trust them."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_serving.vision import flops
from autoglm_serving.vision.costs import (
    Accuracy,
    Latency,
    NotEnoughPoints,
    check_accuracy,
    check_latency,
    fit_accuracy,
    fit_latency,
)
from autoglm_serving.vision.sizing import TokenGrid

SIZES = [100, 200, 400, 800, 1600, 3200]


@settings(max_examples=30)
@given(st.floats(1e-4, 1e-2), st.floats(0.5, 2.2), st.floats(0, 2))
def test_the_latency_curve_that_made_the_points_is_found(a: float, b: float, c: float) -> None:
    true = Latency(a, b, c)
    found = fit_latency([(size, true.at(size)) for size in SIZES])
    for size in (150, 1000, 3000):
        assert found.at(size) == pytest.approx(true.at(size), rel=0.02)


@settings(max_examples=30)
@given(st.floats(0.2, 1), st.floats(1e-4, 1e-1))
def test_the_accuracy_curve_that_made_the_points_is_found(d: float, e: float) -> None:
    true = Accuracy(d, e)
    found = fit_accuracy([(size, true.at(size)) for size in SIZES])
    assert found.d == pytest.approx(d, rel=0.02)
    assert found.e == pytest.approx(e, rel=0.02)


def test_noise_shows_in_the_held_out_error() -> None:
    noise = random.Random(3)
    true = Latency(0.001, 1.2, 0.2)
    clean = [(size, true.at(size)) for size in SIZES for _ in range(4)]
    noisy = [(size, value * noise.uniform(0.8, 1.2)) for size, value in clean]
    assert check_latency(clean).held_out_relative < 0.001
    error = check_latency(noisy)
    assert 0.05 < error.held_out_relative < 0.25
    assert error.held_out_rmse >= error.rmse
    assert (error.points, error.folds) == (24, 5)


def test_the_wrong_curve_shows_in_the_held_out_error() -> None:
    rising_then_falling = [(size, 0.9 - abs(math.log(size / 500)) / 4) for size in SIZES]
    assert check_accuracy(rising_then_falling, folds=3).held_out_rmse > 0.05


def test_latency_never_falls_with_size_and_is_never_negative() -> None:
    falling = fit_latency([(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)])
    assert falling.at(1) == falling.at(4) == pytest.approx(2.5)
    steep = fit_latency([(10, 0.0), (20, 0.0), (30, 5.0), (40, 30.0)])
    assert steep.c >= 0
    assert steep.a >= 0


@given(st.floats(0.5, 50))
def test_the_largest_size_within_a_limit_just_meets_it(limit: float) -> None:
    curve = Latency(0.01, 1.3, 0.5)
    assert curve.at(curve.largest_within(limit)) == pytest.approx(limit)


def test_a_limit_below_the_fixed_cost_allows_nothing_and_a_flat_curve_everything() -> None:
    assert Latency(0.01, 1.3, 0.5).largest_within(0.4) == 0
    assert Latency(0, 1, 0.5).largest_within(0.6) == math.inf
    assert Latency(0, 1, 0.5).largest_within(0.4) == 0


@pytest.mark.parametrize("points", [[], [(1, 1.0)] * 9, [(1, 1.0), (2, 2.0), (3, 3.0)]])
def test_too_few_points_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(NotEnoughPoints):
        fit_latency(points)
    with pytest.raises(NotEnoughPoints):
        check_accuracy(points)


@pytest.mark.parametrize("bad", [(0, 1.0), (-1, 1.0), (5, math.nan), (math.inf, 1.0)])
def test_impossible_points_are_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        fit_accuracy([(1, 0.1), (2, 0.2), (3, 0.3), bad])


SMALL = flops.TextShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=96, vocabulary=100)


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_prefill_in_two_parts_costs_as_much_as_in_one(first: int, second: int) -> None:
    parts = flops.prefill(SMALL, first, logits=0) + flops.prefill(SMALL, second, cached=first, logits=1)
    assert parts == flops.prefill(SMALL, first + second)


@given(st.integers(1, 300), st.integers(1, 50))
def test_decoding_costs_as_much_as_reading_the_same_tokens_with_all_their_logits(prompt: int, answer: int) -> None:
    read = flops.prefill(SMALL, answer - 1, cached=prompt, logits=answer - 1)
    assert flops.decode(SMALL, prompt, answer) == read


def test_two_pictures_attend_each_to_itself() -> None:
    shape = flops.AUTOGLM_PHONE_9B.vision
    one, two = TokenGrid(10, 10), [TokenGrid(10, 10), TokenGrid(10, 10)]
    assert flops.vision(shape, two).total == 2 * flops.vision(shape, [one]).total
    doubled = flops.vision(shape, [TokenGrid(20, 10)])
    assert doubled.vision_attention == 4 * flops.vision(shape, [one]).vision_attention
