"""What a RayService says, whole or broken by a person."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from autoglm_operator.kuberay import names, observed
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import ApplicationView, ApplyApplication, DeleteApplication, Observed
from support import fleet, kube

Json = dict[str, Any]


def stored(spec: Json | None = None) -> kube.Stored:
    """A deployment that runs."""
    made = kube.Stored(*kube.manifests(fleet.deployment(spec), "pods"))
    made.runs()
    return made


def view(made: kube.Stored) -> ApplicationView:
    (found,) = observed.applications(made.listing(), "pods")
    return found


def test_a_running_application_has_all_its_replicas() -> None:
    found = view(stored({"replicas": 3}))
    assert (found.status, found.ready_replicas, found.target_replicas) == ("RUNNING", 3, 3)
    assert found.owner_uid == fleet.UID
    assert found.revision == fleet.wanted(fleet.deployment()).revision


def test_right_after_a_change_of_the_replicas_only_workers_that_serve_count() -> None:
    # KubeRay reads Serve's state and then submits the change: what it reports is HEALTHY with what there was before.
    made = stored({"replicas": 3})
    made.runs("RUNNING", "HEALTHY", endpoints=1)
    assert (view(made).status, view(made).ready_replicas, view(made).target_replicas) == ("RUNNING", 1, 3)


def test_what_kuberay_has_not_looked_at_is_on_its_way() -> None:
    made = stored()
    made.ray_service["metadata"]["generation"] = 2
    assert view(made).status == "DEPLOYING"


def test_a_new_cluster_is_what_counts_while_there_are_two() -> None:
    made = stored()
    application = view(made).name
    made.status(
        activeServiceStatus=kube.service(application, "RUNNING"),
        pendingServiceStatus=kube.service(application, "DEPLOYING", "UPDATING") | {"rayClusterName": "cluster-2"},
        numServeEndpoints=1,
    )
    found = view(made)
    assert found.status == "DEPLOYING"
    assert found.ray_service is not None
    assert found.ray_service.upgrading


@pytest.mark.parametrize("reason", ["ValidationFailed", "InitializingTimeout"])
def test_what_kuberay_gave_up_is_a_failure_in_its_words(reason: str) -> None:
    made = stored()
    made.status(conditions=[{"type": "Ready", "status": "False", "reason": reason, "message": "name too long"}])
    assert (view(made).status, view(made).message) == ("DEPLOY_FAILED", "KubeRay: name too long")


def test_a_head_that_is_not_ready_is_told() -> None:
    made = stored()
    head = {"type": "HeadPodReady", "status": "False", "reason": "ContainersNotReady", "message": "ImagePullBackOff"}
    pending = {"rayClusterName": "cluster-1", "rayClusterStatus": {"conditions": [head]}}
    made.status(pendingServiceStatus=pending)
    assert view(made).message == "the Ray head is not ready: ImagePullBackOff"


def test_when_the_configuration_was_written_is_the_time_of_our_last_apply() -> None:
    made = stored()
    made.ray_service["metadata"]["managedFields"] = [
        {"manager": "autoglm-operator", "operation": "Apply", "time": "2026-03-01T11:30:00Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-03-01T11:50:00Z"},
        {"manager": "autoglm-operator", "operation": "Apply", "time": "2026-03-01T11:40:00Z"},
    ]
    assert view(made).deployed_at == datetime(2026, 3, 1, 11, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "null",
        '{"applications": {}}',
        '{"applications": [null]}',
        '{"applications": [{}, {}]}',
        "- a\n- b",
    ],
)
def test_a_document_that_a_person_broke_stays_ours_and_is_put_right(document: str) -> None:
    made = stored()
    made.ray_service["spec"]["serveConfigV2"] = document
    assert view(made).owner_uid == fleet.UID
    of = fleet.deployment()
    plan = reconcile(of, Observed(sites=(kube.view("pods", made.listing()),)), fleet.NOW)
    (change,) = plan.applications
    assert isinstance(change, ApplyApplication)
    assert json.loads(change.manifests[0]["spec"]["serveConfigV2"])["applications"][0]["name"] == "team.quickstart"


def test_a_document_that_names_another_program_is_put_right_too() -> None:
    made = stored()
    document = json.loads(made.ray_service["spec"]["serveConfigV2"])
    document["applications"][0]["import_path"] = "shop.checkout:app"
    made.ray_service["spec"]["serveConfigV2"] = json.dumps(document)
    plan = reconcile(fleet.deployment(), Observed(sites=(kube.view("pods", made.listing()),)), fleet.NOW)
    assert [type(change) for change in plan.applications] == [ApplyApplication]


def test_one_mark_is_enough_to_know_our_own_and_without_any_it_is_somebody_elses() -> None:
    made = stored()
    del made.ray_service["metadata"]["labels"][names.SITE]
    assert view(made).owner_uid == fleet.UID
    del made.ray_service["metadata"]["annotations"][names.DEPLOYMENT_UID]
    assert view(made).owner_uid is None


def test_a_rayservice_of_another_site_is_not_ours() -> None:
    made = stored()
    made.ray_service["metadata"]["labels"][names.SITE] = "elsewhere"
    assert view(made).owner_uid is None


def test_a_foreign_rayservice_of_the_wanted_name_is_a_conflict_and_is_left_alone() -> None:
    made = stored()
    made.ray_service["metadata"] |= {"labels": {}, "annotations": {}}
    plan = reconcile(fleet.deployment(), Observed(sites=(kube.view("pods", made.listing()),)), fleet.NOW)
    assert plan.applications == ()
    assert fleet.rows(plan) == {"pods": "Conflict"}
    assert fleet.condition(plan, "SitesReady") == ("False", "NameTaken")


def decided(made: kube.Stored, spec: Json, backend: Json | None = None) -> Any:
    sites = (kube.view("pods", made.listing(), backend=backend),)
    return reconcile(fleet.deployment(spec), Observed(sites=sites), fleet.NOW)


def test_nothing_is_written_while_nothing_changes() -> None:
    assert decided(stored(), {}).applications == ()


def test_workers_come_with_the_replicas_and_go_when_serve_has_emptied_them() -> None:
    made = stored({"replicas": 2})
    cluster = made.ray_cluster["metadata"]["name"]
    (up,) = decided(made, {"replicas": 3}).applications
    assert up.workers == {cluster: 3}
    (down,) = decided(made, {"replicas": 1}).applications
    assert down.workers == {}, "Serve comes first"
    emptied = stored({"replicas": 1})
    emptied.ray_cluster = made.ray_cluster
    (after,) = decided(emptied, {"replicas": 1}).applications
    assert after.workers == {cluster: 1}
    emptied.runs("DEPLOYING", "UPDATING")
    assert decided(emptied, {"replicas": 1}).applications == (), "no worker goes while Serve moves replicas"


IMAGE: Json = {"image": "registry.example/autoglm-serving:2"}


def test_a_change_of_pods_without_room_is_refused_and_the_old_ones_go_on() -> None:
    plan = decided(stored({"replicas": 2}), {"replicas": 2}, IMAGE)
    assert plan.applications == ()
    assert fleet.condition(plan, "SitesReady") == ("False", "ClusterChangeRefused")
    assert (plan.status.sites[0].state, plan.status.sites[0].ready) == ("Degraded", 2)


def test_a_change_of_pods_with_room_for_downtime_takes_the_first_cluster_away_before() -> None:
    spec = {"replicas": 2, "rollout": {"maxUnavailable": 2}}
    (change,) = decided(stored(spec), spec, IMAGE).applications
    assert change == DeleteApplication("pods", "team.quickstart", fleet.UID)


def test_a_change_of_pods_with_room_beside_starts_the_second_cluster_first() -> None:
    spec = {"replicas": 2, "rollout": {"maxSurge": 2}}
    (change,) = decided(stored(spec), spec, IMAGE).applications
    assert isinstance(change, ApplyApplication)
    assert change.manifests[0]["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


def test_pods_that_never_worked_are_replaced_whatever_the_budget() -> None:
    spec = {"replicas": 4, "rollout": {"maxUnavailable": 0}}
    made = stored(spec)
    made.status(pendingServiceStatus={"rayClusterName": "cluster-1"})
    (change,) = decided(made, spec, IMAGE).applications
    assert isinstance(change, DeleteApplication)


def test_a_suspended_deployment_gives_its_pods_back() -> None:
    (change,) = decided(stored(), {"suspend": True}).applications
    assert change == DeleteApplication("pods", "team.quickstart", fleet.UID)
