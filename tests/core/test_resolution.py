"""The resolution formula at its corners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.images import ImageSize
from autoglm_serving.resolution import Conditions, bandwidth_share, choose, kind_of, pixel_limit
from autoglm_serving.routing_table import MeasuredQuality, ResolutionPolicy

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


def measured(kind: str, **right: int) -> list[MeasuredQuality]:
    """Of 100 tasks each: s480=40 means 40 at 480 pixels."""
    return [MeasuredQuality(kind=kind, short_side=int(side[1:]), right=n, samples=100) for side, n in right.items()]


PHONES = measured("phone", s480=60, s720=80, s1080=80)
ANY = measured("*", s480=40, s720=60, s1080=80)


def with_quality(floor: float | None = None, most: int = 1080) -> ResolutionPolicy:
    return ResolutionPolicy(
        mode="dynamic", min_short_side=480, max_short_side=most, quality=(*PHONES, *ANY), quality_floor=floor
    )


def test_a_size_under_the_quality_floor_is_raised_to_the_smallest_that_keeps_it() -> None:
    chosen = choose(with_quality(0.9), Conditions(0.1, 1.0), kind="phone")
    assert (chosen.short_side, chosen.reason) == (720, "quality_floor")
    assert choose(with_quality(0.9), Conditions(0.1, 1.0)).short_side == 1080
    assert choose(with_quality(0.5), Conditions(0.1, 1.0)).reason == "thin_link"


def test_the_deployments_largest_side_stays_the_limit_of_the_floor() -> None:
    chosen = choose(with_quality(1.0, most=600), Conditions(0.1, 1.0))
    assert (chosen.short_side, chosen.reason) == (600, "quality_floor")


def test_pixels_that_win_nothing_are_not_sent() -> None:
    phone = choose(with_quality(), Conditions(1.0, 0.0), kind="phone")
    assert (phone.short_side, phone.reason) == (720, "nothing_gained")
    assert choose(with_quality(), Conditions(1.0, 0.0)).short_side == 1080


def test_the_decision_says_what_is_lost_at_its_size_and_what_that_rests_on() -> None:
    expected = choose(with_quality(), Conditions(1.0, 1.0), previous=540).expected
    assert expected is not None
    assert (expected.short_side, expected.basis, expected.samples) == (572, "between", 100)
    assert expected.loss == pytest.approx(0.8 - (0.4 + 0.2 * 92 / 240))
    assert choose(DYNAMIC, Conditions(1.0, 1.0)).expected is None


def test_quality_does_not_move_what_the_formula_is_smoothed_with() -> None:
    raised = choose(with_quality(1.0), Conditions(0.3, 1.0), previous=500)
    assert raised.short_side == 1080
    assert raised.smoothed == choose(DYNAMIC, Conditions(0.3, 1.0), previous=500).short_side


def test_in_fixed_mode_quality_is_told_and_changes_nothing() -> None:
    fixed = with_quality(1.0).model_copy(update={"mode": "fixed", "max_short_side": 720})
    chosen = choose(fixed, Conditions(1.0, 0.0))
    assert (chosen.short_side, chosen.reason) == (720, "fixed")
    assert chosen.expected is not None
    assert chosen.expected.loss == pytest.approx(0.2)


def test_only_long_upright_screens_are_taken_for_phones() -> None:
    phone, desk = ImageSize(1080, 2400, "png"), ImageSize(1920, 1080, "png")
    assert kind_of([phone]) == "phone"
    assert kind_of([phone, phone]) == "phone"
    assert kind_of([phone, desk]) == "*"
    assert kind_of([ImageSize(1080, 1920, "png")]) == "*"
    assert kind_of([]) == "*"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1) | st.none(), st.sampled_from(["phone", "*", "kiosk"]))
def test_the_bounds_hold_with_quality_too(share: float, load: float, floor: float | None, kind: str) -> None:
    chosen = choose(with_quality(floor), Conditions(share, load), kind=kind)
    assert 480 <= chosen.short_side <= 1080


def test_more_right_than_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="right must not be above samples"):
        MeasuredQuality(short_side=480, right=3, samples=2)


def test_the_share_of_bandwidth_counts_what_is_faster_than_any_need_as_that() -> None:
    assert bandwidth_share(10e6, (10e6, 40e6, None)) == 0.25
    assert bandwidth_share(45e6, (45e6, 1e9)) == pytest.approx(0.9)
    assert bandwidth_share(1e9, (45e6, 1e9)) == 1.0
    assert bandwidth_share(None, (1e6,)) == 1.0
    assert bandwidth_share(1e6, (None,)) == 1.0
