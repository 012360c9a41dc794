"""Placement as the operator does it: from sites and applications to replicas, routes, statuses, and who has to be ready."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from autoglm_operator import applications
from autoglm_operator.allocation import allocate
from autoglm_operator.api import AutoGLMDeployment, DeploymentStatus
from autoglm_operator.offers import RESIDENCY
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import (
    ApplicationView,
    ApplyApplication,
    Capacity,
    DeleteApplication,
    Observed,
    Plan,
    Published,
    SiteError,
    SiteView,
)
from autoglm_serving.config import Worker
from support import kube
from support.fleet import NOW, admitted, application, condition, deployment, gateway, site, wanted, with_status
from support.simulation import World

DOWN = SiteError("Unreachable", "no route to host")


def asks(replicas: int = 2, placement: dict[str, Any] | None = None, **spec: Any) -> AutoGLMDeployment:
    return deployment({"replicas": replicas, "placement": placement or {}, **spec})


def place(name: str, *found: ApplicationView, cpus: float = 8.0, seen: float = 2.0, **spec: Any) -> SiteView:
    labels = spec.pop("labels", {})
    view = SiteView(site(name, spec, labels=labels), found, NOW - timedelta(seconds=seen))
    return replace(view, capacity=Capacity({"CPU": 8.0}, {"CPU": cpus}))


def runs(of: AutoGLMDeployment, count: int, ready: int | None = None, message: str = "") -> ApplicationView:
    parts = ({"name": "Engine", "num_replicas": count},)
    found = application(of, ready=count if ready is None else ready, message=message)
    status = found.status if found.ready_replicas >= count else "DEPLOYING"
    return replace(found, deployments=parts, target_replicas=count, status=status)


def decide(of: AutoGLMDeployment, *views: SiteView, at: datetime = NOW) -> Plan:
    return reconcile(of, Observed(sites=views, gateways=(gateway(),), deployments=(of,)), at)


def puts(plan: Plan) -> dict[str, int]:
    made = (one for one in plan.applications if isinstance(one, ApplyApplication))
    return {one.site: one.application["deployments"][0]["num_replicas"] for one in made}


def why(plan: Plan, name: str) -> str:
    assert plan.status.placement is not None
    return next(row.why for row in plan.status.placement.sites if row.name == name)


def test_replicas_go_where_they_cost_least_and_the_rest_where_there_is_room() -> None:
    plan = decide(asks(3), place("cheap", cpus=2.0, price=1.0), place("dear", price=2.0))
    assert puts(plan) == {"cheap": 2, "dear": 1}
    assert [end.site for route in plan.routes for end in route.endpoints] == ["cheap", "dear"]
    assert plan.status.placement is not None
    assert plan.status.placement.price == 4.0
    assert plan.status.placement.reason.startswith("first placement")
    assert why(plan, "cheap") == "2 of 2 that fit; a replica costs 1 an hour"


def test_encoders_take_their_place_before_the_replicas_where_none_run_yet() -> None:
    of = asks(4, encoder={"min": 2, "max": 8, "cpu": 1})
    assert puts(decide(of, place("a", cpus=4.0))) == {"a": 2}, "two encoders with a core each"
    grown = puts(decide(of, place("a", runs(of, 2), cpus=1.0)))
    assert grown == {"a": 3}, "they run, so what is free is without them"
    assert puts(decide(asks(4), place("a", cpus=4.0))) == {"a": 4}


def test_the_encoders_of_a_candidate_keep_their_place_until_they_run() -> None:
    """It brings its own: a replica more in their place, and the rollout would wait for ever."""
    of = asks(4, encoder={"min": 2, "max": 8, "cpu": 1}, rollout={"steps": [{"weight": 50}], "maxSurge": 1})
    status = with_status(of, decide(of, place("a", runs(of, 2), cpus=3.0))).status
    assert status is not None
    assert status.rollout is not None
    assert status.rollout.candidate is None
    rolls = status.model_copy(update={"rollout": status.rollout.model_copy(update={"candidate": "r-0123456789"})})
    stable = runs(of, 2)
    beside = replace(runs(of, 1), name=f"{stable.name}.2")

    def room(known: DeploymentStatus, *there: ApplicationView) -> str:
        found = allocate(
            of.model_copy(update={"status": known}), wanted_worker(of), (place("a", *there, cpus=3.0),), NOW
        )
        assert found is not None
        (row,) = found.status.sites
        return row.why.partition(";")[0]

    assert room(status, stable) == "4 of 5 that fit"
    assert room(rolls, stable) == "3 of 3 that fit", "two cores are for its encoders"
    assert room(rolls, stable, beside).endswith("that fit")
    assert room(rolls, stable, beside) != room(rolls, stable), "they run, so what is free is without them"


def test_latency_has_a_price() -> None:
    far = place("far", price=1.0, link={"rtt": "500ms", "bandwidth": "8Mbit"})
    near = place("near", price=1.5)
    assert puts(decide(asks(1), far, near)) == {"near": 1}
    assert puts(decide(asks(1, {"latencyWeight": 0}), far, near)) == {"far": 1}


def test_a_replica_takes_all_its_accelerators_at_one_site() -> None:
    four = asks(2, worker={"accelerator": {"type": "gpu"}}, engine={"parallelism": {"tensor": 4}})
    small = replace(place("small"), capacity=Capacity({"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 3}))
    large = replace(place("large", price=9.0), capacity=Capacity({"CPU": 8, "GPU": 8}, {"CPU": 8, "GPU": 8}))
    plan = decide(four, small, large)
    assert puts(plan) == {"large": 2}
    assert why(plan, "small") == "no replica fits into what is free"


def test_sites_are_ruled_out_by_residency_and_by_round_trip_and_it_is_said() -> None:
    eu = place("eu", price=9.0, labels={RESIDENCY: "eu"}, link={"rtt": "20ms"})
    us = place("us", labels={RESIDENCY: "us"})
    slow = place("slow", labels={RESIDENCY: "eu"}, link={"rtt": "200ms"})
    plan = decide(asks(1, {"residency": ["eu"], "maxRtt": "100ms"}), eu, us, slow)
    assert puts(plan) == {"eu": 1}
    assert "us: spec.placement.residency does not allow it" in why(plan, "us")
    assert "200ms is above spec.placement.maxRtt 100ms" in why(plan, "slow")


def test_a_site_that_serves_is_not_left_because_its_round_trip_is_a_little_longer_under_load() -> None:
    of, near = asks(1, {"maxRtt": "100ms"}), place("near", price=9.0, link={"rtt": "10ms"})

    def at(rtt: str) -> SiteView:
        return place("cheap", runs(of, 1), link={"rtt": rtt})

    serving = with_status(of, decide(of, near, at("80ms")))
    assert "is above" not in why(decide(serving, near, at("140ms")), "cheap")
    assert "160ms is above spec.placement.maxRtt 100ms" in why(decide(serving, near, at("160ms")), "cheap")
    unused = place("cheap", link={"rtt": "140ms"})
    assert "140ms is above spec.placement.maxRtt 100ms" in why(decide(of, near, unused), "cheap")


def test_replicas_are_spread_over_sites_and_domains() -> None:
    zone = "topology.kubernetes.io/region"
    views = (
        place("a", price=1.0, labels={zone: "north"}),
        place("b", price=1.1, labels={zone: "north"}),
        place("c", price=9.0, labels={zone: "south"}),
    )
    assert puts(decide(asks(2, {"spread": {"minSites": 2}}), *views)) == {"a": 1, "b": 1}
    assert puts(decide(asks(2, {"spread": {"domainLabel": zone, "maxPerDomain": 1}}), *views)) == {"a": 1, "c": 1}


def test_what_cannot_be_had_is_said_and_ready_is_false() -> None:
    plan = decide(asks(3), place("a", cpus=1.0))
    assert puts(plan) == {"a": 1}
    assert condition(plan, "SitesReady") == ("False", "InsufficientResources")
    none = decide(asks(3), place("a", cpus=0.0))
    assert puts(none) == {}
    assert condition(none, "Ready") == ("False", "InsufficientResources")


def test_a_saturated_site_keeps_its_replicas_until_others_are_ready_elsewhere() -> None:
    of = asks(3)
    stuck = runs(of, 3, ready=1, message="Engine: 2 replicas are taking long to be scheduled")
    first = decide(of, place("full", stuck, cpus=0.0, price=1.0), place("free", price=5.0))
    assert puts(first) == {"free": 2, "full": 1}, "replicas that never started are no loss"
    of = with_status(of, first)
    later = decide(of, place("full", runs(of, 1), cpus=0.0, price=1.0), place("free", runs(of, 2), price=5.0))
    assert later.applications == ()
    assert "full" in str(first.status.placement and first.status.placement.reason)


def test_what_a_site_cannot_hold_any_more_moves_away_and_comes_back_replica_by_replica_when_it_can() -> None:
    of = asks(3, {"settle": "0s"}, sites={"names": ["cheap", "dear"]})
    world = World(of, {"cheap": {}, "dear": {}}, cpus=4.0, prices={"cheap": 1.0, "dear": 5.0})

    def ready() -> dict[str, int]:
        found = {name: sum(app.ready for app in apps.values()) for name, apps in world.clusters.items()}
        return {name: count for name, count in found.items() if count}

    def on() -> None:
        """Long enough for all moves; meanwhile never fewer replicas are ready than there were, or than asked for."""
        for _ in range(10):
            had = sum(ready().values())
            world.step()
            world.settle()
            world.now += timedelta(seconds=10)
            assert sum(ready().values()) >= min(had, 3)

    on()
    assert ready() == {"cheap": 3}
    world.shrunk["cheap"] = 1.0
    world.settle()
    assert ready() == {"cheap": 1}
    on()
    assert ready() == {"cheap": 1, "dear": 2}
    del world.shrunk["cheap"]
    on()
    assert ready() == {"cheap": 3}


def test_a_cheaper_site_is_moved_to_step_by_step_and_nothing_shrinks_before_it_is_replaced() -> None:
    of = asks(2, {"settle": "0s"})
    cheap, dear = place("cheap", price=1.0), place("dear", runs(of, 2), price=5.0)
    begun = decide(of, cheap, dear)
    assert puts(begun) == {}, "the goal is stored before anything is written: whoever leads next goes on from it"
    assert begun.requeue_after == timedelta(0)
    of = with_status(of, begun)
    first = decide(of, cheap, dear)
    assert puts(first) == {"cheap": 1}
    of = with_status(of, first)
    starting = decide(of, place("cheap", runs(of, 1, ready=0), price=1.0), dear)
    assert puts(starting) == {}
    arrived = decide(of, place("cheap", runs(of, 1), price=1.0), dear)
    assert puts(arrived) == {"dear": 1}
    of = with_status(of, arrived)
    halfway = (place("cheap", runs(of, 1), price=1.0), place("dear", runs(of, 1), price=5.0))
    of = with_status(of, decide(of, *halfway))
    assert puts(decide(of, *halfway)) == {"cheap": 2}


def test_after_a_move_the_next_one_waits_until_the_placement_has_settled() -> None:
    of = asks(2)
    moving = decide(of, place("cheap", price=1.0), place("dear", runs(of, 2), price=5.0))
    of = with_status(of, moving)
    views = (place("cheap", runs(of, 1), price=1.0), place("dear", runs(of, 1), price=5.0))
    assert puts(decide(of, *views)) == {}
    late = NOW + timedelta(minutes=6)
    fresh = tuple(replace(view, observed_at=late) for view in views)
    of = with_status(of, decide(of, *fresh, at=late))
    assert puts(decide(of, *fresh, at=late)) == {"cheap": 2}


def test_a_silent_site_is_replaced_after_the_grace_and_not_before() -> None:
    of = asks(1, {"grace": "2m"})
    of = with_status(of, decide(of, place("a", runs(of, 1), price=1.0), place("b", price=5.0)))
    for silent, expected in ((100, {}), (130, {"b": 1})):
        away = replace(place("a", runs(of, 1), price=1.0, seen=silent), error=DOWN, failures=9)
        plan = decide(of, away, place("b", price=5.0))
        assert puts(plan) == expected
        assert not any(isinstance(one, DeleteApplication) for one in plan.applications), "a silent site is never shrunk"
        assert [end.site for end in plan.routes[0].endpoints if end.site == "a"] == ["a"]


def test_the_grace_of_a_site_that_a_new_operator_finds_silent_counts_from_its_first_attempt() -> None:
    """The stored status says since when the site is as it is, not when it was last heard."""
    of = asks(1, {"grace": "2m"})
    of = with_status(of, decide(of, place("a", runs(of, 1), price=1.0), place("b", price=5.0)))
    for hours, in_vain, expected in ((9, 100, {}), (9, 130, {"b": 1})):
        now = NOW + timedelta(hours=hours)
        silent = SiteView(site("a"), error=DOWN, failures=1, silent_since=now - timedelta(seconds=in_vain))
        dear = replace(place("b", price=5.0), observed_at=now)
        assert puts(decide(of, silent, dear, at=now)) == expected


def test_a_site_that_comes_back_takes_over_again_if_it_is_cheaper() -> None:
    of = asks(1)
    back = decide(of, place("a", runs(of, 1), price=1.0), place("b", runs(of, 1), price=5.0))
    assert back.status.placement is not None
    assert {row.name: row.replicas for row in back.status.placement.sites} == {"a": 1, "b": 0}


def test_the_status_is_not_written_again_because_a_price_or_a_free_core_moved() -> None:
    of = asks(2)
    first = decide(of, place("a", runs(of, 2), price=1.0))
    of = with_status(of, first)
    again = decide(of, place("a", runs(of, 2), price=1.01, cpus=5.0))
    assert again.status == first.status


@pytest.mark.parametrize("ready", [0, 2])
def test_the_surge_of_a_rollout_asks_for_no_surge_of_its_own_when_another_site_is_in_trouble(ready: int) -> None:
    of = asks(4, {"spread": {"maxPerSite": 2}}, rollout={"maxSurge": 1, "steps": [{"weight": 50}]})
    of = with_status(of, decide(of, place("a", runs(of, 2)), place("b", runs(of, 2))))
    assert of.status is not None
    assert of.status.placement is not None
    stable = runs(of, 2)
    beside = replace(runs(of, 1), name=f"{stable.name}.2")
    views = (place("a", stable, beside), place("b", runs(of, 2, ready=ready)))
    found = allocate(of, wanted_worker(of), views, NOW)
    assert found is not None
    assert found.now == {"a": 2, "b": 2}


def wanted_worker(of: AutoGLMDeployment) -> Worker:
    return applications.config(of).worker


QUORUM = {"sites": {"quorum": 60}}


@pytest.mark.parametrize(("sites", "is_ready"), [({"quorum": 60}, True), ({"quorum": 70}, False), ({}, False)])
def test_ready_needs_a_quorum_of_the_sites_and_degraded_tells_of_the_rest(
    sites: dict[str, Any], is_ready: bool
) -> None:
    of = deployment({"sites": sites})
    views = tuple(place(name, application(of)) for name in "abc")
    silent = (*views[:2], replace(views[2], error=DOWN, observed_at=NOW - timedelta(minutes=5), failures=9))
    observed = Observed(sites=silent, gateways=(gateway(*admitted(of, "a", "b")),), deployments=(of,))
    observed = replace(observed, published=Published(1, 1, reconcile(of, observed, NOW).routes))
    plan = reconcile(of, observed, NOW)
    assert (condition(plan, "Ready")[0] == "True") is is_ready
    assert condition(plan, "Degraded")[0] == "True"
    if is_ready:
        assert condition(plan, "SitesReady") == ("True", "Quorum")


def test_a_deployment_without_placement_runs_everywhere_as_before() -> None:
    of = deployment({"replicas": 2})
    plan = decide(of, place("a", cpus=0.0), place("b", price=9.0))
    assert puts(plan) == {"a": 2, "b": 2}
    assert plan.status.placement is None
    assert isinstance(plan.status, DeploymentStatus)
    assert wanted(of).replicas == 2


def pods(name: str, *found: ApplicationView, cpus: float | None, **spec: Any) -> SiteView:
    """A site with KubeRay and one machine with so many free processors; None where it does not tell."""
    view = SiteView(kube.site(name), found, NOW - timedelta(seconds=2))
    if cpus is None:
        return view
    free = {"CPU": cpus, "memory": 64 * 2.0**30}
    return replace(view, capacity=Capacity(free, free, (free,)))


def test_a_kuberay_site_gets_what_fits_beside_the_head_of_its_ray_cluster() -> None:
    dear = place("dear", price=9.0)
    assert puts(decide(asks(3), pods("small", cpus=4.0), dear)) == {"small": 2, "dear": 1}
    assert puts(decide(asks(3), pods("small", cpus=2.0), dear)) == {"dear": 3}, "room for the head alone"
    assert puts(decide(asks(3), pods("small", cpus=None), dear)) == {"small": 3}, "it does not tell, and is tried"


def test_a_site_that_is_too_small_and_does_not_tell_is_not_tried_again_and_again() -> None:
    """The site is the cheapest. What waits there is taken away, and then nothing says any more that it did not fit."""
    of, at, tries = asks(2, {"settle": "0s"}), NOW, 0
    small, dear, refusals = 0, 0, 0
    for _ in range(60):
        message = "Engine: 2 replicas are taking long to be scheduled" if small else ""
        there = (runs(of, small, ready=0, message=message),) if small else ()
        views = (
            replace(pods("small", *there, cpus=None), observed_at=at),
            replace(place("dear", *((runs(of, dear),) if dear else ()), price=9.0), observed_at=at),
        )
        allocated = allocate(of, Worker(cpus=1.0), views, at)
        assert allocated is not None
        tries += allocated.now.get("small", 0) > small == 0
        small, dear = (allocated.now.get(name, 0) for name in ("small", "dear"))
        refusals = max(row.refusals or 0 for row in allocated.status.sites)
        of = of.model_copy(update={"status": DeploymentStatus(placement=allocated.status)})
        at += timedelta(seconds=30)
    assert dear == 2
    assert tries <= 3, "in half an hour: at the start, after ten minutes, and not before another twenty"
    assert refusals >= 2


def test_a_site_that_refused_replicas_is_tried_again_within_the_hour_and_it_is_said_when() -> None:
    """After some refusals in a row it was left out for up to six hours, also where it ran all that it was asked for since."""

    def row(refusals: int, minutes: int, *there: ApplicationView) -> tuple[str, int | None]:
        of = asks(4)
        before = decide(of, place("a", *there)).status
        assert before.placement is not None
        past = NOW - timedelta(minutes=minutes)
        sites = [one.model_copy(update={"refused_at": past, "refusals": refusals}) for one in before.placement.sites]
        known = before.model_copy(update={"placement": before.placement.model_copy(update={"sites": tuple(sites)})})
        found = allocate(of.model_copy(update={"status": known}), wanted_worker(of), (place("a", *there),), NOW)
        assert found is not None
        return found.status.sites[0].why, found.now.get("a")

    why_not, count = row(9, 50)
    until = f"{NOW + timedelta(minutes=10):%Y-%m-%dT%H:%M:%SZ}"
    assert (why_not.partition(": ")[0], count) == (f"no further replica until {until}", None)
    assert row(9, 61)[1] == 4
    runs_all = runs(asks(4), 2)
    assert row(9, 5, runs_all)[1] == 2
    assert row(9, 11, runs_all)[1] == 4, "it runs all that it was asked for"
    assert row(9, 11, runs(asks(4), 2, ready=1))[1] == 2


STUCK = "Engine: Deployment 'Engine' has 2 replicas that have taken more than 30s to be scheduled."


@pytest.mark.parametrize(("minutes", "expected"), [(2, {"pods": 2}), (11, {"dear": 2})])
def test_worker_pods_get_time_to_start_before_what_waits_counts_as_refused(
    minutes: int, expected: dict[str, int]
) -> None:
    of = asks(2)
    service = kube.view("pods", kube.stored(of, "pods")).applications
    assert service
    waits = replace(service[0], ready_replicas=0, status="DEPLOYING", message=STUCK)
    waits = replace(waits, deployed_at=NOW - timedelta(minutes=minutes))
    found = allocate(of, Worker(cpus=1.0), (pods("pods", waits, cpus=None), place("dear", price=9.0)), NOW)
    assert found is not None
    assert found.now == expected


def test_what_waits_is_not_taken_away_where_no_site_has_room() -> None:
    of = asks(2)
    waits = runs(of, 3, ready=0, message=STUCK)
    plan = decide(of, place("full", waits, cpus=0.0))
    assert not any(isinstance(one, DeleteApplication) for one in plan.applications)
    assert puts(plan) == {"full": 2}, "no more of them than the spec asks for"
    assert condition(plan, "SitesReady") == ("False", "InsufficientResources")
    assert why(plan, "full").startswith("2 waiting for room")
    again = decide(with_status(of, plan), place("full", runs(of, 2, ready=0, message=STUCK), cpus=0.0))
    assert again.applications == ()
