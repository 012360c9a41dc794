"""The resolution formula at its corners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.images import ImageSize
from autoglm_serving.resolution import Conditions, choose, pixel_limit
from autoglm_serving.routing_table import ResolutionPolicy

FIXED = ResolutionPolicy(mode="fixed", max_short_side=1080)
DYNAMIC = ResolutionPolicy(mode="dynamic", min_short_side=480, max_short_side=1080, alpha=0.6)


def side(share: float, load: float, previous: int | None = None, policy: ResolutionPolicy = DYNAMIC) -> int:
    return choose(policy, Conditions(share, load), previous).short_side


def test_fixed_mode_looks_at_nothing() -> None:
    chosen = choose(FIXED, Conditions(0.0, 1.0), previous=480)
    assert (chosen.short_side, chosen.reason) == (1080, "fixed")


@pytest.mark.parametrize(
    ("share", "load", "expected"),
    [
        (1.0, 0.0, 1080),  # (0.6 + 0.4) * 1080
        (1.0, 1.0, 648),  # 0.6 * 1080
        (0.5, 0.5, 540),  # (0.3 + 0.2) * 1080
        (0.3, 1.0, 480),  # 0.18 * 1080 = 194, clamped
        (0.3, 0.0, 626),  # (0.18 + 0.4) * 1080 = 626.4
        (7.0, -3.0, 1080),  # shares outside 0..1 are clamped
    ],
)
def test_the_formula(share: float, load: float, expected: int) -> None:
    chosen = choose(DYNAMIC, Conditions(share, load))
    assert (chosen.short_side, chosen.reason) == (expected, "formula")


def test_a_thin_link_gets_480_whatever_the_load() -> None:
    chosen = choose(DYNAMIC, Conditions(0.29, 0.0), previous=1080)
    assert (chosen.short_side, chosen.reason) == (480, "thin_link")


def test_a_thin_link_keeps_to_the_deployments_bounds() -> None:
    assert side(0.1, 0.0, policy=ResolutionPolicy(mode="dynamic", min_short_side=600, max_short_side=900)) == 600
    assert side(0.1, 0.0, policy=ResolutionPolicy(mode="dynamic", min_short_side=100, max_short_side=300)) == 300


def test_one_burst_does_not_halve_the_resolution_at_once() -> None:
    first = side(1.0, 1.0, previous=1080)
    assert 648 < first < 1080
    later = first
    for _ in range(30):
        later = side(1.0, 1.0, previous=later)
    assert later == pytest.approx(648, abs=2)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(480, 1080) | st.none())
def test_the_bounds_hold(share: float, load: float, previous: int | None) -> None:
    assert 480 <= side(share, load, previous) <= 1080


@given(st.floats(0.3, 1), st.floats(0, 1), st.floats(0, 1))
def test_more_load_never_gives_more_pixels(share: float, load: float, other: float) -> None:
    low, high = sorted((load, other))
    assert side(share, high) <= side(share, low)


@pytest.mark.parametrize(("load", "expected"), [(0.0, True), (0.8, True), (0.81, False), (1.0, False)])
def test_nothing_is_enlarged_above_a_load_of_eight_tenths(load: float, expected: bool) -> None:
    assert choose(DYNAMIC, Conditions(1.0, load)).may_enlarge is expected
    assert choose(DYNAMIC, Conditions(0.1, load)).may_enlarge is expected
    assert not choose(FIXED, Conditions(1.0, load)).may_enlarge


@given(st.lists(st.tuples(st.floats(0.3, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_smoothing_stays_between_what_was_and_what_is_asked_for(conditions: list[tuple[float, float]]) -> None:
    previous = 1080
    for share, load in conditions:
        now, smooth = side(share, load), side(share, load, previous)
        assert min(now, previous) - 1 <= smooth <= max(now, previous) + 1
        previous = smooth


def test_the_pixel_limit_brings_the_short_side_down() -> None:
    assert pixel_limit([ImageSize(1080, 2400, "png")], 540) == 540 * 1200
    assert pixel_limit([ImageSize(2400, 1080, "png")], 540) == 540 * 1200


def test_an_image_that_is_small_enough_is_left_alone() -> None:
    assert pixel_limit([ImageSize(360, 800, "png")], 540) == 360 * 800
    assert pixel_limit([ImageSize(1080, 2400, "png"), ImageSize(100, 100, "png")], 540) == 540 * 1200


def test_a_request_without_images_has_no_pixel_limit() -> None:
    assert pixel_limit([], 540) is None
