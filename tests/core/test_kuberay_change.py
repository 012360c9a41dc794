"""Whether a Ray cluster may be replaced, and how."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.kuberay.change import Budget, Need, plan
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import ApplyApplication, Observed, Plan, SiteError, SiteView
from support import fleet, kube

GPUS = Need(replicas=4, accelerators=2, kind="gpu")


@pytest.mark.parametrize(
    ("surge", "unavailable", "serving", "way"),
    [
        (4, 0, 4, "Surge"),
        (9, 9, 4, "Surge"),
        (3, 4, 4, "Staged"),
        (0, 4, 1, "Staged"),
        (0, 0, 0, "Staged"),
        (3, 3, 4, "Refused"),
        (0, 1, 4, "Refused"),
        (0, 0, 1, "Refused"),
    ],
)
def test_the_budget_decides(surge: int, unavailable: int, serving: int, way: str) -> None:
    assert plan(GPUS, Budget(surge, unavailable), serving).way == way


def test_a_refusal_says_what_is_missing_and_what_to_set() -> None:
    message = plan(GPUS, Budget(1, 1), 4).message
    assert "8 GPUs" in message
    assert "maxSurge 1 nor maxUnavailable 1" in message
    assert "raise one of them to 4" in message


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (Need(1, 1, "gpu"), "1 GPU"),
        (Need(2, 4, "npu"), "8 NPUs"),
        (Need(1, 0, "cpu"), "1 worker pod"),
        (Need(3, 0, "cpu"), "3 worker pods"),
    ],
)
def test_what_a_cluster_takes_is_told_in_words(need: Need, words: str) -> None:
    assert str(need) == words


def test_never_are_accelerators_doubled_beyond_the_budget() -> None:
    for replicas in range(1, 6):
        for surge in range(6):
            for serving in range(replicas + 1):
                way = plan(Need(replicas, 1, "gpu"), Budget(surge, 1), serving).way
                assert (way == "Surge") == (surge >= replicas)


def sites(
    of: AutoGLMDeployment, *views: SiteView, silent: Sequence[str] = (), others: Sequence[AutoGLMDeployment] = ()
) -> Plan:
    """The decision about a deployment at some sites, of which a gateway gets answers but from those that are `silent`."""
    names = [view.name for view in views if view.name not in silent]
    gateways = (fleet.gateway(*fleet.admitted(of, *names)),)
    return reconcile(of, Observed(sites=views, gateways=gateways, deployments=tuple(others)), fleet.NOW)


def running(of: AutoGLMDeployment, name: str, **kwargs: Any) -> SiteView:
    return kube.view(name, kube.stored(of, name), **kwargs)


def changes(plan: Plan) -> list[tuple[str, str]]:
    return [(type(one).__name__, one.site) for one in plan.applications]


GRACE = "terminationGracePeriodSeconds"
OLD = fleet.deployment()
NEW = fleet.deployment({"worker": {"resources": {"memory": "6Gi"}}})


def test_the_only_ray_clusters_of_several_sites_are_replaced_one_after_the_other() -> None:
    first = sites(NEW, *(running(OLD, name) for name in ("a", "b", "c")))
    assert changes(first) == [("DeleteApplication", "a")]
    rows = {row.name: row for row in first.status.sites}
    assert rows["b"].message.endswith("when site a serves with its new pods")
    assert (rows["b"].ready, rows["b"].state) == (1, "Deploying")

    gone = sites(NEW, kube.view("a"), running(OLD, "b"), running(OLD, "c"))
    assert changes(gone) == [("ApplyApplication", "a")]
    starting = kube.Stored(*kube.manifests(NEW, "a"))
    starting.runs("DEPLOYING", "UPDATING", endpoints=0)
    still = sites(NEW, kube.view("a", starting.listing()), running(OLD, "b"), running(OLD, "c"))
    assert changes(still) == []

    second = sites(NEW, running(NEW, "a"), running(OLD, "b"), running(OLD, "c"))
    assert changes(second) == [("DeleteApplication", "b")]
    assert changes(sites(NEW, *(running(NEW, name) for name in ("a", "b", "c")))) == []


def test_a_change_that_does_not_start_stops_at_one_site() -> None:
    broken = kube.Stored(*kube.manifests(NEW, "a"))
    broken.runs("DEPLOY_FAILED", "DEPLOY_FAILED", "no such image", endpoints=0)
    plan = sites(NEW, kube.view("a", broken.listing()), running(OLD, "b"))
    assert [site for kind, site in changes(plan) if kind == "DeleteApplication" and site == "b"] == []


def test_the_next_site_waits_until_a_gateway_gets_answers_from_the_last_one() -> None:
    views = (running(NEW, "a"), running(OLD, "b"))
    assert changes(sites(NEW, *views, silent=["a"])) == []
    assert changes(sites(NEW, *views)) == [("DeleteApplication", "b")]
    older = fleet.deployment(name="older", uid="uid-older", creationTimestamp="2026-03-01T09:00:00Z")
    unrouted = sites(NEW, *views, silent=["a"], others=[older])
    assert changes(unrouted) == [("DeleteApplication", "b")], "no gateway is told of it, so none admits it"
    alone = reconcile(NEW, Observed(sites=views), fleet.NOW)
    assert changes(alone) == [("DeleteApplication", "b")], "there is no gateway"


def test_nobody_s_turn_comes_before_every_site_was_looked_at_once() -> None:
    unseen = SiteView(kube.site("b"))
    assert changes(sites(NEW, running(OLD, "a"), unseen)) == []
    down = SiteView(kube.site("b"), error=SiteError("Unreachable", "no route to host"), failures=1)
    assert changes(sites(NEW, running(OLD, "a"), down)) == [("DeleteApplication", "a")]


def test_a_site_whose_change_is_refused_takes_nobody_s_turn() -> None:
    """Placement has two replicas at the first site, which may not both be away, and one at the second."""
    spread = {"replicas": 3, "placement": {}, "rollout": {"maxUnavailable": 1}}
    new = fleet.deployment(spread | {"worker": {"resources": {"memory": "6Gi"}}})
    two, one = (fleet.deployment(spread | {"replicas": count}) for count in (2, 1))
    plan = sites(new, running(two, "a"), running(one, "b"))
    rows = {row.name: row for row in plan.status.sites}
    assert rows["a"].message.endswith("or take the change back")
    assert changes(plan) == [("DeleteApplication", "b")]


def test_a_silent_site_and_a_name_that_is_taken_hold_up_nobody() -> None:
    foreign = kube.Stored(*kube.manifests(OLD, "a"))
    foreign.ray_service["metadata"] |= {"labels": {}, "annotations": {}}
    plan = sites(NEW, kube.view("a", foreign.listing()), running(OLD, "b", age=600.0), running(OLD, "c"))
    assert changes(plan) == [("DeleteApplication", "c")]


def test_a_site_that_falls_silent_while_its_ray_cluster_is_away_keeps_its_turn() -> None:
    """Its turn went on to the next site, which lost its cluster as well: of two, none served."""
    starting = kube.Stored(*kube.manifests(NEW, "a"))
    starting.runs("DEPLOYING", "UPDATING", endpoints=0)
    for silent in (kube.view("a", age=600.0), kube.view("a", starting.listing(), age=600.0)):
        plan = sites(NEW, silent, running(OLD, "b"))
        assert changes(plan) == []
        rows = {row.name: row for row in plan.status.sites}
        assert "when site a, which fell silent before it served, is back" in rows["b"].message
    gone = kube.view("a", age=1900.0)
    assert changes(sites(NEW, gone, running(OLD, "b"))) == [("DeleteApplication", "b")], "nobody waits for it for ever"
    up = running(NEW, "a", age=600.0)
    assert changes(sites(NEW, up, running(OLD, "b"))) == [("DeleteApplication", "b")], (
        "it served when it was last heard"
    )


def test_a_site_that_falls_silent_before_its_deletion_was_seen_keeps_its_turn() -> None:
    """The last view shows the old pods, and whether the deletion got there nobody knows."""
    up = running(OLD, "a", age=600.0)
    asked = replace(up, going=frozenset(one.name for one in up.applications or ()))
    plan = sites(NEW, asked, running(OLD, "b"))
    assert changes(plan) == []
    rows = {row.name: row for row in plan.status.sites}
    assert "when site a, which fell silent before it served, is back" in rows["b"].message
    other = replace(up, going=frozenset({"team.other"}))
    assert changes(sites(NEW, other, running(OLD, "b"))) == [("DeleteApplication", "b")], "another one was asked to go"
    gone = replace(asked, observed_at=fleet.NOW - timedelta(minutes=31))
    assert changes(sites(NEW, gone, running(OLD, "b"))) == [("DeleteApplication", "b")], "nobody waits for it for ever"


def test_the_pass_that_asks_for_a_deletion_tells_it_in_the_status_for_the_next_operator() -> None:
    first = sites(NEW, running(OLD, "a"), running(OLD, "b"))
    assert changes(first) == [("DeleteApplication", "a")]
    of = NEW.model_copy(update={"status": first.status})
    down = SiteView(kube.site("a"), error=SiteError("Unreachable", "none"), failures=1, silent_since=fleet.NOW)
    assert changes(sites(of, down, running(OLD, "b"))) == []


@pytest.mark.parametrize(("ready", "expected"), [(0, []), (1, [("DeleteApplication", "b")])])
def test_after_a_restart_the_status_tells_whether_a_silent_site_served(
    ready: int, expected: list[tuple[str, str]]
) -> None:
    served = sites(NEW, running(NEW, "a"), running(OLD, "b")).status
    rows = [row.model_copy(update={"ready": ready}) if row.name == "a" else row for row in served.sites]
    of = NEW.model_copy(update={"status": served.model_copy(update={"sites": tuple(rows)})})
    down = SiteView(kube.site("a"), error=SiteError("Unreachable", "no route to host"), failures=1)
    assert changes(sites(of, down, running(OLD, "b"))) == expected


def test_after_a_restart_the_half_hour_counts_from_the_first_attempt_in_vain() -> None:
    """A status is not written anew while nothing changes: it says nothing of when the site was last heard."""
    first = sites(NEW, running(OLD, "a"), running(OLD, "b")).status
    long_ago = fleet.NOW - timedelta(hours=5)
    rows = tuple(row.model_copy(update={"since": long_ago}) for row in first.sites)
    of = NEW.model_copy(update={"status": first.model_copy(update={"sites": rows})})
    error = SiteError("Unreachable", "no route to host")
    asked = SiteView(kube.site("a"), error=error, failures=1, silent_since=fleet.NOW - timedelta(minutes=5))
    plan = sites(of, asked, running(OLD, "b"))
    assert changes(plan) == []
    row = next(row for row in plan.status.sites if row.name == "a")
    assert (row.state, row.since) == ("Unreachable", fleet.NOW - timedelta(minutes=5))
    late = replace(asked, silent_since=fleet.NOW - timedelta(minutes=31))
    assert changes(sites(of, late, running(OLD, "b"))) == [("DeleteApplication", "b")]


def test_a_site_that_does_not_answer_is_replaced_whoever_s_turn_it_is() -> None:
    idle = kube.Stored(*kube.manifests(OLD, "b"))
    idle.runs("DEPLOYING", "UPDATING", endpoints=0)
    plan = sites(NEW, running(OLD, "a"), kube.view("b", idle.listing()))
    assert changes(plan) == [("DeleteApplication", "b")]


def following(desired: int, **worker: Any) -> AutoGLMDeployment:
    """One whose replicas follow the load; so many were decided for site a."""
    since = "2026-03-01T11:00:00Z"
    rows = [
        {"name": name, "desired": count, "reason": "LoadRose", "since": since}
        for name, count in (("a", desired), ("b", 1))
    ]
    return fleet.deployment(
        {"scaling": {"min": 1, "max": 8}, "rollout": {"maxUnavailable": 8}, **({"worker": worker} if worker else {})},
        status={"scaling": {"sites": rows}},
    )


@pytest.mark.parametrize(("endpoints", "expected"), [(1, [("DeleteApplication", "b")]), (0, [])])
@pytest.mark.parametrize("age", [2.0, 600.0])
def test_replicas_beyond_the_fewest_that_find_no_room_hold_up_no_other_site(
    endpoints: int, expected: list[tuple[str, str]], age: float
) -> None:
    """Of the first site, and of what it had when it fell silent."""
    new = following(3, resources={"memory": "6Gi"})
    full = kube.Stored(*kube.manifests(new, "a"))
    assert full.replicas == 3
    full.runs("DEPLOYING", "UPDATING", "2 replicas that have taken more than 30s to be scheduled", endpoints=endpoints)
    plan = sites(new, kube.view("a", full.listing(), age=age), running(following(3), "b"))
    assert [one for one in changes(plan) if one[1] == "b"] == expected


def test_a_surge_needs_no_turns() -> None:
    surge = fleet.deployment({"worker": {"resources": {"memory": "6Gi"}}, "rollout": {"maxSurge": 1}})
    plan = sites(surge, running(OLD, "a"), running(OLD, "b"))
    assert changes(plan) == [("ApplyApplication", "a"), ("ApplyApplication", "b")]


STEPS = {"steps": [{"weight": 50}], "maxSurge": 1}


def blocked(replicas: int = 1) -> AutoGLMDeployment:
    """A deployment whose new revision, with other pods, cannot be rolled out at a site with KubeRay: it has encoders."""
    before = fleet.deployment({"rollout": STEPS})
    plan = sites(before, running(before, "a"))
    worker = {"resources": {"memory": "6Gi", "cpu": 2}}
    after = fleet.deployment({"rollout": STEPS, "worker": worker, "replicas": replicas, "encoder": {}})
    return after.model_copy(update={"status": fleet.with_status(before, plan).status})


def test_a_rollout_that_is_blocked_leaves_the_pods_as_they_are() -> None:
    before = fleet.deployment({"rollout": STEPS})
    plan = sites(blocked(), running(before, "a"))
    assert plan.status.rollout is not None
    assert plan.status.rollout.phase == "Blocked"
    assert "remove spec.encoder, or choose other sites" in plan.status.rollout.message
    assert {row.name: row.state for row in plan.status.sites} == {"a": "Ready"}, "what serves has none"
    assert changes(plan) == []


def test_while_a_rollout_is_blocked_the_number_of_replicas_still_follows_the_spec_with_the_pods_there_are() -> None:
    before = fleet.deployment({"rollout": STEPS})
    old = kube.manifests(before, "a")[0]
    (change,) = sites(blocked(replicas=3), running(before, "a")).applications
    assert isinstance(change, ApplyApplication)
    made = change.manifests[0]
    assert made["metadata"]["annotations"] == old["metadata"]["annotations"]
    cluster, was = made["spec"]["rayClusterConfig"], old["spec"]["rayClusterConfig"]
    assert cluster["workerGroupSpecs"][0]["template"] == was["workerGroupSpecs"][0]["template"]
    assert cluster["workerGroupSpecs"][0]["replicas"] == 3
    assert list(change.workers.values()) == [3]


@pytest.mark.parametrize("surge", [0, 1])
def test_an_operator_that_gives_heads_another_grace_replaces_no_ray_cluster(surge: int) -> None:
    """KubeRay takes any other pod for a reason to make a second cluster where one is allowed."""
    of = fleet.deployment({"rollout": {"maxSurge": surge}})
    made = kube.Stored(*kube.manifests(of, "a"))
    made.runs()
    made.ray_service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][GRACE] = 150
    assert changes(sites(of, kube.view("a", made.listing()))) == []

    more = fleet.deployment({"rollout": {"maxSurge": surge}, "limits": {"maxQueue": 8}})
    (change,) = sites(more, kube.view("a", made.listing())).applications
    assert isinstance(change, ApplyApplication)
    assert change.manifests[0]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][GRACE] == 150
