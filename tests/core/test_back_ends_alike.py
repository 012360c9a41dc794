"""Both back ends, an existing Ray cluster and KubeRay, give the same status for the same situation."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator.api import AutoGLMDeployment, DeploymentStatus, RolloutStatus
from autoglm_operator.ray_serve import document
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import Observed, Plan, SiteView
from support import fleet, kube
from support.simulation import World

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


OLD, NEW = ({"engine": {"maxConcurrency": number}} for number in (4, 5))
STEPS = {
    "maxSurge": 1,
    "steps": [{"weight": 0}, {"weight": 50, "hold": "20s"}],
    "gates": [{"metric": "errors", "maximum": 0.1}],
}
ROLLOUTS: dict[str, Json] = {
    "Stable": {"requests": 50},
    "RolledBack": {"requests": 50, "errors": 20},
    "Progressing": {},
}
"""What gateways measure of the new revision, by the phase to which that leads."""


def seen_of(plan: Plan) -> Json:
    """What the status tells of a rollout, without the times and without how far replicas are on their way."""
    found = plan.status.rollout
    assert found is not None
    kept = RolloutStatus.model_fields.keys() - {"message", "traffic", "revisions"}
    timed = ("at", "enteredAt", "stepSince", "observedAt", "since")
    return {
        "rollout": _without(found.model_dump(mode="json", by_alias=True, include=kept), timed),
        "revisions": [(one.revision, one.state, one.reason) for one in found.revisions],
        "shares": [[(one.revision, one.percent) for one in row.shares] for row in found.traffic],
        "conditions": [
            (one.type, one.status, one.reason) for one in plan.status.conditions if one.type != "Progressing"
        ],
    }


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    return [_without(each, names) for each in value] if isinstance(value, list) else value


def told_of_rollout(replicas: int, figures: Json, broken: int | None = None) -> tuple[list[Json], dict[str, int]]:
    """All that a rollout tells from its beginning to its end, each thing once, and the replicas that it leaves.

    `broken`: so many replicas of the old revision stay up; the others die again and again."""
    spec = {"replicas": replicas, "sites": {"names": ["a", "b"]}, "rollout": STEPS}
    world = World(fleet.deployment(spec | OLD), {"a": {}, "b": {}})
    world.converge()
    if broken is not None:
        world.broken = {fleet.wanted(world.deployment).revision: broken}
        world.settle()
    wanted = fleet.deployment(spec | NEW, generation=2)
    world.deployment = wanted.model_copy(update={"status": world.deployment.status})
    world.figures = {fleet.wanted(wanted).revision: figures}
    told: list[Json] = []
    for _ in range(60 if broken is None else 240):
        now = seen_of(world.step())
        told += [now] if now not in told[-1:] else []
        world.settle()
        world.now += timedelta(seconds=4)
    return told, {name: app.replicas for name, app in world.clusters["b"].items()}


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("phase", ROLLOUTS)
def test_a_rollout_in_steps_is_told_alike(phase: str, replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for sites in ((), ("a", "b"), ("b",)):
        monkeypatch.setattr(World, "kuberay", frozenset(sites))
        found.append(told_of_rollout(replicas, ROLLOUTS[phase]))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[0][0][-1]["rollout"]["phase"] == phase


@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_revision_is_replaced_alike(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve never says again that it is as it shall be: its pods go all the same."""
    found = []
    for sites in ((), ("a", "b"), ("b",)):
        monkeypatch.setattr(World, "kuberay", frozenset(sites))
        found.append(told_of_rollout(2, ROLLOUTS["Stable"], broken))
    for told, left in found:
        assert (told[-1]["rollout"]["phase"], told[-1]["rollout"]["stable"]) == (
            "Stable",
            fleet.wanted(fleet.deployment(NEW)).revision,
        )
        assert left == {"team.quickstart.2": 2}
    assert found[1] == found[0]
    assert found[2] == found[0]
