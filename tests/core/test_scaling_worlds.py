"""Deployments that scale, decision by decision: sites, placement, sleep, rollouts, missing figures, and what is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator import scaled
from autoglm_operator.api import ScaledSite, ScalingStatus
from autoglm_operator.placement import MAX_SITES
from autoglm_operator.reconcile import reconcile
from autoglm_operator.scaling.history import told
from autoglm_operator.scaling.terms import Load, SiteLoad
from autoglm_operator.state import Observed, Plan
from support import fleet, kube
from support.simulation import World

WINDOW = timedelta(minutes=5)


@dataclass
class Scaling:
    """A world in which gateways tell a load every ten seconds."""

    world: World
    load: Mapping[str, float] = field(default_factory=dict)
    complete: bool = True
    tells: bool = True
    asked_ago: float | None = None
    plans: list[Plan] = field(default_factory=list)

    def go_on(self, seconds: float) -> None:
        """Time goes by; everything that starts is there ten seconds later."""
        for _ in range(round(seconds / 10)):
            world = self.world
            if self.tells:
                asked = None if self.asked_ago is None else world.now - timedelta(seconds=self.asked_ago)
                sites = {name: SiteLoad(count) for name, count in self.load.items() if count}
                status = world.deployment.status
                ready = {row.name: row.ready for row in (status.sites if status else ())}
                world.load = told(world.load, Load(sites, asked, self.complete, ready), world.now, self.window)
            self.plans.append(world.step())
            if not self.plans[-1].requeue_after:
                assert self.plans[-1].applications == (), "a number is stored before it is carried out"
                self.plans.append(world.step())
            world.settle()
            world.now += timedelta(seconds=10)
            if self.asked_ago is not None:
                self.asked_ago += 10

    @property
    def window(self) -> timedelta:
        policy = scaled.policy(self.world.deployment)
        return WINDOW if policy is None else policy.window

    @property
    def status(self) -> ScalingStatus:
        status = self.world.deployment.status
        assert status is not None
        assert status.scaling is not None
        return status.scaling

    @property
    def desired(self) -> dict[str, int]:
        return {row.name: row.desired for row in self.status.sites}

    def row(self, name: str) -> ScaledSite:
        return next(row for row in self.status.sites if row.name == name)

    @property
    def running(self) -> dict[str, int]:
        return {
            site: sum(app.replicas for app in apps.values() if app.status != "DELETING")
            for site, apps in self.world.clusters.items()
        }

    @property
    def events(self) -> list[str]:
        return [f"{event.reason}: {event.message}" for plan in self.plans for event in plan.events]

    def condition(self, kind: str) -> tuple[str, str]:
        return fleet.condition(self.plans[-1], kind)


def scaling(spec: Mapping[str, Any] | None = None, *sites: str, **more: Any) -> Scaling:
    """A deployment that scales from 1 to 8 at these sites, and is Ready. One replica does four requests at once."""
    policy = {"max": 8} | dict(spec or {})
    made = Scaling(World(fleet.deployment({"scaling": policy, **more}), {name: {} for name in sites or ("a",)}))
    made.go_on(60)
    assert made.condition("Ready") == ("True", "Answering")
    return made


def test_each_site_follows_its_own_load_and_says_why() -> None:
    one = scaling(None, "a", "b")
    assert one.desired == one.running == {"a": 1, "b": 1}
    assert one.condition("ScalingActive") == ("True", "FollowingLoad")
    one.load = {"a": 11.0, "b": 3.0}
    one.go_on(60)
    assert one.desired == one.running == {"a": 3, "b": 1}
    row = one.row("a")
    assert (row.reason, row.message) == ("LoadRose", "11 requests under way, 4 for each replica")
    assert row.took == "10s"
    assert "ScaledUp: a: 1 -> 3 replicas: 11 requests under way, 4 for each replica" in one.events
    assert [(one.site, one.before, one.after) for one in one.status.decisions] == [("a", 1, 3)]
    one.load = {"b": 3.0}
    one.go_on(290)
    assert one.desired == {"a": 3, "b": 1}, "the window is not over"
    one.go_on(60)
    assert one.desired == one.running == {"a": 1, "b": 1}
    assert "ScaledDown: a: 3 -> 1 replicas: at most 0 requests under way for 5m, 4 for each replica" in one.events


def test_it_stays_ready_while_more_replicas_than_the_fewest_are_on_their_way_or_find_no_room() -> None:
    one = scaling()
    one.world.shrunk = {"a": 2}
    one.load = {"a": 30.0}
    one.go_on(120)
    assert one.desired["a"] > 2
    assert all(fleet.condition(plan, "Ready")[0] == "True" for plan in one.plans[6:])
    assert one.condition("Degraded") == ("True", "InsufficientResources")
    one.world.shrunk = {"a": 0}
    for app in one.world.clusters["a"].values():
        app.ready = 0
    one.go_on(20)
    assert one.condition("Ready")[0] == "False", "the fewest are missing"


def test_a_gateway_that_is_silent_for_a_moment_does_not_make_it_forget_what_runs_while_more_start() -> None:
    one = scaling()
    one.world.shrunk = {"a": 1}
    one.load = {"a": 11.0}
    one.go_on(60)
    assert (one.desired, one.condition("Ready")[0]) == ({"a": 3}, "True")
    one.world.mute = 1
    one.go_on(120)
    assert one.condition("GatewayReady")[0] == one.condition("Ready")[0] == "Unknown"
    one.world.mute = 0
    one.go_on(20)
    assert one.condition("Ready") == ("True", "Answering")
    status = one.world.deployment.status
    assert status is not None
    assert status.replicas_ready == "1/3"


def test_nothing_is_written_while_the_load_moves_within_the_band() -> None:
    one = scaling()
    one.load = {"a": 11.0}
    one.go_on(600)
    before = one.world.deployment.status
    for number in range(120):
        one.load = {"a": 11.0 + (number % 7) / 7}
        one.go_on(10)
    assert one.world.deployment.status is before


def test_the_last_numbers_hold_while_nobody_tells_the_load() -> None:
    one = scaling()
    one.load = {"a": 11.0}
    one.go_on(60)
    one.tells, one.load = False, {}
    one.go_on(1800)
    assert one.desired == {"a": 3}
    assert one.condition("ScalingActive") == ("Unknown", "LoadUnknown")
    assert one.condition("Ready") == ("True", "Answering"), "what runs answers"
    one.tells = True
    one.go_on(290)
    assert one.desired == {"a": 3}, "a whole window has to be seen first"
    assert one.condition("ScalingActive") == ("True", "FollowingLoad")
    one.go_on(60)
    assert one.desired == {"a": 1}


def test_what_only_some_gateways_tell_raises_and_does_not_lower() -> None:
    one = scaling()
    one.complete = False
    one.load = {"a": 11.0}
    one.go_on(60)
    assert one.desired == {"a": 3}
    assert one.condition("ScalingActive") == ("Unknown", "LoadUnknown")
    one.load = {}
    one.go_on(1800)
    assert one.desired == {"a": 3}


def test_a_load_beyond_the_maximum_is_told() -> None:
    one = scaling({"max": 2})
    one.load = {"a": 40.0}
    one.go_on(120)
    assert one.desired == {"a": 2}
    assert one.condition("ScalingActive") == ("True", "AtMaximum")
    one.load = {"a": 7.0}
    one.go_on(400)
    assert one.condition("ScalingActive") == ("True", "FollowingLoad")


def test_new_bounds_hold_at_once() -> None:
    one = scaling()
    one.load = {"a": 30.0}
    one.go_on(120)
    assert one.desired == {"a": 8}
    old = one.world.deployment
    new = fleet.deployment({"scaling": {"max": 3}}, generation=2)
    one.world.deployment = new.model_copy(update={"status": old.status, "metadata": new.metadata})
    one.go_on(20)
    assert one.desired == one.running == {"a": 3}
    assert one.row("a").reason == "Bounds"


def test_who_has_replicas_already_keeps_them_when_scaling_begins() -> None:
    fixed = World(fleet.deployment({"replicas": 5}), {"a": {}, "b": {}})
    fixed.converge()
    new = fleet.deployment({"scaling": {"max": 4}}, generation=2)
    fixed.deployment = new.model_copy(update={"status": fixed.deployment.status})
    one = Scaling(fixed)
    one.go_on(10)
    assert one.desired == {"a": 4, "b": 4}
    assert one.row("a").message == "5 ran already"


@pytest.mark.parametrize("replicas", [None, 3])
def test_once_scaling_is_taken_out_the_number_of_the_spec_holds_at_once(replicas: int | None) -> None:
    one = scaling()
    one.load = {"a": 11.0}
    one.go_on(60)
    assert one.running == {"a": 3}
    new = fleet.deployment({} if replicas is None else {"replicas": replicas}, generation=2)
    one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
    one.go_on(10)
    assert one.running == {"a": replicas or 1}, "docs/scaling.md says so"
    assert one.plans[-1].status.scaling is None


# None at all


def asleep(*sites: str) -> Scaling:
    """One that nobody asked for."""
    one = scaling({"min": 0}, *sites)
    one.go_on(330)
    return one


def test_without_requests_there_are_no_replicas_and_the_route_stays() -> None:
    one = asleep("a", "b")
    assert one.desired == {"a": 0, "b": 0}
    assert one.world.clusters == {"a": {}, "b": {}}
    assert one.condition("Ready") == ("False", "ScaledToZero")
    assert one.condition("ScalingActive") == ("True", "ScaledToZero")
    (route,) = one.plans[-1].routes
    assert (route.asleep, route.suspended, route.endpoints) == (True, True, ())
    before = one.world.deployment.status
    one.go_on(600)
    assert one.world.deployment.status is before


def stuck(spec: Mapping[str, Any]) -> Scaling:
    """One that serves by two gateways, of which one gets no other table for now."""
    one = scaling(spec)
    assert one.world.table is not None
    one.world.gateways, one.world.stuck_at = 2, one.world.table.version
    return one


def test_what_falls_asleep_runs_until_every_gateway_has_left_it() -> None:
    one = stuck({"min": 0})
    one.go_on(600)
    assert one.desired == {"a": 0}
    assert one.plans[-1].routes[0].asleep is True
    assert one.running == {"a": 1}, "the second gateway still sends requests there: without replicas they would fail"
    (row,) = one.plans[-1].status.sites
    assert row.message == "no replicas are needed; gateways are being told"
    one.world.stuck_at = None
    one.go_on(10)
    assert one.running == {"a": 0}


def test_what_is_suspended_goes_at_once() -> None:
    one = stuck({"min": 0})
    new = fleet.deployment({"scaling": {"min": 0, "max": 8}, "suspend": True}, generation=2)
    one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
    one.world.step()
    one.world.settle()
    assert one.running == {"a": 0}


def test_a_request_wakes_it_at_all_sites_also_if_one_gateway_alone_tells() -> None:
    one = asleep("a", "b")
    one.asked_ago, one.complete = 1.0, False
    one.go_on(10)
    assert one.desired == {"a": 1, "b": 1}
    one.go_on(20)
    assert one.running == {"a": 1, "b": 1}
    assert one.condition("Ready") == ("True", "Answering")
    assert one.plans[-1].routes[0].asleep is None
    assert "ScaledUp: a: 0 -> 1 replicas: a request came" in one.events
    one.complete = True
    one.go_on(290)
    assert one.desired == {"a": 1, "b": 1}
    one.go_on(60)
    assert one.desired == {"a": 0, "b": 0}


def test_a_model_that_takes_longer_to_start_than_the_window_is_not_put_to_sleep_on_its_way() -> None:
    one = scaling({"min": 0, "downAfter": "60s"})
    one.go_on(90)
    assert one.desired == {"a": 0}
    one.world.shrunk = {"a": 0}
    one.asked_ago = 1.0
    one.go_on(600)
    assert one.desired == {"a": 1}, "it starts, however long that takes"
    one.world.shrunk = {}
    one.go_on(30)
    assert one.condition("Ready") == ("True", "Answering"), "who asked has time to ask again"
    one.go_on(80)
    assert one.desired == {"a": 0}


@pytest.mark.parametrize(("window", "limit"), [("60s", 1800 + 60), ("40m", 2400 + 2400)])
@pytest.mark.parametrize("why", ["there is no room", "the site is silent"])
def test_a_site_that_never_gets_its_replica_does_not_keep_the_others_awake_for_ever(
    window: str, limit: float, why: str
) -> None:
    one = scaling({"min": 0, "max": 8, "downAfter": window}, "a", "b")
    one.go_on(2500)
    assert one.desired == {"a": 0, "b": 0}
    if why == "there is no room":
        one.world.shrunk = {"b": 0}
    else:
        one.world.cut("b")
    one.asked_ago = 1.0
    one.go_on(limit)
    assert one.desired == {"a": 1, "b": 1}, "it may still come"
    again = one.plans[-1].requeue_after
    assert again is not None
    assert again <= timedelta(seconds=20), "nobody else wakes it"
    one.go_on(30)
    assert one.desired == {"a": 0, "b": 0}


def test_a_request_of_before_it_fell_asleep_does_not_wake_it() -> None:
    one = scaling({"min": 0})
    one.asked_ago = 0.0
    one.go_on(320)
    assert one.desired == {"a": 0}
    one.go_on(600)
    assert one.desired == {"a": 0}


def test_it_does_not_fall_asleep_while_requests_come_that_are_short() -> None:
    one = scaling({"min": 0})
    for _ in range(60):
        one.asked_ago = 200.0
        one.go_on(10)
    assert one.desired == {"a": 1}


def test_a_new_leader_does_not_put_it_to_sleep_before_it_has_seen_a_window() -> None:
    one = scaling({"min": 0})
    one.go_on(200)
    one.world.load = None
    one.go_on(290)
    assert one.desired == {"a": 1}
    one.go_on(30)
    assert one.desired == {"a": 0}


def test_a_minimum_above_none_wakes_it() -> None:
    one = asleep()
    new = fleet.deployment({"scaling": {"min": 2, "max": 8}}, generation=2)
    one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
    one.go_on(10)
    assert one.desired == {"a": 2}


# Together with the rest


def test_more_sites_than_a_status_has_room_for_are_not_selected_so_that_each_that_is_has_its_number() -> None:
    names = [f"site-{number:03}" for number in range(300)]
    one = scaling(None, *names)
    assert sorted(one.desired) == names[:MAX_SITES]
    one.load = dict.fromkeys(names, 11.0)
    one.go_on(60)
    assert set(one.desired.values()) == {3}
    assert ScalingStatus.model_validate(one.status.model_dump()) == one.status, "it can be stored"


def test_with_placement_the_load_of_all_sites_asks_for_one_number_that_is_placed() -> None:
    one = scaling(None, "a", "b", placement={"spread": {"maxPerSite": 3}})
    assert one.desired == {"*": 1}
    one.load = {"a": 18.0}
    one.go_on(120)
    assert one.desired == {"*": 5}
    assert sorted(one.running.values()) == [2, 3]
    assert "ScaledUp: 1 -> 5 replicas: 18 requests under way, 4 for each replica" in one.events
    one.load = {}
    one.go_on(420)
    assert one.desired == {"*": 1}
    assert sum(one.running.values()) == 1


def test_suspension_wins_and_scaling_begins_anew_after_it() -> None:
    one = scaling()
    one.load = {"a": 30.0}
    one.go_on(60)
    spec = {"scaling": {"max": 8}}
    for generation, suspend in ((2, True), (3, False)):
        new = fleet.deployment(spec | {"suspend": suspend}, generation=generation)
        one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
        one.load = {}
        one.go_on(60)
        status = one.world.deployment.status
        assert status is not None
        assert (status.scaling is None) is suspend
        assert one.running == {"a": 0 if suspend else 1}
        assert ("ScalingActive" in {each.type for each in status.conditions}) is not suspend


def test_during_a_rollout_in_steps_replicas_are_added_and_none_taken_away() -> None:
    rollout = {"maxSurge": 1, "steps": [{"weight": 50, "approval": True}]}
    one = scaling({"min": 0}, rollout=rollout)
    one.load, one.asked_ago = {"a": 11.0}, 0.0
    one.go_on(60)
    assert one.desired == {"a": 3}
    new = fleet.deployment(
        {"scaling": {"min": 0, "max": 8}, "rollout": rollout, "engine": {"maxConcurrency": 4, "maxModelLen": 8192}},
        generation=2,
    )
    one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
    one.load = {}
    one.go_on(900)
    assert one.desired == {"a": 3}, "the load fell, and both revisions keep what they have"
    assert one.running == {"a": 4}, "with the surge"
    one.load = {"a": 19.0}
    one.go_on(120)
    assert one.desired == {"a": 5}
    assert one.running == {"a": 6}


def test_a_paused_rollout_holds_the_number() -> None:
    rollout = {"maxSurge": 1, "steps": [{"weight": 50, "approval": True}]}
    one = scaling(None, rollout=rollout)
    engine = {"maxConcurrency": 4, "maxModelLen": 8192}
    for generation, paused, load, desired in ((2, False, 0.0, 1), (3, True, 11.0, 1), (4, False, 11.0, 3)):
        spec = {"scaling": {"max": 8}, "rollout": rollout | {"paused": paused}, "engine": engine}
        new = fleet.deployment(spec, generation=generation)
        one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
        one.go_on(20)
        one.load = {"a": load}
        one.go_on(120)
        assert one.desired == {"a": desired}
        assert one.running == {"a": desired + 1}, "with the surge"


def test_a_silent_site_keeps_its_number() -> None:
    one = scaling(None, "a", "b")
    one.load = {"a": 11.0, "b": 11.0}
    one.go_on(60)
    one.world.cut("b")
    one.load = {}
    one.go_on(900)
    assert one.desired == {"a": 1, "b": 3}
    one.world.mend("b")
    one.go_on(60)
    assert one.desired == {"a": 1, "b": 1}


@pytest.mark.parametrize("placement", [None, {"spread": {"maxPerSite": 6}}])
def test_a_site_that_is_not_selected_any_more_waits_for_the_fewest_replicas_elsewhere_and_for_no_others(
    placement: dict[str, Any] | None,
) -> None:
    more: dict[str, Any] = {} if placement is None else {"placement": placement}
    one = scaling({"min": 2, "max": 8}, "a", "b", **more)
    one.world.shrunk, one.load = {"b": 1}, {"b": 30.0}
    one.go_on(60)
    new = fleet.deployment({"scaling": {"min": 2, "max": 8}, "sites": {"names": ["b"]}, **more}, generation=2)
    one.world.deployment = new.model_copy(update={"status": one.world.deployment.status})
    one.go_on(300)
    assert one.running["a"] > 0, "one replica is fewer than the fewest"
    one.world.shrunk = {"b": 2}
    one.go_on(60 if placement is None else 900)  # placement tries again after a while where there was no room
    assert [row.desired for row in one.status.sites] == [8], "there is no room for so many"
    assert [(row.name, row.ready) for row in one.plans[-1].status.sites] == [("b", 2)]
    assert one.running["a"] == 0


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_pods_of_a_kuberay_site_follow_as_well(replicas: int) -> None:
    rows = [{"name": "pods", "desired": 1, "reason": "Started", "since": "2026-03-01T11:00:00Z"}]
    of = fleet.deployment({"scaling": {"max": 8}}, status={"scaling": {"sites": rows}})
    running = kube.view("pods", kube.stored(of, "pods"))
    history = told(None, Load({"pods": SiteLoad(3.9 * replicas)}), fleet.NOW, WINDOW)
    plan = reconcile(of, Observed(sites=(running,), load=history), fleet.NOW)
    plan = reconcile(fleet.with_status(of, plan), Observed(sites=(running,), load=history), fleet.NOW)
    assert plan.status.sites[0].desired == replicas
    if replicas > 1:
        (change,) = plan.applications
        assert change.application["deployments"][0]["num_replicas"] == replicas  # type: ignore[union-attr]
        assert set(change.workers.values()) <= {replicas}  # type: ignore[union-attr]
