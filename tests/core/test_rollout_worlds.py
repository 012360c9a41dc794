"""Rollouts of whole deployments in a small world of sites and gateways: what is written, routed and told.

Each story is told three times: at sites on Ray clusters that are there, at sites with KubeRay, and at one of each.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoglm_operator.api import AutoGLMDeployment, RolloutStatus
from autoglm_operator.state import Plan
from autoglm_serving.routing_table import Canary
from support import fleet
from support.pod_application import PodApplication
from support.simulation import World

BASE, SECOND = "team.quickstart", "team.quickstart.2"
OLD, NEW, WORSE = ({"engine": {"maxConcurrency": number}} for number in (4, 5, 6))
GOOD = {"requests": 50, "compared": 50, "agreed": 50}
BAD = {"requests": 50, "compared": 50, "agreed": 10}
ROLLOUT = {
    "maxSurge": 1,
    "steps": [{"weight": 0}, {"weight": 30, "hold": "20s"}],
    "mirror": {"percent": 50},
    "gates": [{"metric": "agreement", "minimum": 0.95}],
}
KUBERAY = {"ray": frozenset[str](), "kubeRay": frozenset({"a", "b"}), "both": frozenset({"b"})}
"""Sites with KubeRay in each of the fleets."""
walk = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True, params=list(KUBERAY))
def fleet_of_sites(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the sites of all worlds are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "kuberay", KUBERAY[request.param])
        yield


def spec(change: dict[str, Any], replicas: int = 2, **rollout: Any) -> dict[str, Any]:
    return {**change, "replicas": replicas, "sites": {"names": ["a", "b"]}, "rollout": ROLLOUT | rollout}


def world(replicas: int = 2, *, gateways: int = 1) -> World:
    """A world in which the old revision serves."""
    made = World(fleet.deployment(spec(OLD, replicas)), {"a": {}, "b": {}}, gateways=gateways)
    made.converge()
    return made


def edit(world: World, change: dict[str, Any], *, annotations: dict[str, str] | None = None, **rollout: Any) -> None:
    """The user applies another spec."""
    generation = world.deployment.metadata.generation + 1
    made = fleet.deployment(
        spec(change, world.deployment.spec.replicas, **rollout), generation=generation, annotations=annotations or {}
    )
    world.deployment = made.model_copy(update={"status": world.deployment.status})


def revision(change: dict[str, Any]) -> str:
    return fleet.wanted(fleet.deployment(change)).revision


def rollout(world: World) -> RolloutStatus:
    assert world.deployment.status is not None
    assert world.deployment.status.rollout is not None
    return world.deployment.status.rollout


def condition(world: World, kind: str) -> tuple[str, str]:
    assert world.deployment.status is not None
    return next((one.status, one.reason) for one in world.deployment.status.conditions if one.type == kind)


def canary(world: World) -> Canary | None:
    return world.table.routes[0].canary if world.table else None


def on(world: World, until: Callable[[], bool], limit: int = 60) -> list[Plan]:
    """Goes on until something holds, and checks at every moment what must always hold."""
    plans = []
    for _ in range(limit):
        plans.append(world.step())
        check(world)
        if until():
            return plans
        world.settle()
        check(world)
        world.now += timedelta(seconds=4)
    raise AssertionError(f"not reached: {rollout(world).message}; {[one.reason for one in rollout(world).decisions]}")


def check(world: World) -> None:
    """Never more replicas than wanted and surge, never a share for what does not answer, always somebody who answers."""
    limit = world.deployment.spec.replicas + world.deployment.spec.rollout.max_surge
    for apps in world.clusters.values():
        assert sum(max(app.replicas if app.status != "DELETING" else 0, app.ready) for app in apps.values()) <= limit
        assert sum(app.held for app in apps.values() if isinstance(app, PodApplication)) <= limit, "pods count as well"
    if world.table is None:
        return
    route, of = world.table.routes[0], canary(world)
    serving = [
        world.clusters[end.site][name]
        for end in route.endpoints
        if (name := end.url.rsplit("/", 1)[1]) in world.clusters[end.site]
    ]
    assert any(app.ready and app.serving for app in serving), "somebody answers at a stable address"
    if of is not None and of.weight > 0:
        there = [world.clusters[end.site].get(end.url.rsplit("/", 1)[1]) for end in of.endpoints]
        assert any(app and app.ready and app.serving == of.revision for app in there)


def test_a_first_deployment_needs_no_steps() -> None:
    made = world()
    assert (rollout(made).phase, rollout(made).stable, rollout(made).proven) == ("Stable", revision(OLD), True)
    assert condition(made, "Ready") == ("True", "Answering")
    assert condition(made, "RolledOut") == ("True", "UpToDate")


def test_a_good_revision_takes_over_by_steps_and_the_old_application_goes() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    assert rollout(made).candidate == revision(NEW)
    on(made, lambda: condition(made, "GatewayReady")[0] == "True")
    assert condition(made, "Ready") == ("False", "RollingOut")
    assert condition(made, "SitesReady") == ("True", "UpToDate"), "the old revision serves"
    on(made, lambda: (of := canary(made)) is not None and of.weight == 30)
    assert canary(made).mirror == 50  # type: ignore[union-attr]
    on(made, lambda: rollout(made).stable == revision(NEW))
    made.converge()
    assert [one.action for one in rollout(made).decisions] == ["Started", "Advanced", "Advanced", "Promoted"]
    assert {name for apps in made.clusters.values() for name in apps} == {SECOND}
    assert made.table is not None
    assert {end.url.rsplit("/", 1)[1] for end in made.table.routes[0].endpoints} == {SECOND}
    assert condition(made, "Ready") == ("True", "Answering")
    assert [(one.revision, one.state) for one in rollout(made).revisions] == [
        (revision(OLD), "Retired"),
        (revision(NEW), "Stable"),
    ]


def test_a_revision_that_answers_differently_is_taken_back_and_stays_back() -> None:
    made = world()
    made.figures = {revision(WORSE): BAD}
    edit(made, WORSE)
    plans = on(made, lambda: rollout(made).phase == "RolledBack")
    assert [event.type for plan in plans for event in plan.events if event.reason == "RolledBack"] == ["Warning"]
    made.converge()
    assert (rollout(made).stable, rollout(made).candidate) == (revision(OLD), None)
    assert "agreement: 20.0% of 50" in str(rollout(made).rejected)
    assert condition(made, "Ready") == ("False", "RolledBack")
    assert condition(made, "SitesReady") == ("True", "UpToDate")
    assert {name for apps in made.clusters.values() for name in apps} == {BASE}
    assert canary(made) is None
    made.now += timedelta(hours=1)
    again = made.step()
    assert (again.applications, again.events, canary(made)) == ((), (), None)


def test_a_gateway_that_falls_silent_keeps_no_bad_revision_in_the_traffic() -> None:
    made = world(gateways=2)
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: (of := canary(made)) is not None and of.weight == 30)
    made.figures, made.mute = {revision(NEW): BAD}, 1
    made.now += timedelta(seconds=4)
    made.step()
    assert (rollout(made).phase, canary(made)) == ("RolledBack", None)
    assert "agreement: 20.0% of 50" in str(rollout(made).rejected)


def test_no_traffic_promotes_nothing() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: "too few samples for agreement" in rollout(made).message)
    for _ in range(50):
        made.now += timedelta(minutes=10)
        made.step()
        check(made)
    assert (rollout(made).stable, rollout(made).step) == (revision(OLD), 1)


@pytest.mark.parametrize("how", ["spec", "annotation"])
def test_a_paused_rollout_writes_nothing_and_goes_on_where_it_was(how: str) -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: (of := canary(made)) is not None and of.weight == 30)
    pause: dict[str, Any] = {"annotations": {"serving.autoglm.dev/rollout-pause": "true"}}
    edit(made, NEW, **({"paused": True} if how == "spec" else pause))
    made.converge()
    assert (rollout(made).phase, condition(made, "Ready")) == ("Paused", ("False", "RolloutPaused"))
    table, log, status = made.table, len(made.log), made.deployment.status
    for number in range(20):
        made.figures = {revision(NEW): {**BAD, "requests": number}}
        made.now += timedelta(seconds=7)
        plan = made.step()
        assert (made.table, len(made.log), plan.status, plan.events) == (table, log, status, ())
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: rollout(made).stable == revision(NEW))


def test_going_back_to_a_named_revision_needs_no_steps_and_comes_from_the_history() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: rollout(made).stable == revision(NEW))
    made.converge()
    made.figures = {}
    edit(made, NEW, revision=revision(OLD))
    on(made, lambda: rollout(made).stable == revision(OLD))
    made.converge()
    assert {app.serving for apps in made.clusters.values() for app in apps.values()} == {revision(OLD)}
    args = next(iter(made.clusters["a"].values())).config["args"]
    assert args.get("engine", {}).get("maxConcurrency") == fleet.wanted(fleet.deployment(OLD)).application["args"].get(
        "engine", {}
    ).get("maxConcurrency")


def test_a_revision_that_is_not_in_the_history_is_refused_in_words() -> None:
    made = world()
    edit(made, OLD, revision="0123456789")
    made.converge()
    assert condition(made, "Ready") == ("False", "RolloutBlocked")
    assert "0123456789 is not in the history" in rollout(made).message


def test_a_third_revision_replaces_a_candidate_that_is_under_way() -> None:
    made = world()
    made.figures = {revision(WORSE): GOOD}
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    edit(made, WORSE)
    on(made, lambda: rollout(made).stable == revision(WORSE), limit=90)
    assert [one.action for one in rollout(made).decisions][:3] == ["Started", "Superseded", "Started"]


def states(world: World) -> dict[str, tuple[str, str]]:
    return {one.revision: (one.state, one.reason) for one in rollout(world).revisions}


def test_a_revision_that_gave_way_before_it_was_proven_is_called_so_and_why() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    edit(made, WORSE)
    on(made, lambda: rollout(made).candidate == revision(WORSE))
    assert states(made)[revision(NEW)] == ("Superseded", f"the spec describes revision {revision(WORSE)} now")
    edit(made, OLD)
    on(made, lambda: rollout(made).candidate is None)
    assert states(made) == {
        revision(OLD): ("Stable", ""),
        revision(NEW): ("Superseded", f"the spec describes revision {revision(WORSE)} now"),
        revision(WORSE): ("Superseded", f"the spec describes the stable revision {revision(OLD)} again"),
    }


def test_a_revision_that_was_on_its_way_when_the_deployment_was_suspended_was_never_good() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    before = made.deployment
    made.deployment = fleet.deployment({**spec(NEW), "suspend": True}, generation=7).model_copy(
        update={"status": before.status}
    )
    made.step()
    assert states(made)[revision(NEW)] == ("Superseded", "nothing serves, so nothing is rolled out")
    assert rollout(made).decisions[-1].action == "Cancelled"


def test_a_revision_that_was_taken_back_or_superseded_is_no_way_back_without_steps_and_gates() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    edit(made, OLD)
    on(made, lambda: rollout(made).candidate is None)
    made.figures = {revision(NEW): BAD}
    edit(made, OLD, revision=revision(NEW))
    on(made, lambda: rollout(made).phase == "RolledBack")
    assert "agreement: 20.0% of 50" in str(rollout(made).rejected)
    assert states(made)[revision(NEW)][0] == "Rejected"


def test_naming_the_candidate_as_the_way_back_skips_none_of_its_steps() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    edit(made, NEW, revision=revision(NEW))
    on(made, lambda: "too few samples for agreement" in rollout(made).message)
    assert rollout(made).stable == revision(OLD)


def test_many_edits_push_no_good_revision_out_of_the_history() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: rollout(made).stable == revision(NEW))
    for number in range(20, 28):
        edit(made, {"engine": {"maxConcurrency": number}})
        made.step()
        made.now += timedelta(seconds=4)
        made.step()
    assert states(made)[revision(OLD)] == ("Retired", "")
    assert [state for state, _ in states(made).values()].count("Superseded") == 4, "five are kept besides the two"


def test_steps_that_are_edited_on_the_way_do_not_let_the_candidate_take_over_unmeasured() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: (of := canary(made)) is not None and of.weight == 30)
    made.figures = {}
    edit(made, NEW, steps=[{"weight": 0}])
    on(made, lambda: rollout(made).decisions[-1].action == "StepsChanged")
    assert [step.weight for step in rollout(made).steps] == [0]
    on(made, lambda: "too few samples for agreement" in rollout(made).message)
    assert (rollout(made).stable, rollout(made).step, canary(made).weight) == (revision(OLD), 1, 0)  # type: ignore[union-attr]


def test_an_annotation_that_is_left_behind_promotes_no_later_attempt() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: rollout(made).candidate == revision(NEW))
    word = {"serving.autoglm.dev/rollout-promote": f"{revision(NEW)}/{rollout(made).attempt}"}
    edit(made, NEW, annotations=word)
    made.figures = {revision(NEW): BAD}
    on(made, lambda: rollout(made).phase == "RolledBack")
    made.figures = {}
    edit(made, NEW, annotations={**word, "serving.autoglm.dev/rollout-retry": "once more"})
    on(made, lambda: "rollout-promote" in rollout(made).message)
    assert (rollout(made).candidate, rollout(made).attempt) == (revision(NEW), 2)
    assert f"does nothing: {revision(NEW)}/2 would" in rollout(made).message
    on(made, lambda: "too few samples for agreement" in rollout(made).message)
    edit(made, NEW, annotations={"serving.autoglm.dev/rollout-promote": f"{revision(NEW)}/2"})
    on(made, lambda: rollout(made).stable == revision(NEW))


def test_the_candidate_grows_as_the_stable_revision_gives_way() -> None:
    made = world(4)
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    seen: set[tuple[int, ...]] = set()

    def promoted() -> bool:
        apps = made.clusters["a"]
        seen.add(tuple(apps[name].replicas if name in apps else 0 for name in (BASE, SECOND)))
        return rollout(made).stable == revision(NEW)

    on(made, promoted, limit=90)
    assert {(4, 1), (3, 2), (1, 4)} <= seen
    made.converge()
    assert {name: app.replicas for name, app in made.clusters["a"].items()} == {SECOND: 4}


def test_placement_counts_both_revisions_so_a_rollout_goes_as_without_it() -> None:
    placed, plain = walked({"placement": {}}), walked({})
    assert ways(placed["a"]) == ways(plain["a"])
    assert not any(placed["b"]), "nothing went elsewhere"


def ways(seen: list[dict[str, int]]) -> list[dict[str, int]]:
    """Without the time that each step took: where there are two sites one may wait for the other."""
    return [one for one, before in zip(seen, [{}, *seen], strict=False) if one != before]


def walked(change: dict[str, Any]) -> dict[str, list[dict[str, int]]]:
    """Replicas by site and application after each step of two rollouts on clusters with room for one replica more."""
    made = World(fleet.deployment(spec({**OLD, **change}, 4)), {"a": {}, "b": {}}, cpus=5)
    made.converge()
    made.figures = {revision(NEW): GOOD, revision(WORSE): GOOD}
    seen: dict[str, list[dict[str, int]]] = {"a": [], "b": []}
    for new in (NEW, WORSE):
        edit(made, {**new, **change})
        for _ in range(25):
            made.step()
            check(made)
            for name, apps in made.clusters.items():
                seen[name].append({key: app.replicas for key, app in apps.items() if app.status != "DELETING"})
            made.settle()
            made.now += timedelta(seconds=4)
        assert (rollout(made).stable, len(made.clusters["a"])) == (revision(new), 1)
    return seen


def test_a_running_revision_is_what_is_good_when_steps_are_asked_for_together_with_a_change() -> None:
    made = World(fleet.deployment({**OLD, "replicas": 1, "sites": {"names": ["a", "b"]}}), {"a": {}, "b": {}})
    made.converge()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    assert (rollout(made).stable, rollout(made).candidate) == (revision(OLD), revision(NEW))


def test_without_steps_the_application_keeps_its_name_and_the_change_goes_in_place() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: rollout(made).stable == revision(NEW))
    made.converge()
    plain = {**WORSE, "replicas": 2, "sites": {"names": ["a", "b"]}}
    made.deployment = fleet.deployment(plain, generation=9).model_copy(update={"status": made.deployment.status})
    made.converge()
    assert {name for apps in made.clusters.values() for name in apps} == {SECOND}
    assert {app.serving for apps in made.clusters.values() for app in apps.values()} == {revision(WORSE)}
    assert condition(made, "Ready") == ("True", "Answering")


def test_a_site_that_was_away_during_a_rollout_gets_the_new_revision_when_it_is_back() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    made.cut("b")
    made.now += timedelta(seconds=100)
    edit(made, NEW)
    on(made, lambda: rollout(made).stable == revision(NEW))
    made.mend("b")
    made.converge()
    assert {name: app.serving for name, app in made.clusters["b"].items()} == {SECOND: revision(NEW)}


def urls(world: World, site: str) -> list[str]:
    """The paths to a site in the table that the gateways have: those of the stable revision, then those of the candidate."""
    assert world.table is not None
    route = world.table.routes[0]
    parts = (route.endpoints, route.canary.endpoints if route.canary else ())
    return [end.url.rpartition("/")[2] for part in parts for end in part if end.site == site]


def test_a_new_leader_that_never_read_a_silent_site_keeps_the_candidate_in_the_routes_there() -> None:
    made = world()
    made.figures = {revision(OLD): GOOD, revision(NEW): GOOD}
    edit(made, NEW)
    on(made, lambda: urls(made, "b") == [BASE, SECOND] and (canary(made) or Canary(revision="")).weight == 30)
    made.cut("b")
    made.succeed()
    made.step()
    assert urls(made, "b") == [BASE, SECOND]


def test_a_new_leader_that_never_read_a_site_which_missed_a_promotion_sends_requests_where_it_still_serves() -> None:
    made = world()
    made.figures = {revision(OLD): GOOD, revision(NEW): GOOD}
    made.cut("b")
    edit(made, NEW)
    on(made, lambda: rollout(made).phase == "Stable" and rollout(made).stable == revision(NEW))
    assert urls(made, "b") == [BASE], "it had the old application alone when it was last read"
    made.succeed()
    made.step()
    assert urls(made, "b") == [BASE]
    made.mend("b")
    made.figures = {}
    on(made, lambda: urls(made, "b") == [SECOND] and condition(made, "Ready") == ("True", "Answering"))


def test_suspending_takes_both_revisions_away_and_the_rollout_begins_anew_afterwards() -> None:
    made = world()
    edit(made, NEW)
    on(made, lambda: canary(made) is not None)
    asleep = {**spec(NEW), "suspend": True}
    made.deployment = fleet.deployment(asleep, generation=8).model_copy(update={"status": made.deployment.status})
    made.converge()
    assert made.clusters == {"a": {}, "b": {}}
    assert condition(made, "Ready") == ("False", "Suspended")
    made.figures = {revision(NEW): GOOD}
    made.deployment = fleet.deployment(spec(NEW), generation=9).model_copy(update={"status": made.deployment.status})
    made.step()
    made.settle()
    on(made, lambda: rollout(made).stable == revision(NEW))


def test_a_status_survives_being_stored() -> None:
    made = world()
    made.figures = {revision(NEW): GOOD}
    edit(made, NEW)
    for _ in range(12):
        plan = made.step()
        made.settle()
        made.now += timedelta(seconds=4)
        again: AutoGLMDeployment = fleet.with_status(made.deployment, plan)
        assert again.status == plan.status


@walk
@given(st.data(), st.integers(1, 4), st.integers(1, 2))
def test_whatever_is_edited_and_measured_the_rules_hold_and_it_ends_where_it_was_good(
    data: st.DataObject, replicas: int, gateways: int
) -> None:
    made = world(replicas, gateways=gateways)
    good = {revision(OLD)}
    for _ in range(data.draw(st.integers(1, 4))):
        change = data.draw(st.sampled_from([OLD, NEW, WORSE]))
        edit(made, change, paused=data.draw(st.integers(0, 4)) == 0)
        made.figures = {revision(NEW): GOOD, revision(WORSE): BAD}
        for _ in range(data.draw(st.integers(1, 15))):
            before = rollout(made).stable
            made.step()
            check(made)
            if rollout(made).stable != before:
                assert rollout(made).stable == revision(NEW), "only what passed its gates becomes stable"
            if data.draw(st.booleans()):
                made.settle()
                check(made)
            made.now += timedelta(seconds=4)
        good.add(rollout(made).stable)
    edit(made, WORSE)
    for _ in range(40):
        made.step()
        made.settle()
        made.now += timedelta(seconds=4)
    assert rollout(made).phase == "RolledBack"
    assert rollout(made).stable in good - {revision(WORSE)}
    assert {app.serving for app in made.clusters["a"].values()} == {rollout(made).stable}


def test_more_replicas_asked_for_during_a_step_are_no_loss_of_the_candidate() -> None:
    there = world()
    edit(there, NEW, steps=[{"weight": 30, "hold": "1h"}])
    on(there, lambda: rollout(there).step_since is not None)
    assert rollout(there).need == 2, "one at each site"
    held = rollout(there).step_since
    wider = fleet.deployment(spec(NEW, 7, steps=[{"weight": 30, "hold": "1h"}]), generation=9)
    there.deployment = wider.model_copy(update={"status": there.deployment.status})
    on(there, lambda: rollout(there).step_since not in (held, None))
    assert (rollout(there).losses, rollout(there).need) == (0, 6)
