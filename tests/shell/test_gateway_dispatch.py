"""What a request counts for in a rollout, without Envoy: only what began in the present step, and only what a revision did."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from autoglm_serving import headers
from autoglm_serving.gateway import dispatch
from autoglm_serving.gateway.dispatch import Answer, Context, Dispatch
from autoglm_serving.gateway.fleet import Fleet
from autoglm_serving.gateway.health import answered
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.records import Record, Records
from autoglm_serving.measurements import RevisionReport
from autoglm_serving.routing import RequestCost
from autoglm_serving.routing_table import Canary, Endpoint, Route, RoutingTable
from autoglm_serving.tracing import Tracing

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ADDRESSES = {"r1": "10.0.0.1:8000", "r2": "10.0.0.2:8000"}


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest.fixture
def context() -> Context:
    fleet = Fleet()
    return Context(fleet, Records(), Metrics(fleet), Tracing("gateway", None))


def endpoint(revision: str) -> Endpoint:
    return Endpoint(site="a", url=f"http://{ADDRESSES[revision]}/ns.phone", revision=revision)


def put(context: Context, window: str | None, weight: int = 0) -> Route:
    """The table of one step; None for no rollout."""
    canary = Canary(revision="r2", endpoints=(endpoint("r2"),), weight=weight, window=window) if window else None
    route = Route(deployment="ns/phone", model="m", uid="u", revision="r1", endpoints=(endpoint("r1"),), canary=canary)
    fleet = context.fleet
    version = fleet.table.version + 1 if fleet.table else 1
    fleet.apply(RoutingTable(epoch=1, version=version, written_at=NOW, routes=(route,)), NOW)
    for member in fleet.members:
        fleet.set_address(member, ADDRESSES[member.wanted])
        member.health = answered(member.health, member.wanted, member.wanted, 0.1, NOW)
    fleet.usable = frozenset(ADDRESSES.values())
    return route


def begin(context: Context, route: Route) -> Dispatch:
    return Dispatch(context, route, RequestCost("r", 100, 20, (), True), Record(request_id="r", arrived_at=NOW))


def answer(sent: Dispatch, status: int = 200) -> None:
    sent.observe(Answer(status, {headers.REVISION: "r1"}, ADDRESSES["r1"], from_server=True))


def report(context: Context, revision: str = "r1") -> RevisionReport:
    return next(one for one in context.tallies.reports() if one.revision == revision)


@pytest.mark.parametrize("before", [None, "step 1"])
def test_a_request_counts_only_in_the_step_that_it_began_in(context: Context, before: str | None) -> None:
    early = begin(context, put(context, before))
    late = begin(context, put(context, "step 2"))
    for sent in (early, late):
        answer(sent)
        sent.close()
        sent.close()
    assert (report(context).window, report(context).requests) == ("step 2", 1)


def test_a_client_that_leaves_after_a_long_wait_was_failed_by_the_revision(context: Context, clock: Clock) -> None:
    sent = begin(context, put(context, "step 1", weight=100))
    clock.now += 10.0
    sent.close()
    sent.close()
    assert (report(context, "r2").requests, report(context, "r2").errors) == (1, 1)
    assert report(context).requests == 0


def test_a_client_that_leaves_soon_says_nothing_about_a_revision(context: Context, clock: Clock) -> None:
    sent = begin(context, put(context, "step 1"))
    clock.now += 9.0
    sent.close()
    assert (report(context).requests, report(context).errors) == (0, 0)


def began(context: Context, now: float) -> dict[str, int]:
    return {one.deployment: one.ttft.total for one in context.recent.reports(now)}


def test_answers_that_clients_got_lately_say_how_fast_they_began(context: Context, clock: Clock) -> None:
    route = put(context, None)
    for status in (200, 200, 404, 503):
        sent = begin(context, route)
        clock.now += 0.5
        answer(sent, status)
        sent.close()
    (told,) = context.recent.reports(clock.now)
    assert (told.deployment, told.ttft.total) == ("ns/phone", 2), "a refusal is no answer that began fast"
    assert told.ttft.quantile(0.95) == pytest.approx(0.5, rel=0.05)


def test_what_began_more_than_five_minutes_ago_is_forgotten(context: Context, clock: Clock) -> None:
    route = put(context, None)
    for _ in range(3):
        sent = begin(context, route)
        answer(sent)
        clock.now += 100
    assert began(context, clock.now) == {"ns/phone": 2}
    assert began(context, clock.now + 100) == {"ns/phone": 1}
    assert began(context, clock.now + 400) == {}
