"""The network to a site: what measurements say, for how long, and what to reckon with."""

import pytest

from autoglm_serving.links import LARGEST_UPLOAD, NO_TIME_S, SMALLEST_UPLOAD, TRIES, UPLOAD_EVERY_S, Figures, Link
from autoglm_serving.routing_table import FASTEST_BPS


def after(link: Link, *rates: float, at: float = 0.0) -> Link:
    """The link after uploads at these rates (bits per second), each of the size that it asks for and says something at."""
    for rate in rates:
        if link.next_bytes * 8 / rate < NO_TIME_S:
            link = link.uploaded(link.next_bytes, link.next_bytes * 8 / rate, at)
        link = link.uploaded(link.next_bytes, link.next_bytes * 8 / rate, at)
    return link


def test_nothing_is_known_before_anything_was_measured() -> None:
    assert Link().figures(0.0) == Figures()
    assert Link().upload_due(0.0)
    assert not Link().told


def test_of_the_last_round_trips_the_shortest_counts_since_work_only_adds_to_them() -> None:
    link = Link()
    for seconds in (0.04, 0.2, 0.05, 0.9, 0.06):
        link = link.answered(seconds, 10.0)
    assert link.figures(10.0).rtt_s == 0.04
    assert (
        link.answered(0.3, 11.0).figures(11.0).rtt_s == 0.05
    )  # a way that became longer shows when the short ones are over


def test_a_round_trip_is_believed_for_five_minutes() -> None:
    link = Link().answered(0.04, 100.0)
    assert link.figures(399.0).rtt_s == 0.04
    assert link.figures(400.0).rtt_s is None


@pytest.mark.parametrize("rate", [80e3, 1e6, 8e6, 30e6])
def test_a_thin_link_is_measured_by_what_it_carries_in_a_quarter_of_a_second(rate: float) -> None:
    link = after(Link(), rate)
    assert link.figures(0.0).bandwidth_bps == pytest.approx(rate)
    assert not link.figures(0.0).fast
    assert link.next_bytes == pytest.approx(min(max(rate / 32, SMALLEST_UPLOAD), LARGEST_UPLOAD), rel=0.01)


def test_a_body_that_takes_no_time_is_followed_by_a_larger_one_until_it_is_plain_that_nothing_limits() -> None:
    link, sizes = Link(), [SMALLEST_UPLOAD]
    while link.upload_due(0.0):
        link = link.answered(0.001, 0.0).uploaded(link.next_bytes, 0.002, 0.0)
        sizes.append(link.next_bytes)
    assert sizes == [SMALLEST_UPLOAD, LARGEST_UPLOAD, LARGEST_UPLOAD, LARGEST_UPLOAD]
    assert (link.figures(0.0).bandwidth_bps, link.figures(0.0).fast) == (None, True)
    assert link.figures(0.0).at_least_bps == FASTEST_BPS


def test_what_is_faster_than_any_need_is_not_told_apart() -> None:
    assert after(Link(), 60e6, 45e6, 30e6).figures(0.0) == Figures(fast=True)
    assert after(Link(), 60e6, 45e6, 30e6, 44e6).figures(0.0).bandwidth_bps == pytest.approx(45e6)


def test_an_upload_is_seldom_while_it_says_what_the_last_ones_said() -> None:
    link = after(Link(), 10e6, at=50.0)
    assert link.upload_due(51.0)  # nothing agrees with it yet
    link = after(link, 8e6, at=50.0)
    assert not link.upload_due(50.0 + UPLOAD_EVERY_S - 1)
    assert link.upload_due(50.0 + UPLOAD_EVERY_S)


def test_a_fall_is_measured_again_at_once_and_believed_when_all_say_it() -> None:
    link = after(Link(), 40e6, 40e6, 40e6, 4e6)
    assert link.upload_due(1.0)
    assert link.figures(1.0).bandwidth_bps == pytest.approx(40e6)
    link = after(link, 4e6, 4e6, at=1.0)
    assert not link.upload_due(2.0)
    assert link.figures(2.0).bandwidth_bps == pytest.approx(4e6)


def test_one_slow_upload_on_a_busy_machine_changes_nothing() -> None:
    link = after(Link(), 40e6, 4e6, 40e6)
    assert link.figures(1.0).bandwidth_bps == pytest.approx(40e6)
    assert not link.upload_due(1.0)


def test_an_application_that_does_not_take_the_body_leaves_the_bandwidth_unknown_and_is_asked_again_later() -> None:
    link = Link().answered(0.01, 0.0).not_uploaded(0.0)
    assert link.told
    assert not link.upload_due(1.0)
    assert link.upload_due(UPLOAD_EVERY_S)
    assert link.figures(1.0) == Figures(rtt_s=0.01)


def test_a_rate_that_an_empty_request_which_came_late_makes_too_high_is_not_believed() -> None:
    link = after(Link(), 8e6, 50e6)
    assert link.upload_due(1.0)
    assert link.figures(1.0) == Figures(bandwidth_bps=8e6)
    assert after(link, 7e6).figures(1.0) == Figures(bandwidth_bps=8e6)


def test_a_link_of_which_no_two_uploads_agree_rests_too() -> None:
    link, made = Link(), 0
    for rate in (1e6, 3e6, 9e6, 27e6) * 3:
        link, made = after(link, rate), made + 1
        if not link.upload_due(1.0):
            break
    assert made == TRIES
    assert link.figures(1.0).bandwidth_bps == pytest.approx(9e6)


def test_uploads_that_fail_do_not_keep_an_old_bandwidth_young_and_are_tried_with_a_small_body() -> None:
    link = after(Link(), 60e6, 60e6)
    assert link.figures(0.0).fast
    for turn in range(1, 4):
        link = link.not_uploaded(turn * UPLOAD_EVERY_S)
        assert link.next_bytes == SMALLEST_UPLOAD
        assert not link.upload_due(turn * UPLOAD_EVERY_S + 1)
    assert link.figures(3 * UPLOAD_EVERY_S) == Figures()


@pytest.mark.parametrize(
    ("measured", "reckoned"),
    [
        (Figures(), Figures(0.02, 10e6)),
        (Figures(rtt_s=0.1), Figures(0.1, 10e6)),
        (Figures(rtt_s=0.1, bandwidth_bps=2e6), Figures(0.1, 2e6)),
        (Figures(rtt_s=0.1, bandwidth_bps=20e6), Figures(0.1, 10e6)),
        (Figures(rtt_s=0.1, fast=True), Figures(0.1, 10e6, fast=True)),
    ],
)
def test_a_declared_bandwidth_is_not_exceeded_and_a_declared_round_trip_holds_until_one_is_measured(
    measured: Figures, reckoned: Figures
) -> None:
    assert measured.within(0.02, 10e6) == reckoned


def test_without_a_declaration_what_is_measured_counts() -> None:
    assert Figures(0.1, 2e6).within(None, None) == Figures(0.1, 2e6)
    assert Figures().within(None, None) == Figures()
