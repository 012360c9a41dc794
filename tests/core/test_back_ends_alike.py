"""Both back ends, an existing Ray cluster and KubeRay, give the same status for the same situation."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator.api import AutoGLMDeployment, DeploymentStatus
from autoglm_operator.ray_serve import document
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import Observed, Plan, SiteView
from support import fleet, kube

Json = dict[str, Any]

NO_RESOURCES = 'Deployment "Engine" has 1 replicas that have taken more than 30s to be scheduled.'
NO_MODEL = "RayTaskError: ModelNotFound: there is no model at file:///models/9b"


@dataclass(frozen=True)
class Situation:
    """What Ray says of the application, in the words that its REST API and KubeRay share."""

    status: str
    engine: str = "HEALTHY"
    message: str = ""
    running: int = 2
    """Engine replicas that run."""
    admitted: bool = False
    had: bool = False
    """Whether it was Ready before."""


SITUATIONS = {
    "deploying": Situation("DEPLOYING", "UPDATING", running=0),
    "running and not admitted": Situation("RUNNING"),
    "running and admitted": Situation("RUNNING", admitted=True),
    "one replica lost": Situation("RUNNING", "UPDATING", running=1, admitted=True, had=True),
    "updating with one replica": Situation("DEPLOYING", "UPDATING", running=1, admitted=True, had=True),
    "unhealthy with a replica left": Situation("UNHEALTHY", "UNHEALTHY", "a replica died", 1, admitted=True, had=True),
    "unhealthy with none": Situation("UNHEALTHY", "UNHEALTHY", "all replicas died", 0),
    "not enough resources": Situation("DEPLOYING", "UPDATING", NO_RESOURCES, 0),
    "no model": Situation("DEPLOY_FAILED", "UNHEALTHY", NO_MODEL, 0),
    "failed": Situation("DEPLOY_FAILED", "UNHEALTHY", "ValueError: no", 0),
    "being deleted": Situation("DELETING", running=0),
}


def by_rest(of: AutoGLMDeployment, now: Situation) -> SiteView:
    """What the Serve REST API answers."""
    wanted = fleet.wanted(of).application
    replicas = [{"state": "RUNNING"}] * now.running
    details = {
        "status": now.status,
        "message": now.message,
        "deployed_app_config": wanted,
        "source": "declarative",
        "deployments": {
            "Engine": {"status": now.engine, "replicas": replicas, "target_num_replicas": of.spec.replicas},
            "Ingress": {"status": "HEALTHY"},
        },
    }
    found = document.applications({"applications": {wanted["name"]: details}})
    return SiteView(fleet.site("place"), applications=found, observed_at=fleet.NOW - timedelta(seconds=2))


def by_kuberay(of: AutoGLMDeployment, now: Situation) -> SiteView:
    """What the API server has of KubeRay's report."""
    stored = kube.Stored(*kube.manifests(of, "place"))
    if now.status == "DELETING":
        stored.ray_service["metadata"]["deletionTimestamp"] = "2026-03-01T11:59:00Z"
    stored.runs(now.status, now.engine, now.message, endpoints=now.running)
    return kube.view("place", stored.listing())


def status_of(read: Callable[[AutoGLMDeployment, Situation], SiteView], now: Situation) -> Plan:
    of = fleet.deployment({"replicas": 2})
    if now.had:
        before = Situation("RUNNING", admitted=True)
        of = fleet.with_status(of, decided(of, read(of, before), before))
    return decided(of, read(of, now), now)


def decided(of: AutoGLMDeployment, view: SiteView, now: Situation) -> Plan:
    gateway = fleet.gateway(*(fleet.admitted(of, "place") if now.admitted else ()))
    first = reconcile(of, Observed(sites=(view,), gateways=(gateway,)), fleet.NOW)
    seen = Observed(sites=(view,), gateways=(gateway,), published=fleet.published(first))
    return reconcile(of, seen, fleet.NOW)


def told(plan: Plan) -> DeploymentStatus:
    return plan.status


@pytest.mark.parametrize("name", sorted(SITUATIONS))
def test_the_status_is_the_same(name: str) -> None:
    now = SITUATIONS[name]
    rest, pods = status_of(by_rest, now), status_of(by_kuberay, now)
    assert told(pods) == told(rest)
    assert pods.events == rest.events
    assert bool(pods.applications) == bool(rest.applications), "the same is written, in each back end's own form"


def test_the_situations_differ() -> None:
    seen = {status_of(by_rest, now).status.model_dump_json() for now in SITUATIONS.values()}
    assert len(seen) >= len(SITUATIONS) - 1


def test_nothing_there_is_told_alike() -> None:
    of = fleet.deployment({"replicas": 2})
    rest = decided(of, fleet.view("place"), Situation(""))
    pods = decided(of, kube.view("place"), Situation(""))
    assert told(pods) == told(rest)
    assert len(pods.applications) == len(rest.applications) == 1


def test_a_ray_cluster_with_a_pod_for_each_replica_has_no_place_for_encoders() -> None:
    of = fleet.deployment({"replicas": 2, "encoder": {}})
    rest = decided(of, fleet.view("place"), Situation(""))
    pods = decided(of, kube.view("place"), Situation(""))
    assert len(rest.applications) == 1
    assert not pods.applications
    (row,) = told(pods).sites
    assert row.state == "Failed"
    assert "remove spec.encoder" in (row.message or "")
