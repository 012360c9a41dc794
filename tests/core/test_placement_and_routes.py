"""Which sites are chosen, with a reason for each; and what gateways are told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator import ages, applications, placement, revision, routes
from autoglm_operator.api import Problem, SitesSpec
from autoglm_operator.placement import MAX_SITES
from autoglm_operator.state import InvalidSite, SiteView
from support.fleet import NOW, deployment, site, view


def labelled(name: str, **labels: str) -> SiteView:
    return replace(view(name), site=site(name, labels=labels))


SITES = (labelled("a", fleet="phones", zone="1"), labelled("b", fleet="kiosks"), labelled("c", fleet="phones"))
BROKEN = InvalidSite(site("broken", labels={"fleet": "phones"}).metadata, (Problem("spec.backend", "Required value"),))
GOING = replace(view("going"), site=site("going", deletionTimestamp="2026-03-01T11:59:00Z"))


@pytest.mark.parametrize(
    ("spec", "selected"),
    [
        ({}, ["a", "b", "c"]),
        ({"names": ["c", "a"]}, ["a", "c"]),
        ({"selector": {}}, ["a", "b", "c"]),
        ({"selector": {"matchLabels": {"fleet": "phones"}}}, ["a", "c"]),
        ({"selector": {"matchLabels": {"fleet": "phones", "zone": "1"}}}, ["a"]),
        ({"selector": {"matchLabels": {"fleet": "cars"}}}, []),
    ],
)
def test_sites_are_selected_by_name_or_label(spec: dict[str, Any], selected: list[str]) -> None:
    chosen = placement.select(SitesSpec.model_validate(spec), tuple(reversed(SITES)), ())
    assert [found.name for found in chosen.views] == selected
    assert all(choice.why for choice in chosen.choices), "each choice has its reason"
    assert len(chosen.choices) == 3


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"names": ["a", "atlantis"]}, "SiteNotFound"),
        ({"names": ["a", "broken"]}, "SiteInvalid"),
        ({"names": ["a", "going"]}, "SiteNotFound"),
        ({"names": ["atlantis", "broken"]}, "SiteNotFound"),
        ({"selector": {"matchLabels": {"fleet": "phones"}}}, "SiteInvalid"),
        ({"selector": {"matchLabels": {"fleet": "cars"}}}, "NoSites"),
        ({"selector": {"matchLabels": {"fleet": "kiosks"}}}, None),
        ({"names": ["a"]}, None),
    ],
)
def test_what_is_wrong_with_a_selection_is_told(spec: dict[str, Any], reason: str | None) -> None:
    wrong = placement.verdict(placement.select(SitesSpec.model_validate(spec), (*SITES, GOING), (BROKEN,)))
    assert (wrong.reason if wrong else None) == reason


def test_a_deployment_uses_a_bounded_number_of_sites() -> None:
    many = [view(f"s{number:03}") for number in range(MAX_SITES + 5)]
    chosen = placement.select(SitesSpec(), many, ())
    assert len(chosen.views) == MAX_SITES
    assert {choice.outcome for choice in chosen.choices[MAX_SITES:]} == {"TooMany"}


def test_a_route_tells_gateways_everything_that_the_manifests_say() -> None:
    of = deployment(
        {
            "routing": {"policy": "roundRobin", "retries": 2, "timeout": "90s", "slo": {"ttft": "1500ms"}},
            "resolution": {"mode": "dynamic", "minShortSide": 560, "alpha": 0.5},
            "limits": {"maxBodyBytes": 2_000_000},
        }
    )
    ray = {
        "address": "http://edge.example:8265",
        "serveAddresses": ["http://edge-1.example:8000", "http://edge-2.example:8000/"[:-1]],
        "allowOpenCluster": True,
    }
    link = {"bandwidth": "20Mbit", "rtt": "40ms"}
    edge = site("edge", {"backend": {"ray": ray}, "tier": "edge", "link": link, "price": 0.5})
    config = revision.stamp(applications.config(of))
    route = routes.route(of, config, [routes.Stop(SiteView(edge), "0123456789")])
    assert [end.url for end in route.endpoints] == [
        "http://edge-1.example:8000/team.quickstart",
        "http://edge-2.example:8000/team.quickstart",
    ]
    end = route.endpoints[0]
    assert (end.site, end.tier, end.bandwidth_bps, end.rtt_s, end.price) == ("edge", "edge", 20e6, 0.04, 0.5)
    assert (end.revision, route.revision) == ("0123456789", config.revision)
    assert (route.policy, route.retries, route.timeout_s, route.ttft_target_s) == ("roundRobin", 2, 90.0, 1.5)
    assert route.limits.max_body_bytes == 2_000_000
    assert (route.resolution.mode, route.resolution.min_short_side, route.resolution.alpha) == ("dynamic", 560, 0.5)


def test_a_suspended_route_stays_in_the_table_without_endpoints() -> None:
    of = deployment({"suspend": True})
    route = routes.route(of, revision.stamp(applications.config(of)), [routes.Stop(view("a"), "x")], suspended=True)
    assert (route.suspended, route.endpoints, route.model) == (True, (), "autoglm-phone-9b")


def test_the_oldest_deployment_holds_a_model_name_until_it_is_deleted() -> None:
    young = deployment(name="young", uid="uid-young", creationTimestamp="2026-03-01T11:30:00Z")
    old = deployment(name="old", uid="uid-old", creationTimestamp="2026-03-01T11:00:00Z")
    other = deployment({"model": {"name": "other", "uri": "builtin://autoglm-tiny"}}, name="x", uid="uid-x")
    assert routes.holder(young, (young, old, other)) == old
    assert routes.holder(old, (young, old, other)) is None
    assert routes.holder(other, (young, old, other)) is None
    going = deployment(name="old", uid="uid-old", deletionTimestamp="2026-03-01T11:59:00Z")
    assert routes.holder(young, (going,)) is None


def test_deployments_made_in_the_same_second_are_told_apart_by_name() -> None:
    one, two = deployment(name="one", uid="uid-1"), deployment(name="two", uid="uid-2")
    assert routes.holder(two, (one, two)) == one
    assert routes.holder(one, (two, one)) is None


def test_a_table_does_not_depend_on_the_order_in_which_routes_came() -> None:
    made = [
        routes.route(of, revision.stamp(applications.config(of)), ())
        for of in (deployment(name="one", uid="uid-1"), deployment(name="two", uid="uid-2"))
    ]
    table = routes.table(made, 3, 7, NOW)
    assert table == routes.table(reversed(made), 3, 7, NOW)
    assert (table.generation, table.written_at) == ((3, 7), NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.9, "119 s"), (300, "5 min"), (7200, "2 h"), (172_800, "2 d"), (900_000, "10 d")],
)
def test_a_span_is_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert ages.words(timedelta(seconds=seconds)) == text


def test_a_time_in_the_future_is_another_clocks_error_and_counts_as_now() -> None:
    assert ages.age(NOW + timedelta(hours=1), NOW) == timedelta(0)
    assert ages.is_fresh(NOW + timedelta(hours=1), NOW, timedelta(seconds=1))
    assert not ages.is_fresh(None, NOW, timedelta(days=999))


def test_pauses_double_up_to_a_minute_and_no_count_breaks_them() -> None:
    pauses = [ages.backoff(failures).total_seconds() for failures in (-1, 0, 1, 2, 3, 6, 1000)]
    assert pauses == [2, 2, 2, 4, 8, 60, 60]
