"""The fleet: endpoint addresses, admissions by site, and counts that cannot leak."""

from datetime import UTC, datetime

import pytest

from autoglm_serving.gateway.fleet import Fleet, Flight, Location, Member, best_ip, join, locate, split
from autoglm_serving.gateway.health import answered
from autoglm_serving.routing import EndpointState
from autoglm_serving.routing_table import Endpoint, Route, RoutingTable

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def endpoint(site: str, port: int = 8000) -> Endpoint:
    return Endpoint(site=site, url=f"http://10.0.0.1:{port}/ns.phone", revision="r1")


def fleet_of(*endpoints: Endpoint, fleet: Fleet | None = None, revision: str = "r1", version: int = 1) -> Fleet:
    fleet = fleet or Fleet()
    route = Route(deployment="ns/phone", model="m", uid="u", revision=revision, endpoints=endpoints)
    fleet.apply(RoutingTable(epoch=1, version=version, written_at=NOW, routes=(route,)), NOW)
    return fleet


def state(fleet: Fleet, member: Member) -> EndpointState:
    return fleet.states([member], now=0.0)[0]


def test_an_endpoint_of_a_variant_has_a_revision_of_its_own_to_answer_with() -> None:
    small = endpoint("b", 8001).model_copy(update={"variant": "int8", "wanted": "r1-int8"})
    fleet = fleet_of(endpoint("a"), small)
    assert [member.wanted for member in fleet.members] == ["r1", "r1-int8"]
    second = fleet.members[1]
    assert state(fleet, second).variant == "base", "before it has answered"
    second.health = answered(second.health, "r1-int8", second.wanted, 0.1, NOW, "int8")
    assert state(fleet, second).variant == "int8"
    assert [(one.site, one.state, one.wanted) for one in fleet.admissions()] == [
        ("a", "Probing", "r1"),
        ("b", "Admitted", "r1-int8"),
    ]
    fleet_of(endpoint("a"), endpoint("b", 8001), fleet=fleet, version=2)
    assert (second.wanted, second.health.state) == ("r1", "Probing")
    assert state(fleet, second).variant == "int8", "until another one answers"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("http://site:8000/ns.phone", Location("site", 8000, "/ns.phone")),
        ("http://site/ns.phone/", Location("site", 80, "/ns.phone")),
        ("http://[fd00::1]:8000/x", Location("fd00::1", 8000, "/x")),
    ],
)
def test_urls_are_taken_apart(url: str, location: Location) -> None:
    assert locate(url) == location


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a url",
        "https://site/x",
        "http://",
        "http://site:99999/x",
        "http://u:p@site/x",
        "http://site/x?y=1",
        "http://[::1/x",
    ],
)
def test_urls_that_cannot_be_used_are_explained(url: str) -> None:
    assert isinstance(locate(url), str)


@pytest.mark.parametrize("address", ["10.0.0.1:80", "[fd00::1]:8000"])
def test_addresses_go_both_ways(address: str) -> None:
    assert join(*split(address)) == address


def test_a_host_with_several_addresses_is_always_the_same_one() -> None:
    assert best_ip(["::1", "10.0.0.2", "10.0.0.1"]) == best_ip(["10.0.0.1", "::1", "10.0.0.2"]) == "10.0.0.1"
    assert best_ip([]) is None


def test_a_flight_counts_once_and_its_end_is_idempotent() -> None:
    fleet = fleet_of(endpoint("a"), endpoint("b", 8001))
    first, second = fleet.members
    flight = Flight(first, 2.0)
    assert state(fleet, first).queued_work_s == 2.0
    flight.move(second)
    assert (state(fleet, first).in_flight, state(fleet, second).in_flight) == (0, 1)
    flight.close()
    flight.close()
    assert (state(fleet, second).in_flight, state(fleet, second).queued_work_s) == (0, 0)


def test_a_new_table_keeps_what_is_known_about_endpoints_that_stay() -> None:
    fleet = fleet_of(endpoint("a"), endpoint("b", 8001))
    first = fleet.members[0]
    first.health = answered(first.health, "r1", "r1", 0.1, NOW)
    flight = Flight(first, 1.0)
    fleet_of(endpoint("a"), endpoint("c", 8002), fleet=fleet, version=2)
    assert [member.endpoint.site for member in fleet.members] == ["a", "c"]
    assert fleet.members[0].health.state == "Admitted"
    assert state(fleet, fleet.members[0]).in_flight == 1
    flight.close()


def test_an_endpoint_answers_only_at_an_address_that_envoy_confirmed() -> None:
    fleet = fleet_of(endpoint("a"))
    member = fleet.members[0]
    fleet.set_address(member, "10.0.0.1:8000")
    member.health = answered(member.health, "r1", "r1", 0.1, NOW)
    assert not state(fleet, member).answers
    fleet.usable = frozenset({"10.0.0.1:8000"})
    assert state(fleet, member).answers


def test_a_site_with_several_paths_is_admitted_by_one_of_them() -> None:
    fleet = fleet_of(endpoint("a"), endpoint("a", 8001), endpoint("b", 8002))
    member = fleet.members[1]
    member.health = answered(member.health, "r1", "r1", 0.1, NOW)
    states = {admission.site: admission.state for admission in fleet.admissions()}
    assert states == {"a": "Admitted", "b": "Probing"}


def test_a_new_wanted_revision_shows_in_the_admission() -> None:
    fleet = fleet_of(endpoint("a"))
    fleet.members[0].health = answered(fleet.members[0].health, "r1", "r1", 0.1, NOW)
    fleet_of(endpoint("a"), fleet=fleet, revision="r2", version=2)
    admission = fleet.admissions()[0]
    assert (admission.state, admission.revision) == ("Probing", "r1")
    assert "r2" in admission.message
