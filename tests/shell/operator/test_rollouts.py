"""Rollouts in steps against a real API server: what is stored, what is routed, and what is left on the cluster."""

from typing import Any

from support.operator import World

GATED: dict[str, Any] = {
    "maxSurge": 1,
    "steps": [{"weight": 25, "hold": "1s"}],
    "mirror": {"percent": 50},
    "gates": [{"metric": "agreement", "minimum": 0.9}],
}


def rollout(world: World) -> dict[str, Any]:
    return dict(((world.deployment() or {}).get("status") or {}).get("rollout") or {})


def actions(world: World) -> list[str]:
    return [one["action"] for one in rollout(world).get("decisions") or ()]


def test_a_good_revision_is_promoted_and_one_that_answers_differently_is_taken_back(world: World) -> None:
    world.apply_site()
    world.apply_deployment(rollout=GATED)
    world.wait_ready()
    base = world.application()
    first = rollout(world)["stable"]

    world.gateway.figures = {"requests": 40, "compared": 40, "agreed": 39}
    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 5})
    world.wait(lambda: actions(world)[-1:] == ["Promoted"], "the good revision is promoted")
    world.wait_ready()
    good = rollout(world)
    assert actions(world) == ["Started", "Advanced", "Promoted"]
    assert good["application"] == f"{base}.2"
    assert world.ray.config(f"{base}.2") is not None
    world.wait(lambda: world.ray.config(base) is None, "the old application is gone")
    assert {one["revision"]: one["state"] for one in good["revisions"]} == {first: "Retired", good["stable"]: "Stable"}
    kept = next(one for one in good["revisions"] if one["revision"] == first)
    assert kept["template"]["model"]["uri"], "the API server keeps what is needed to go back"

    world.gateway.figures = {"requests": 40, "compared": 40, "agreed": 3}
    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 6})
    world.wait(lambda: rollout(world).get("phase") == "RolledBack", "the bad revision is taken back")
    bad = rollout(world)
    assert bad["stable"] == good["stable"]
    assert "agreement: 7.5% of 40" in bad["rejected"]["reason"]
    assert world.condition("Ready")[:2] == ("False", "RolledBack")
    assert world.condition("SitesReady")[0] == "True"
    world.wait(lambda: world.ray.config(base) is None, "its application is gone")

    world.gateway.figures = {}
    world.apply_deployment(rollout=GATED | {"revision": first}, engine={"maxConcurrency": 6})
    world.wait(lambda: rollout(world).get("stable") == first, "the first revision serves again")
    config = world.ray.config(base)
    assert config is not None
    assert config["args"]["revision"] == first

    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 7})
    world.wait(lambda: bool(rollout(world).get("candidate")), "another revision is on its way")
    under_way = rollout(world)
    assert under_way["steps"] == [{"weight": 25, "hold": "1s", "approval": False}], "the API server keeps the steps"
    world.apply_deployment(rollout=GATED, engine={"maxConcurrency": 8})
    world.wait(lambda: actions(world)[-2:] == ["Superseded", "Started"], "the next one takes its place")
    gave_way = next(one for one in rollout(world)["revisions"] if one["revision"] == under_way["candidate"])
    assert gave_way["state"] == "Superseded"
    assert gave_way["reason"] == f"the spec describes revision {rollout(world)['candidate']} now"
