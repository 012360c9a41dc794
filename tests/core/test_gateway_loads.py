"""What a gateway tells of the load: means over time, rates, first bytes, and nothing that leaks or lasts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.gateway.loads import Loads
from autoglm_serving.measurements import LoadReport, SiteLoadReport

PHONE = "ns/phone"


def only(loads: Loads, now: float) -> LoadReport:
    (report,) = loads.reports([PHONE], now)
    return report


def site(loads: Loads, now: float, name: str = "a") -> SiteLoadReport:
    return next(one for one in only(loads, now).sites if one.site == name)


def test_requests_under_way_are_a_mean_over_time() -> None:
    loads = Loads()
    assert loads.reports([PHONE], 1000) == (), "nobody asked"
    for _ in range(3):
        loads.began(PHONE, "a", 1020)
    assert site(loads, 1025).in_flight == pytest.approx(3 * 5 / 15), (
        "they have been there for 5 of the 15 s of three whole slots"
    )
    assert site(loads, 1039.999).in_flight == pytest.approx(3, abs=0.01)
    for _ in range(3):
        loads.ended(PHONE, "a", 1040, answered=True)
    assert site(loads, 1050).in_flight == pytest.approx(3 * 5 / 15), "the slot of now has only begun: 15 s are left"
    assert site(loads, 1060).in_flight == 0


def test_a_glance_at_a_bad_moment_is_no_load() -> None:
    loads = Loads()
    loads.reports([PHONE], 0)
    for _ in range(40):
        loads.began(PHONE, "a", 1000)
        loads.ended(PHONE, "a", 1000.5, answered=True)
    assert site(loads, 1000.5).in_flight == pytest.approx(40 * 0.5 / 15.5)


def test_a_gateway_that_has_just_begun_tells_of_the_time_since_then() -> None:
    loads = Loads()
    loads.began(PHONE, "a", 1000)
    assert site(loads, 1008).in_flight == pytest.approx(1)


def test_arrivals_answers_and_first_bytes_are_those_of_the_last_minute() -> None:
    loads = Loads()
    loads.reports([PHONE], 0)
    for second in range(200, 260):
        loads.asked(PHONE, second)
        loads.began(PHONE, "a", second)
        loads.first_byte(PHONE, "a", 0.5, second)
        loads.ended(PHONE, "a", second + 0.9, answered=second % 2 == 0)
    report = only(loads, 260)
    assert report.rate == pytest.approx(1, rel=0.1)
    assert report.asked_s == 1
    assert report.sites[0].arrivals == pytest.approx(1, rel=0.1)
    assert report.sites[0].completions == pytest.approx(0.5, rel=0.1)
    assert report.sites[0].ttft.quantile(0.95) == pytest.approx(0.5, rel=0.06)
    later = only(loads, 330)
    assert (later.rate, later.asked_s, later.sites) == (0, 71, ()), (
        "it is known when somebody last asked, and nothing else"
    )


def test_a_request_that_nobody_can_serve_is_a_request() -> None:
    loads = Loads()
    loads.asked(PHONE, 1000)
    report = only(loads, 1002)
    assert (report.asked_s, report.sites) == (2, ())


def test_a_deployment_that_left_is_forgotten_but_not_its_requests_under_way() -> None:
    loads = Loads()
    loads.asked(PHONE, 1000)
    loads.began(PHONE, "a", 1000)
    assert loads.reports([], 1001) == ()
    assert only(loads, 1010).asked_s is None
    loads.ended(PHONE, "a", 1011, answered=True)
    assert loads.reports([PHONE], 1200) == ()
    assert loads._places == {}


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0.01, 120)), max_size=40), st.floats(0, 300))
def test_the_mean_is_that_of_all_intervals(requests: list[tuple[float, float]], now: float) -> None:
    """Against the sum of overlaps of the requests with the slots that count."""
    loads, moments = Loads(), []
    loads.reports([PHONE], 0)
    for begin, lasts in requests:
        moments += [(begin, 0), (begin + lasts, 1)]
    for moment, ends in sorted(moments):
        if moment > now:
            break
        if ends:
            loads.ended(PHONE, "a", moment, answered=True)
        else:
            loads.began(PHONE, "a", moment)
    low = max((now // 5 - 3) * 5, 0)
    area = sum(max(min(begin + lasts, now) - max(begin, low), 0) for begin, lasts in requests)
    told = [one.in_flight for report in loads.reports([PHONE], now) for one in report.sites]
    assert sum(told) == pytest.approx(area / max(now - low, 5), abs=1e-6)


def test_nothing_grows_with_the_number_of_requests() -> None:
    loads, dice = Loads(), random.Random(1)
    now = 0.0
    for _ in range(5000):
        now += dice.random()
        loads.asked(PHONE, now)
        loads.began(PHONE, "a", now)
        loads.ended(PHONE, "a", now + dice.random(), answered=True)
    loads.reports([PHONE], now)
    assert all(len(place._slots) <= 13 for place in loads._places.values())
