"""How many replicas a load needs: bounds, band, steps, the window, figures that are missing, and replicas that start."""

import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_operator import views
from autoglm_operator.scaling.decide import decide, features, is_idle, is_wanted, needed
from autoglm_operator.scaling.history import History, told
from autoglm_operator.scaling.terms import (
    FRESH,
    LATE_FOR,
    SETTLE,
    STEP,
    Figures,
    Load,
    Policy,
    SiteLoad,
    Standing,
)
from autoglm_operator.state import GatewayError, GatewayView
from autoglm_serving.measurements import LoadReport, SiteLoadReport, Sketch
from autoglm_serving.routing_table import GatewayReport
from support.queueing import Queueing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
POLICY = Policy(least=1, most=20, per_replica=4)

POLICIES = st.builds(
    lambda least, more, each, ttft, window: Policy(least, least + more, each, ttft, timedelta(seconds=window)),
    st.integers(1, 5),
    st.integers(0, 30),
    st.floats(0.5, 16),
    st.none() | st.floats(0.1, 10),
    st.integers(10, 3600),
)
LOADS = st.builds(SiteLoad, st.floats(0, 500), st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(0.01, 100))
STANDINGS = st.builds(
    lambda desired, missing, age, may_fall: Standing(
        desired, max(desired - missing, 0), None if age is None else NOW - timedelta(seconds=age), may_fall
    ),
    st.integers(0, 40),
    st.integers(0, 5),
    st.none() | st.integers(0, 5000),
    st.booleans(),
)


def figures(load: SiteLoad | None, more: float | None = 0.0) -> Figures:
    """With a peak that is so much above the load; None where the window was not seen."""
    return Figures(load, None if load is None or more is None else load.in_flight + more)


FIGURES = st.builds(figures, st.none() | LOADS, st.none() | st.floats(0, 100))


# What always holds


@given(policy=POLICIES, standing=STANDINGS, seen=FIGURES)
def test_replicas_are_never_fewer_than_the_least_nor_more_than_the_most(
    policy: Policy, standing: Standing, seen: Figures
) -> None:
    decision = decide(policy, standing, seen, NOW)
    assert policy.least <= decision.desired <= policy.most
    assert (decision.cause is None) == (decision.desired == standing.desired)
    assert decision.again is None or decision.again > timedelta(0)
    assert decision == decide(policy, standing, seen, NOW)


@given(policy=POLICIES, standing=STANDINGS)
def test_without_figures_the_last_number_holds(policy: Policy, standing: Standing) -> None:
    decision = decide(policy, standing, Figures(), NOW)
    assert decision.desired == min(max(standing.desired, policy.least), policy.most)


@given(policy=POLICIES, standing=STANDINGS, load=LOADS)
def test_what_was_not_seen_for_a_whole_window_lowers_nothing(
    policy: Policy, standing: Standing, load: SiteLoad
) -> None:
    within = min(max(standing.desired, policy.least), policy.most)
    assert decide(policy, standing, Figures(load, None), NOW).desired >= within


@given(policy=POLICIES, standing=STANDINGS, load=LOADS, more=st.floats(0, 200), peak=st.floats(0, 100))
def test_more_requests_never_lead_to_fewer_replicas(
    policy: Policy, standing: Standing, load: SiteLoad, more: float, peak: float
) -> None:
    busier = replace(load, in_flight=load.in_flight + more)
    less = decide(policy, standing, Figures(load, load.in_flight + peak), NOW)
    assert decide(policy, standing, Figures(busier, busier.in_flight + peak), NOW).desired >= less.desired


@given(policy=POLICIES, standing=STANDINGS, seen=FIGURES)
def test_replicas_fall_only_after_a_window_and_to_what_its_peak_needs(
    policy: Policy, standing: Standing, seen: Figures
) -> None:
    decision = decide(policy, standing, seen, NOW)
    if decision.cause != "LoadFell":
        return
    assert seen.peak is not None
    assert standing.may_fall
    assert standing.changed_at is None or NOW - standing.changed_at >= policy.window
    assert decision.desired >= needed(policy, seen.peak)


@given(policy=POLICIES, standing=STANDINGS, seen=FIGURES)
def test_a_raise_is_bounded_and_waits_for_the_figures_of_the_last_one(
    policy: Policy, standing: Standing, seen: Figures
) -> None:
    decision = decide(policy, standing, seen, NOW)
    if decision.cause in ("LoadRose", "FirstBytesLate"):
        assert decision.desired <= max(2 * standing.desired, standing.desired + STEP)
        assert standing.changed_at is None or NOW - standing.changed_at >= SETTLE


@given(policy=POLICIES, standing=STANDINGS, load=LOADS, other=LOADS)
def test_a_load_that_looks_the_same_leads_to_the_same_raise(
    policy: Policy, standing: Standing, load: SiteLoad, other: SiteLoad
) -> None:
    """By this a deployment is woken or not. How large a raise is may differ: that it is one may not."""
    if features(policy, load) == features(policy, other) and standing.ready >= standing.desired:
        first, second = (decide(policy, standing, Figures(one, None), NOW) for one in (load, other))
        assert (first.desired > standing.desired) == (second.desired > standing.desired)


# Single rules


@pytest.mark.parametrize(("in_flight", "desired"), [(8.7, 2), (8.9, 3), (12, 3), (12.1, 4), (24, 6), (40, 6)])
def test_a_load_that_is_clearly_more_raises_at_once_by_a_bounded_step(in_flight: float, desired: int) -> None:
    decision = decide(POLICY, Standing(2, 2, LONG_AGO), figures(SiteLoad(in_flight)), NOW)
    assert decision.desired == desired
    assert decision.cause == ("LoadRose" if desired > 2 else None)


def test_many_replicas_may_double() -> None:
    assert decide(POLICY, Standing(8, 8, LONG_AGO), figures(SiteLoad(400.0)), NOW).desired == 16


def test_what_the_load_asks_for_beyond_the_most_is_told() -> None:
    decision = decide(POLICY, Standing(20, 20, LONG_AGO), figures(SiteLoad(100.0)), NOW)
    assert (decision.desired, decision.cause, decision.asked) == (20, None, 25)


@pytest.mark.parametrize(("peak", "desired"), [(13.0, 4), (12.0, 3), (7.9, 2), (0.0, 1)])
def test_replicas_fall_to_what_the_peak_of_the_window_needs(peak: float, desired: int) -> None:
    assert decide(POLICY, Standing(4, 4, LONG_AGO), Figures(SiteLoad(0.0), peak), NOW).desired == desired


def test_a_fall_waits_for_the_rest_of_the_window_after_a_change() -> None:
    changed = NOW - timedelta(minutes=3)
    decision = decide(POLICY, Standing(4, 4, changed), Figures(SiteLoad(0.0), 0.0), NOW)
    assert (decision.desired, decision.again) == (4, timedelta(minutes=2))


def test_new_bounds_hold_at_once() -> None:
    decision = decide(replace(POLICY, most=3), Standing(8, 8, NOW), figures(SiteLoad(32.0)), NOW)
    assert (decision.desired, decision.cause) == (3, "Bounds")


@pytest.mark.parametrize(
    ("ttft_s", "in_flight", "ready", "age", "desired"),
    [
        (1.0, 8.0, 4, 600, 4),  # in time
        (2.1, 8.0, 4, 600, 4),  # within the band
        (3.0, 8.0, 4, 600, 6),  # half as late again, and half busy
        (60.0, 8.0, 4, 600, 8),  # at most twice as many
        (3.0, 7.9, 4, 600, 4),  # replicas have little to do: more of them would not help
        (3.0, 8.0, 3, 600, 4),  # one starts
        (3.0, 8.0, 4, LATE_FOR.total_seconds() - 1, 4),  # the times are those of before the last change
    ],
)
def test_late_first_bytes_ask_for_more_where_more_would_help(
    ttft_s: float, in_flight: float, ready: int, age: float, desired: int
) -> None:
    policy = replace(POLICY, ttft_s=2.0)
    standing = Standing(4, ready, NOW - timedelta(seconds=age))
    decision = decide(policy, standing, figures(SiteLoad(in_flight, ttft_s=ttft_s), 8.0), NOW)
    assert decision.desired == desired
    assert decision.cause == ("FirstBytesLate" if desired > 4 else None)


def test_a_queue_that_grows_while_replicas_start_asks_only_for_what_comes_for_good() -> None:
    load = SiteLoad(in_flight=64.0, arrivals=2.0, completions=0.4)
    assert decide(POLICY, Standing(5, 5, LONG_AGO), figures(load), NOW).desired == 10, (
        "all are ready: the queue is demand"
    )
    assert decide(POLICY, Standing(5, 1, LONG_AGO), figures(load), NOW).desired == 6, "1 answers a fifth of what comes"
    assert decide(POLICY, Standing(6, 1, LONG_AGO), figures(load), NOW).cause is None
    idle = replace(load, completions=0.0)
    assert decide(POLICY, Standing(5, 0, LONG_AGO), figures(idle), NOW).desired == 10, "nobody knows what one can do"


# What is remembered


def watched(*seen: tuple[float, float], window: float = 300, complete: bool = True) -> History | None:
    """The history after so many requests under way were told at these seconds before now."""
    history = None
    for ago, in_flight in seen:
        load = Load({"a": SiteLoad(in_flight)}, complete=complete)
        history = told(history, load, NOW - timedelta(seconds=ago), timedelta(seconds=window))
    return history


WINDOW = timedelta(minutes=5)


def test_the_peak_is_known_once_the_whole_window_was_seen_without_a_gap() -> None:
    every = [(ago, 9.0 if ago == 200 else 1.0) for ago in range(310, -1, -10)]
    history = watched(*every)
    assert history is not None
    assert history.figures("a", WINDOW, NOW) == Figures(SiteLoad(1.0), 9.0, 0)
    assert history.figures("b", WINDOW, NOW) == Figures(SiteLoad(), 0.0, 0)
    assert history.figures(None, WINDOW, NOW).peak == 9.0
    begun = watched(*every[5:])
    assert begun is not None
    assert begun.figures("a", WINDOW, NOW) == Figures(SiteLoad(1.0), None, 0), "50 s are missing"
    gap = watched(*(one for one in every if not 100 < one[0] < 170))
    assert gap is not None
    assert gap.figures("a", WINDOW, NOW).peak is None, "nobody told for more than a minute"


def test_a_peak_is_forgotten_with_its_window() -> None:
    history = watched(*((ago, 9.0 if ago == 330 else 1.0) for ago in range(700, -1, -10)))
    assert history is not None
    assert history.figures("a", WINDOW, NOW).peak == 1.0
    assert len(history.slots) <= 32


def test_a_window_that_became_longer_was_not_seen_as_far_as_nothing_of_it_was_kept() -> None:
    """Nine requests were under way 100 s ago. With a window of 20 s that was forgotten; then the window becomes 300 s."""
    history = watched(*((ago, 9.0 if ago == 100 else 1.0) for ago in range(1000, -1, -10)), window=20)
    assert history is not None
    assert history.figures("a", timedelta(seconds=20), NOW).peak == 1.0
    assert history.figures("a", WINDOW, NOW).peak is None, "in the same moment"
    oldest = history.slots[0].begun
    assert NOW - oldest < timedelta(seconds=100)
    for second in range(10, 400, 10):
        now = NOW + timedelta(seconds=second)
        history = told(history, Load({"a": SiteLoad(1.0)}), now, WINDOW)
        assert (history.figures("a", WINDOW, now).peak is None) is (now - oldest < WINDOW), second
        assert history.since == oldest
    shorter = told(history, Load({"a": SiteLoad(1.0)}), NOW + timedelta(seconds=400), timedelta(seconds=20))
    assert shorter.figures("a", timedelta(seconds=20), NOW + timedelta(seconds=400)).peak == 1.0


def test_old_figures_are_no_figures() -> None:
    history = watched((FRESH.total_seconds(), 9.0))
    assert history is not None
    assert history.figures("a", WINDOW, NOW) == Figures()


def test_while_a_gateway_does_not_tell_nothing_is_covered() -> None:
    history = watched(*((ago, 1.0) for ago in range(310, -1, -10)), complete=False)
    assert history is not None
    assert history.figures("a", WINDOW, NOW) == Figures(SiteLoad(1.0), None, 0)
    again = told(history, Load({"a": SiteLoad(1.0)}), NOW, WINDOW)
    assert again.since == NOW, "the window begins when all tell"


def gateways(now: datetime, ago: tuple[float, float], in_flight: float, error: bool = False) -> tuple[GatewayView, ...]:
    """Two that reported so many seconds ago; the second one serves, and its last look failed or not."""

    def view(name: str, seconds: float, count: float, failed: bool) -> GatewayView:
        site = SiteLoadReport(site="a", in_flight=count, arrivals=0, completions=0, ttft=Sketch())
        loads = (LoadReport(deployment="t/d", asked_s=None, sites=(site,) if count else ()),)
        report = GatewayReport(table_epoch=1, table_version=1, admissions=(), started_at=LONG_AGO, loads=loads)
        why = GatewayError("GatewayUnreachable", "no answer") if failed else None
        return GatewayView(name, report, now - timedelta(seconds=seconds), why)

    return view("first", ago[0], 0.0, False), view("second", ago[1], in_flight, error)


@pytest.mark.parametrize(
    ("ago", "error", "complete"),
    [(2, False, True), (9, False, True), (11, False, False), (2, True, False), (-5, False, False)],
)
def test_only_a_gateway_that_was_heard_a_moment_ago_tells(ago: float, error: bool, complete: bool) -> None:
    load = views.load(gateways(NOW, (1, ago), 3.0, error), "t/d", NOW)
    assert load is not None
    assert (load.complete, load.total.in_flight) == (complete, 3.0), "what it told last still counts as a demand"
    history = told(None, load, NOW, WINDOW)
    assert history.at == NOW - timedelta(seconds=max(ago, 1)), "as old as the oldest report"


def test_a_gateway_that_falls_silent_takes_the_whole_window_away_though_another_one_tells() -> None:
    """It told of no request before. What came since then nobody but itself knows."""
    window, history = timedelta(seconds=20), None
    for second in range(0, 120, 2):
        now = NOW + timedelta(seconds=second)
        silent_s = max(second - 60, 0)
        load = views.load(gateways(now, (0, silent_s), 0.0, silent_s > 0), "t/d", now)
        assert load is not None
        history = told(history, load, now, window)
        assert is_idle(history, window, now) is (20 <= second <= 60), second
        assert (history.since is not None) is (second < 75), "one lost answer is no gap"
    back = views.load(gateways(NOW + timedelta(seconds=120), (0, 0), 0.0), "t/d", NOW + timedelta(seconds=120))
    assert back is not None
    assert told(history, back, NOW + timedelta(seconds=120), window).since == NOW + timedelta(seconds=120)


def test_what_was_seen_is_no_window_any_more_after_a_gap_in_which_nobody_looked() -> None:
    history = watched(*((ago, 0.0) for ago in range(60, 15, -2)), window=20)
    assert history is not None
    window = timedelta(seconds=20)
    assert is_idle(history, window, NOW - timedelta(seconds=10))
    assert not is_idle(history, window, NOW), "16 s ago is not now"
    assert told(history, Load({}), NOW, window).since == NOW


@pytest.mark.parametrize(
    ("asked_s", "in_flight", "idle"), [(None, 0, True), (300, 0, True), (299, 0, False), (900, 1, False)]
)
def test_idle_is_what_nobody_asked_for_in_a_whole_window(asked_s: float | None, in_flight: float, idle: bool) -> None:
    asked = None if asked_s is None else NOW - timedelta(seconds=asked_s)
    history = None
    for ago in range(310, -1, -10):
        load = Load({"a": SiteLoad(in_flight if ago == 250 else 0.0)}, asked)
        history = told(history, load, NOW - timedelta(seconds=ago), WINDOW)
    assert is_idle(history, WINDOW, NOW) is idle
    assert is_idle(watched((10, 0.0), (0, 0.0)), WINDOW, NOW) is False, "it was not looked at for long enough"


def test_a_request_wakes_only_if_it_came_since_there_is_nothing() -> None:
    since = NOW - timedelta(seconds=30)
    for ago, wanted in ((31, False), (29, True)):
        assert is_wanted(History(Load({}, NOW - timedelta(seconds=ago)), NOW), since) is wanted
    assert is_wanted(None, since) is False
    assert is_wanted(History(Load({}), NOW), since) is False


# Over time


def test_a_surge_is_met_without_far_too_many_replicas_and_is_left_once() -> None:
    site, dice = Queueing(starts_in_s=60), random.Random(3)
    for at in range(1800):
        rate = 2.0 if at < 900 else 0.1  # 2 a second are 20 under way: five replicas
        site.second(at, sum(dice.random() < rate / 4 for _ in range(4)))
        if at % 2 == 0:
            site.decide(at, POLICY)
    most = max(count for _, count in site.changes)
    assert 5 <= most <= 10, site.changes
    assert next(at for at, count in site.changes if count >= 5) < 45, (
        "five are asked for before the first of them is ready"
    )
    assert site.desired == 1
    counts = [count for _, count in site.changes]
    top = counts.index(most)
    assert counts == sorted(counts[:top]) + sorted(counts[top:], reverse=True), "up, then down, and never up again"


def test_without_counting_what_starts_the_same_surge_would_ask_for_twice_as_many() -> None:
    """The surge above, with figures that do not tell what comes and what is answered."""
    site, dice = Queueing(starts_in_s=60), random.Random(3)
    for at in range(300):
        site.second(at, sum(dice.random() < 0.5 for _ in range(4)))
        site.answered = [0] * len(site.answered)
        if at % 2 == 0:
            site.decide(at, POLICY)
    assert max(count for _, count in site.changes) >= 15, site.changes


@given(
    level=st.floats(0.5, 60),
    noise=st.lists(st.floats(-1, 1), min_size=60, max_size=60),
    begin=st.integers(1, 20),
    each=st.floats(0.5, 8),
)
def test_a_load_that_moves_within_the_band_changes_replicas_at_most_up_and_once_down(
    level: float, noise: list[float], begin: int, each: float
) -> None:
    """Noise of 4.7 % is within the band of 10 %, for (1 + 0.047) / (1 - 0.047) is less than 1.1. Worst cases included."""
    policy = Policy(1, 200, each, window=timedelta(minutes=1))
    desired, changed, history, counts = begin, LONG_AGO, None, [begin]
    for number in range(240):
        now = NOW + timedelta(seconds=10 * number)
        load = SiteLoad(level * (1 + 0.047 * noise[number % 60]))
        history = told(history, Load({"a": load}), now, policy.window)
        decision = decide(policy, Standing(desired, desired, changed), history.figures("a", policy.window, now), now)
        if decision.desired != desired:
            desired, changed = decision.desired, now
            counts.append(desired)
    turns = [after > before for before, after in pairwise(counts)]
    assert turns == sorted(turns, reverse=True), f"up after down: {counts}"
    assert counts[-1] >= math.ceil(level * 0.953 / each / 1.1 - 1e-6)
