"""Rollouts in steps at sites with KubeRay: the Ray cluster of the new revision, the pods in it, and what becomes of both."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoglm_operator.api import AutoGLMDeployment, RolloutStatus
from autoglm_operator.kuberay import names, observed
from autoglm_operator.offers import Look
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import ApplyApplication, Capacity, Observed, Plan
from autoglm_serving.config import Worker
from support import fleet, kube
from support.pod_application import PodApplication
from support.simulation import World

Json = dict[str, Any]

BASE, SECOND = "team.quickstart", "team.quickstart.2"
OLD: Json = {"engine": {"maxConcurrency": 4}, "worker": {"resources": {"memory": "4Gi"}}}
NEW: Json = {"engine": {"maxConcurrency": 5}, "worker": {"resources": {"memory": "8Gi", "cpu": 2}}}
OTHER: Json = {"engine": {"maxConcurrency": 6}, "worker": {"resources": {"memory": "2Gi"}}}
GOOD = {"requests": 50}
STEPS = {"maxSurge": 1, "steps": [{"weight": 50, "hold": "20s"}], "gates": [{"metric": "errors", "maximum": 0.1}]}


@pytest.fixture(autouse=True)
def with_kuberay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site is one with KubeRay."""
    monkeypatch.setattr(World, "kuberay", frozenset({"a", "b"}))


def spec(change: Json, replicas: int = 2, **rollout: Any) -> Json:
    return {**change, "replicas": replicas, "sites": {"names": ["a"]}, "rollout": STEPS | rollout}


def world(replicas: int = 2, **more: Any) -> World:
    made = World(fleet.deployment(spec(OLD, replicas)), {"a": {}}, **more)
    made.converge()
    return made


def edit(world: World, wanted: Json) -> None:
    generation = world.deployment.metadata.generation + 1
    made = fleet.deployment(wanted, generation=generation)
    world.deployment = made.model_copy(update={"status": world.deployment.status})


def revision(change: Json) -> str:
    return fleet.wanted(fleet.deployment(change)).revision


def rollout(world: World) -> RolloutStatus:
    assert world.deployment.status is not None
    assert world.deployment.status.rollout is not None
    return world.deployment.status.rollout


def on(world: World, until: Callable[[], bool], limit: int = 90) -> None:
    """Goes on until something holds. There are never more pods than wanted and surge."""
    most = world.deployment.spec.replicas + world.deployment.spec.rollout.max_surge
    for _ in range(limit):
        world.step()
        assert sum(app.held for app in services(world).values()) <= most
        if until():
            return
        world.settle()
        assert sum(app.held for app in services(world).values()) <= most
        world.now += timedelta(seconds=4)
    raise AssertionError(f"not reached: {rollout(world).message}; {[one.reason for one in rollout(world).decisions]}")


def services(world: World) -> dict[str, PodApplication]:
    """The RayServices at the site, by application."""
    return {name: app for name, app in world.clusters["a"].items() if isinstance(app, PodApplication)}


def template(app: PodApplication) -> Json:
    """The pods of the workers as they are asked for."""
    found: Json = app.manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    return found


def memory(app: PodApplication) -> str:
    return str(template(app)["spec"]["containers"][0]["resources"]["limits"]["memory"])


def halfway(world: World, change: Json = NEW) -> None:
    """Half of the sessions are on the new revision."""
    world.figures = {revision(change): GOOD}
    edit(world, spec(change, world.deployment.spec.replicas))
    on(world, lambda: rollout(world).step_since is not None)
    assert set(services(world)) == {BASE, SECOND}


def test_the_new_revision_gets_its_own_pods_and_keeps_them_when_it_is_the_only_one() -> None:
    made = world()
    stable = services(made)[BASE]
    first, uid = copy.deepcopy(template(stable)), stable.uid
    halfway(made)
    candidate = services(made)[SECOND]
    assert (services(made)[BASE].uid, template(services(made)[BASE])) == (uid, first)
    assert (memory(stable), memory(candidate)) == ("4Gi", "8Gi")
    its_pods, its_uid = copy.deepcopy(template(candidate)), candidate.uid
    on(made, lambda: set(services(made)) == {SECOND})
    made.converge()
    only = services(made)[SECOND]
    assert (only.uid, template(only), only.pods, made.made) == (its_uid, its_pods, 2, 2)
    assert names.ray_service(SECOND, "a") == only.name
    assert only.manifest["spec"]["upgradeStrategy"]["type"] == "None"


def test_each_revision_has_its_children_and_its_address() -> None:
    made = world()
    halfway(made)
    for name, app in services(made).items():
        kinds = {child["kind"]: child for child in app.children}
        assert set(kinds) == {"PodDisruptionBudget", "NetworkPolicy"}
        for child in kinds.values():
            assert child["metadata"]["name"] == names.ray_service(name, "a")
            assert child["metadata"]["ownerReferences"][0]["uid"] == app.uid
        assert kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == {names.RAY_SERVICE: app.name}
    assert made.table is not None
    route = made.table.routes[0]
    assert route.canary is not None
    urls = [end.url for end in (*route.endpoints, *route.canary.endpoints)]
    assert urls == [f"http://{names.ray_service(name, 'a')}-serve-svc.ray.svc:8000/{name}" for name in (BASE, SECOND)]


def test_a_revision_that_is_gone_back_to_has_the_pods_that_it_had() -> None:
    made = world()
    first = copy.deepcopy(template(services(made)[BASE]))
    halfway(made)
    on(made, lambda: set(services(made)) == {SECOND})
    made.converge()
    edit(made, spec(NEW, revision=revision(OLD)))
    on(made, lambda: set(services(made)) == {BASE})
    made.converge()
    assert template(services(made)[BASE]) == first
    before = services(made)[BASE].uid
    edit(made, spec(OLD))
    made.converge()
    assert (template(services(made)[BASE]), services(made)[BASE].uid) == (first, before), "the spec describes it again"


def test_while_there_are_two_revisions_neither_changes_its_pods_and_afterwards_it_is_planned() -> None:
    made = world()
    halfway(made)
    before = {name: copy.deepcopy(template(app)) for name, app in services(made).items()}
    made.backend = {"image": "registry.example/autoglm-serving:2"}
    for _ in range(3):
        made.step()
        made.settle()
        assert {name: template(app) for name, app in services(made).items()} == before
    on(made, lambda: set(services(made)) == {SECOND})
    made.converge()
    assert made.deployment.status is not None
    assert made.deployment.status.sites[0].message.endswith("raise one of them to 2, or take the change back")
    assert template(services(made)[SECOND]) == before[SECOND]


def test_going_back_changes_no_pods_of_what_serves_either() -> None:
    """The spec describes what serves, and names another revision: all of the surge is the candidate's."""
    made = world(1)
    halfway(made)
    on(made, lambda: set(services(made)) == {SECOND})
    made.converge()
    assert services(made)[SECOND].manifest["spec"]["upgradeStrategy"]["type"] == "NewCluster"
    edit(made, spec(NEW, 1, revision=revision(OLD)))
    made.step()
    made.backend = {"image": "registry.example/autoglm-serving:2"}
    made.step()
    made.step()
    assert set(services(made)) == {BASE, SECOND}
    kept = services(made)[SECOND].manifest["spec"]
    assert kept["upgradeStrategy"]["type"] == "None"
    assert template(services(made)[SECOND])["spec"]["containers"][0]["image"].endswith(":1")


@pytest.mark.parametrize("name", [BASE, SECOND])
def test_a_rayservice_that_a_person_deletes_is_made_again_and_the_rollout_goes_on(name: str) -> None:
    made = world()
    halfway(made)
    old = services(made)[name]
    its_pods = copy.deepcopy(template(old))
    made.clusters["a"].pop(name)
    made.step()
    assert template(services(made)[name]) == its_pods
    assert services(made)[name].uid != old.uid
    on(made, lambda: set(services(made)) == {SECOND})
    assert rollout(made).stable == revision(NEW)


def test_a_candidate_that_follows_another_one_gets_pods_of_its_own() -> None:
    made = world()
    halfway(made)
    first = services(made)[SECOND].uid
    halfway(made, OTHER)
    assert services(made)[SECOND].uid != first
    assert (memory(services(made)[BASE]), memory(services(made)[SECOND])) == ("4Gi", "2Gi")
    on(made, lambda: rollout(made).stable == revision(OTHER))


def test_what_another_candidate_served_goes_only_when_gateways_send_nothing_there() -> None:
    made = world()
    halfway(made)
    edit(made, spec(OTHER))
    made.step()
    assert rollout(made).candidate is None
    made.published = None  # nobody knows yet whether the gateways have the table
    made.step()
    assert services(made)[SECOND].status != "DELETING"
    on(made, lambda: services(made)[SECOND].status == "DELETING")


def test_a_candidate_in_whose_pods_nothing_starts_gets_others_when_they_are_put_right() -> None:
    made = world()
    made.shrunk = {"a": 0.0}  # no pod comes up
    edit(made, spec(NEW))
    made.step()
    made.step()
    made.backend = {"image": "registry.example/autoglm-serving:2"}
    made.step()
    assert services(made)[SECOND].status == "DELETING"
    made.clusters["a"].pop(SECOND)
    made.step()
    assert template(services(made)[SECOND])["spec"]["containers"][0]["image"].endswith(":2")
    assert template(services(made)[BASE])["spec"]["containers"][0]["image"].endswith(":1")


def test_a_name_that_is_taken_ends_the_rollout_and_says_so() -> None:
    made = world()
    foreign = kube.Stored(*kube.manifests(fleet.deployment(spec(OLD)), "a"))
    foreign.ray_service["metadata"] |= {"labels": {}, "annotations": {}, "name": names.ray_service(SECOND, "a")}
    there = kube.view("a", foreign.listing()).applications or ()

    class WithForeign(World):
        def _view(self, name: str) -> Any:
            found = super()._view(name)
            return replace(found, applications=(*(found.applications or ()), *there))

    taken = WithForeign(made.deployment, made.clusters, table=made.table, published=made.published, now=made.now)
    edit(taken, spec(NEW))
    on(taken, lambda: rollout(taken).phase == "RolledBack")
    assert "belongs to somebody else" in rollout(taken).message
    assert set(services(taken)) == {BASE}


def test_a_rayservice_of_another_site_that_lost_its_label_is_left_alone() -> None:
    """Two sites share a namespace: without its label the RayService of the other one is seen here too."""
    of = fleet.deployment(spec(OLD))
    first = reconcile(of, Observed(sites=(kube.view("a", kube.stored(of, "a")),)), fleet.NOW)
    of = fleet.with_status(of, first)
    other = kube.Stored(*kube.manifests(of, "b"))
    other.ray_service["metadata"]["uid"] = "another"
    other.runs()
    del other.ray_service["metadata"]["labels"][names.SITE]
    view = kube.view("a", kube.stored(of, "a"), other.listing())
    assert [one.name for one in view.applications or ()] == [BASE, BASE]
    gateway = fleet.gateway(*fleet.admitted(of, "a"))
    seen = Observed(sites=(view,), gateways=(gateway,), published=fleet.published(first))
    assert fleet.names(reconcile(of, seen, fleet.NOW).applications) == []


def test_steps_that_are_taken_out_on_the_way_leave_one_ray_cluster_with_the_pods_of_the_spec() -> None:
    made = world()
    halfway(made)
    plain = {**NEW, "replicas": 2, "sites": {"names": ["a"]}, "rollout": {"maxSurge": 1, "maxUnavailable": 2}}
    edit(made, plain)
    made.step()
    assert memory(services(made)[BASE]) == "4Gi", "while the other revision has pods as well"
    on(made, lambda: BASE in services(made) and memory(services(made)[BASE]) == "8Gi")
    assert set(services(made)) == {BASE}


def test_a_site_that_was_cut_off_on_the_way_holds_what_it_has_and_ends_right_when_it_is_back() -> None:
    made = World(fleet.deployment({**spec(OLD), "sites": {"names": ["a", "b"]}}), {"a": {}, "b": {}})
    made.converge()
    made.figures = {revision(NEW): GOOD}
    edit(made, {**spec(NEW), "sites": {"names": ["a", "b"]}})
    on(made, lambda: rollout(made).step_since is not None)
    made.cut("b")
    there = {name: app.replicas for name, app in made.clusters["b"].items()}
    on(made, lambda: set(services(made)) == {SECOND})
    assert {name: app.replicas for name, app in made.clusters["b"].items()} == there
    made.mend("b")
    made.converge()
    assert {name: (app.serving, app.replicas) for name, app in made.clusters["b"].items()} == {
        SECOND: (revision(NEW), 2)
    }


@pytest.mark.parametrize("broken", [0, 1])
def test_pods_of_a_broken_revision_go_only_when_nothing_can_be_under_way_there(broken: int) -> None:
    made = world()
    made.broken = {revision(OLD): broken}
    made.settle()
    made.figures = {revision(NEW): GOOD}
    edit(made, spec(NEW))
    on(made, lambda: services(made)[BASE].replicas == 1)
    asked, stable = made.now, services(made)[BASE]
    on(made, lambda: stable.workers == 1)
    waited = made.now - asked
    assert waited >= timedelta(seconds=150) if broken else waited <= timedelta(seconds=8)
    on(made, lambda: rollout(made).stable == revision(NEW))


def test_pods_of_a_broken_revision_stay_while_kuberay_has_not_acted_on_what_it_was_told() -> None:
    made = world()
    made.broken = {revision(OLD): 1}
    made.settle()
    made.figures = {revision(NEW): GOOD}
    edit(made, spec(NEW))
    on(made, lambda: services(made)[BASE].replicas == 1)
    stable = services(made)[BASE]
    stable.seen = stable.generation - 1  # KubeRay is away
    for _ in range(60):
        made.now += timedelta(seconds=4)
        made.step()
    assert (stable.replicas, stable.workers) == (1, 2)
    stable.seen = None
    on(made, lambda: stable.workers == 1, limit=3)


def b_missed_two_promotions() -> World:
    """Site b is cut off, with the pods of OLD, while a goes to NEW and then to OTHER."""
    both = {"names": ["a", "b"]}
    made = World(fleet.deployment({**spec(OLD, maxUnavailable=1), "sites": both}), {"a": {}, "b": {}})
    made.converge()
    made.figures = {revision(NEW): GOOD, revision(OTHER): GOOD}
    made.cut("b")
    for change in (NEW, OTHER):
        edit(made, {**spec(change, maxUnavailable=1), "sites": both})
        on(made, lambda: rollout(made).stable == revision(change))  # noqa: B023
        on(made, lambda: len(services(made)) == 1)
    return made


def test_a_site_that_missed_two_promotions_gets_the_pods_of_the_third_revision_when_it_is_back() -> None:
    """Under the name of the revision that serves elsewhere it has pods of the one before the last."""
    made = b_missed_two_promotions()
    assert set(services(made)) == {BASE}
    made.mend("b")
    made.converge()
    (only,) = made.clusters["b"].values()
    assert isinstance(only, PodApplication)
    assert (only.config["name"], only.serving, only.replicas, memory(only)) == (BASE, revision(OTHER), 2, "2Gi")
    assert made.deployment.status is not None
    assert [row.state for row in made.deployment.status.sites] == ["Ready", "Ready"]


def test_pods_that_answer_under_the_wanted_name_are_kept_where_no_other_site_has_the_wanted_revision() -> None:
    made = b_missed_two_promotions()
    made.mend("b")
    made.cut("a")
    made.now += timedelta(seconds=100)
    made.step()
    (only,) = made.clusters["b"].values()
    assert (only.serving, only.status) == (revision(OLD), "RUNNING")


@pytest.mark.parametrize("written", ["word", "team.other", "", ".x", 7])
@pytest.mark.parametrize("name", [BASE, SECOND])
def test_a_name_that_a_person_wrote_into_the_document_is_put_right_or_goes_with_the_deployment(
    name: str, written: object
) -> None:
    made = world()
    halfway(made)

    def by_hand() -> None:
        document = {"applications": [{**services(made)[name].config, "name": written}]}
        spec = {**services(made)[name].manifest["spec"], "serveConfigV2": json.dumps(document)}
        services(made)[name].manifest = {**services(made)[name].manifest, "spec": spec}

    by_hand()
    made.step()
    assert services(made)[name].config["name"] == name
    by_hand()
    meta = made.deployment.metadata.model_copy(update={"deletion_timestamp": made.now})
    plan = reconcile(made.deployment.model_copy(update={"metadata": meta}), made.observed(), made.now)
    named = {names.of_unnamed(one.name) or names.ray_service(one.name, "a") for one in plan.applications}
    assert named == {app.name for app in services(made).values()}, "each is found by what it is asked to go by"


@pytest.mark.parametrize("document", ["", "{}", "[]"])
def test_a_document_that_a_person_broke_on_the_way_is_put_right(document: str) -> None:
    made = world()
    halfway(made)
    there = services(made)[BASE]
    spec = {**there.manifest["spec"], "serveConfigV2": document}
    broken = there.ray_service() | {"spec": spec}
    found = observed.applications(replace(there.listing(), ray_services=[broken]), "a")
    seen = made.observed()
    apps = tuple(one for one in seen.sites[0].applications or () if one.name != BASE)
    site = replace(seen.sites[0], applications=(*apps, *found))
    (change,) = applied(reconcile(made.deployment, replace(seen, sites=(site,)), made.now))
    assert change.name == BASE


def test_a_rayservice_that_is_made_again_while_the_rollout_is_paused_leaves_the_other_one_its_room() -> None:
    made = world(3)
    made.figures = {revision(NEW): GOOD}
    edit(made, spec(NEW, 3))
    on(made, lambda: rollout(made).step_since is not None)
    sizes = {name: app.replicas for name, app in services(made).items()}
    assert sizes == {BASE: 2, SECOND: 2}
    edit(made, spec(NEW, 3, paused=True))
    on(made, lambda: rollout(made).phase == "Paused")
    made.clusters["a"].pop(BASE)
    for _ in range(4):
        made.step()
        made.settle()
        made.now += timedelta(seconds=4)
    assert {name: app.replicas for name, app in services(made).items()} == sizes
    assert sum(app.held for app in services(made).values()) == 4


def test_nothing_is_taken_away_while_a_rollout_is_paused() -> None:
    made = world()
    halfway(made)
    on(made, lambda: rollout(made).stable == revision(NEW))
    assert set(services(made)) == {BASE, SECOND}
    edit(made, spec(OTHER, paused=True))
    for _ in range(5):
        made.step()
        made.settle()
        made.now += timedelta(seconds=4)
    assert (rollout(made).phase, set(services(made))) == ("Paused", {BASE, SECOND})
    edit(made, spec(NEW))
    on(made, lambda: set(services(made)) == {SECOND})


def test_deletion_takes_both_rayservices_away() -> None:
    made = world()
    halfway(made)
    meta = made.deployment.metadata.model_copy(update={"deletion_timestamp": made.now})
    made.deployment = made.deployment.model_copy(update={"metadata": meta})
    plan = made.step()
    assert {change.name for change in plan.applications} == {BASE, SECOND}
    assert not plan.remove_finalizer
    made.settle()
    assert (made.step().remove_finalizer, services(made)) == (True, {})


def test_a_rollout_at_a_site_that_an_earlier_operator_made_restarts_none_of_its_pods() -> None:
    """Its status remembers no pods of the revision that serves."""
    made = world()
    assert made.deployment.status is not None
    earlier = tuple(one.model_copy(update={"worker": None}) for one in rollout(made).revisions)
    status = made.deployment.status.model_copy(
        update={"rollout": rollout(made).model_copy(update={"revisions": earlier})}
    )
    made.deployment = made.deployment.model_copy(update={"status": status})
    first = copy.deepcopy(template(services(made)[BASE]))
    made.figures = {revision(NEW): GOOD}
    edit(made, spec(NEW))

    def done() -> bool:
        if BASE in services(made):
            assert template(services(made)[BASE]) == first
        return set(services(made)) == {SECOND}

    on(made, done)
    assert memory(services(made)[SECOND]) == "8Gi"


def test_the_number_of_workers_falls_only_when_serve_has_emptied_them_and_the_room_is_used_only_then() -> None:
    made = world(4)
    made.figures = {revision(NEW): GOOD}
    edit(made, spec(NEW, 4))
    seen: list[tuple[int, int, int]] = []

    def done() -> bool:
        apps = services(made)
        if set(apps) == {BASE, SECOND}:
            seen.append((apps[BASE].replicas, apps[BASE].pods, apps[SECOND].replicas))
        return rollout(made).stable == revision(NEW)

    on(made, done, limit=120)
    assert all(pods + candidate <= 5 for _, pods, candidate in seen)
    assert (3, 4, 1) in seen, "asked to shrink, the pod is there still: the candidate waits"
    assert (3, 3, 2) in seen


@pytest.mark.parametrize(("candidate", "room"), [(None, 4), ("5d41402abc", 3)])
def test_placement_keeps_room_for_the_head_of_the_second_cluster(candidate: str | None, room: int) -> None:
    rollout = {"phase": "Progressing", "stable": "7d793037a0", "application": BASE, "candidate": candidate}
    of = fleet.deployment(spec(OLD) | {"placement": {}}, status={"rollout": rollout})
    free = {"CPU": 3.0, "memory": 1e12}
    seen = replace(kube.view("a", kube.stored(of, "a")), capacity=Capacity(free, free, (free,)), capacity_at=fleet.NOW)
    assert of.spec.placement is not None
    worker = fleet.application(of).args or {}
    look = Look(of, of.spec.placement, Worker.model_validate(worker.get("worker") or {}), fleet.NOW)
    assert look.at(seen).offer.room == room, "two run, and of the three CPUs the head takes two"


def test_the_objects_of_a_candidate_at_an_edge_site_are_the_golden_ones() -> None:
    """Other accelerators than the stable revision has, and a size of its own."""
    edge = fleet.site("a", {"backend": {"kubeRay": kube.BACKEND}, "tier": "edge"})
    of = fleet.deployment(spec(OLD))
    gateway = fleet.gateway(*fleet.admitted(of, "a"))
    stable = replace(kube.view("a", kube.stored(of, "a")), site=edge)

    def planned(of: AutoGLMDeployment, *found: observed.Listing) -> Plan:
        more = tuple(one for listing in found for one in observed.applications(listing, "a"))
        view = replace(stable, applications=(*(stable.applications or ()), *more))
        return reconcile(of, Observed(sites=(view,), gateways=(gateway,)), fleet.NOW)

    split = {"engine": {"parallelism": {"tensor": 2}}, "worker": {"accelerator": {"type": "gpu"}}}
    new = fleet.deployment(spec(split), generation=2).model_copy(update={"status": planned(of).status})
    new = fleet.with_status(new, planned(new))
    first = kube.Stored(next(change for change in applied(planned(new)) if change.name == SECOND).manifests[0])
    first.ray_service["metadata"]["uid"] = "uid-of-the-second"
    children = next(change for change in applied(planned(new, first.listing())) if change.name == SECOND).manifests
    path = Path(__file__).parents[1] / "golden-kuberay" / "candidate.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump_all(children, sort_keys=False, width=120))
    assert list(children) == list(yaml.safe_load_all(path.read_text()))


def applied(plan: Plan) -> list[ApplyApplication]:
    return [change for change in plan.applications if isinstance(change, ApplyApplication)]
