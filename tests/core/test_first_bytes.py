"""The time to the first byte in a status: what gateways told lately, added up, with its age, and never worth a write alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from autoglm_operator import views
from autoglm_operator.api import TtftStatus
from autoglm_operator.state import GatewayView
from autoglm_serving.measurements import FirstBytes, Sketch, bucket
from autoglm_serving.routing_table import GatewayReport
from support import fleet
from support.fleet import NOW
from support.simulation import World


def gateway(name: str, times: dict[float, int], deployment: str = "t/q", *, age_s: float = 0) -> GatewayView:
    counts = {bucket(seconds): number for seconds, number in times.items()}
    told = FirstBytes(deployment=deployment, ttft=Sketch(counts=counts))
    report = GatewayReport(table_epoch=1, table_version=1, admissions=(), started_at=NOW, first_bytes=(told,))
    return GatewayView(name, report, NOW - timedelta(seconds=age_s))


def test_the_figures_of_all_gateways_are_one_and_as_old_as_the_oldest() -> None:
    found = views.ttft([gateway("a", {0.1: 60}), gateway("b", {2.0: 40}, age_s=9)], "t/q", NOW)
    assert found is not None
    assert (found.samples, found.gateways, found.observed_at) == (100, 2, NOW - timedelta(seconds=9))
    assert found.p95.endswith("s")
    assert float(found.p95.removesuffix("s")) == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize(("seconds", "shown"), [(0.0123, "ms"), (0.82, "ms"), (0.99, "s"), (12.0, "s"), (250.0, "s")])
def test_a_time_is_shown_with_the_digits_that_it_has(seconds: float, shown: str) -> None:
    found = views.ttft([gateway("a", {seconds: 50})], "t/q", NOW)
    assert found is not None
    unit = "ms" if found.p95.endswith("ms") else "s"
    value = float(found.p95.removesuffix(unit)) * (0.001 if unit == "ms" else 1)
    assert value == pytest.approx(seconds, rel=0.1)
    assert len(found.p95) <= 6
    assert unit == shown or abs(seconds - 1) < 0.05


@pytest.mark.parametrize(
    "told",
    [
        [],
        [gateway("a", {0.1: 19})],
        [gateway("a", {0.1: 90}, age_s=61)],
        [gateway("a", {0.1: 90}, deployment="t/other")],
        [replace(gateway("a", {0.1: 90}), report=None)],
    ],
    ids=["no gateway", "too few", "too old", "of another", "silent"],
)
def test_what_says_too_little_is_not_told(told: list[GatewayView]) -> None:
    assert views.ttft(told, "t/q", NOW) is None


def test_a_time_that_moves_is_told_now_and_then_and_one_that_stays_about_the_same_never_again() -> None:
    world = World(fleet.deployment(replicas=1, sites={"names": ["a"]}), {"a": {}})
    world.converge()

    def told(p95: float, after: timedelta) -> TtftStatus | None:
        """What is written when this figure comes; nothing if it is not."""
        world.now += after
        world.first_bytes = {"team/quickstart": Sketch(counts={bucket(p95): 50} if p95 else {})}
        before = world.deployment.status
        status = world.step().status
        return status.ttft if status != before else None

    first = told(0.1, timedelta(seconds=3))
    assert first is not None, "the first figure is news"
    assert (first.samples, first.observed_at) == (50, world.now.replace(microsecond=0))
    for number in range(1, 80):
        assert told(0.1 * number, timedelta(seconds=3)) is None, "four minutes of moving figures"
    assert told(0.1, timedelta(minutes=2)) is None, "it is as it was"
    moved = told(0.2, timedelta(minutes=1))
    assert moved is not None, "it moved far, and the last one is old"
    assert moved.observed_at == world.now.replace(microsecond=0)
    for number in range(120):
        assert told(0.2 + 0.01 * (number % 5), timedelta(minutes=1)) is None, "two hours of about the same"
    world.now += timedelta(minutes=1)
    world.first_bytes = {}
    assert world.step().status.ttft is None, "without requests there is no figure"
