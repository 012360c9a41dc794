"""Encoders: how many there shall be, which one an image goes to, and when nobody waits for them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.encoders import Arrivals, Patience, encoders_for, order


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [([], 1), ([0.0], 1), ([1000.0], 1), ([1000.1], 2), ([700.0, 700.0, 700.0], 3), ([0.1] * 10, 1)],
)
def test_there_are_as_many_encoders_as_the_arriving_tokens_need(rates: list[float], wanted: int) -> None:
    assert encoders_for(rates, 1000) == wanted


def test_the_rate_is_that_of_the_last_window() -> None:
    arrivals = Arrivals(window_s=10)
    assert arrivals.rate(0) == 0
    arrivals.add(300, 0)
    arrivals.add(200, 4)
    assert arrivals.rate(9.9) == 50
    assert arrivals.rate(10) == 20
    assert arrivals.rate(14) == 0


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), max_size=40))
def test_the_rate_counts_each_arrival_of_the_window_once(steps: list[tuple[int, float]]) -> None:
    arrivals, now, seen = Arrivals(window_s=5), 0.0, []
    for tokens, pause in steps:
        now += pause
        arrivals.add(tokens, now)
        seen.append((now, tokens))
    assert arrivals.rate(now) == sum(tokens for at, tokens in seen if now - at < 5) / 5


def test_images_are_spread_over_encoders_and_each_has_an_order_of_its_own() -> None:
    encoders = ["a", "b", "c"]
    firsts = Counter(order(f"image {number}", encoders)[0] for number in range(300))
    assert all(70 < firsts[each] < 130 for each in encoders)
    assert all(sorted(order(f"image {number}", encoders)) == encoders for number in range(20))


def test_only_the_images_of_a_lost_encoder_move() -> None:
    names = [f"image {number}" for number in range(200)]
    for name in names:
        before, after = order(name, ["a", "b", "c"]), order(name, ["c", "a"])
        assert after == [each for each in before if each != "b"]


def test_after_a_failure_nobody_asks_for_a_while_and_then_one_tries_first() -> None:
    patience = Patience(pause_s=5)
    assert patience.asks(0)
    assert patience.asks(0)
    patience.failed(1)
    assert not patience.asks(5.9)
    assert patience.asks(6)
    assert not patience.asks(6.1)
    patience.failed(8)
    assert not patience.asks(12.9)
    assert patience.asks(13)
    patience.answered()
    assert patience.asks(13)
    assert patience.asks(13.1)


def test_a_trial_that_never_ends_is_followed_by_another() -> None:
    patience = Patience(pause_s=5)
    patience.failed(0)
    assert [now for now in range(21) if patience.asks(now)] == [5, 10, 15, 20]
