"""A fault at every call that an operator makes: it is killed there, the call fails, or its answer is lost.

For each story (a deployment is made, changed, moved, suspended, deleted, rolled out in steps; a site is deleted) the calls of
an undisturbed run are counted. Then it is told again for each call, with one fault there. A killed operator is replaced by a
fresh one that knows nothing. The end must be the same as without a fault, and on the way nothing may be lost or done twice.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from autoglm_operator.store import DEPLOYMENT, SITE, ObjectKey
from support import virtual_time
from support.kube_model import KubeModel
from support.operator_sim import Fault, Trap, World, wired, writes
from support.ray_model import RayModel

PHONES = ObjectKey(DEPLOYMENT, "team", "phones")
OTHER = ObjectKey(DEPLOYMENT, "team", "other")
APPLICATION = "team.phones"
REST_S = 4.0
STEPS: dict[Fault, int] = {"fails": 3}
"""A call that fails is tried again like any other: every third one will do."""
FOREIGN = {"name": "shop", "route_prefix": "/shop", "import_path": "shop.recommender:app", "args": {"uid": "not-ours"}}
FAULTS: tuple[Fault, ...] = ("killed after", "fails", "answer lost", "conflict")
"""To be killed before a call is to be killed after the one before it."""


@dataclass(frozen=True)
class Story:
    """What the user does to a deployment that is Ready at two sites, and when that is carried out."""

    act: Callable[[World], object]
    done: Callable[[World], bool]
    begins_ready: bool = True
    load: float = 0.0
    """Requests under way at the first site."""
    before: dict[str, Any] = field(default_factory=dict)
    """The deployment before."""
    kuberay: tuple[str, ...] = ()
    """Sites with KubeRay beside the others."""
    most_pods: int = 0
    """Worker pods that each of these may have: replicas and surge."""
    every: int = 1
    """A long story is told again for each so many calls once."""


def gone(world: World, key: ObjectKey) -> bool:
    return key not in world.objects


def serves(world: World, *sites: str) -> bool:
    here = {site for site, configs in world.configs().items() if APPLICATION in configs}
    return here == set(sites) and world.routes().get("team/phones") == list(sites)


ROLLOUT = {"maxSurge": 1, "steps": [{"weight": 0}, {"weight": 50, "hold": "2s"}]}
BEGUN: dict[str, Any] = {"rollout": ROLLOUT, "sites": {"names": ["a", "k"]}}
CHANGED: dict[str, Any] = {"engine": {"maxConcurrency": 9}, "worker": {"resources": {"memory": "6Gi"}}}


def at_both(world: World, application: str) -> bool:
    """Whether this is the only application of ours at a Ray cluster and at a site with KubeRay, and clients get it."""
    ours = {site: sorted(name for name in found if name != "shop") for site, found in world.configs().items()}
    ends = [end.url.rpartition("/")[2] for table in world.tables[-1:] for end in table.routes[0].endpoints]
    rollout = world.status(PHONES).get("rollout") or {}
    settled = rollout.get("phase") in ("Stable", "RolledBack") and rollout.get("candidate") is None
    return settled and ours == {"a": [application], "b": [], "k": [application]} and ends == [application] * 2


STORIES = {
    "it is made": Story(
        lambda world: world.apply_deployment(),
        lambda world: world.is_ready(PHONES) and serves(world, "a", "b"),
        begins_ready=False,
    ),
    "its engine is changed": Story(
        lambda world: world.apply_deployment(engine={"maxConcurrency": 9}),
        lambda world: world.is_ready(PHONES) and serves(world, "a", "b"),
    ),
    "it leaves a site": Story(
        lambda world: world.apply_deployment(sites={"names": ["a"]}),
        lambda world: world.is_ready(PHONES) and serves(world, "a"),
    ),
    "its load rises": Story(
        lambda world: world.apply_deployment(scaling={"max": 8}),
        lambda world: _replicas(world) == {"a": 3, "b": 1} and world.is_ready(PHONES),
        load=11.0,
    ),
    "it is suspended": Story(
        lambda world: world.apply_deployment(suspend=True),
        lambda world: world.condition(PHONES) == ("False", "Suspended") and not _ours(world),
    ),
    "it is deleted": Story(lambda world: world.delete(PHONES), lambda world: gone(world, PHONES)),
    "a site is deleted": Story(
        lambda world: world.delete(ObjectKey(SITE, "", "b")),
        lambda world: gone(world, ObjectKey(SITE, "", "b")) and world.is_ready(PHONES) and serves(world, "a"),
    ),
    "it is rolled out in steps": Story(
        lambda world: world.apply_deployment(**BEGUN, **CHANGED),
        lambda world: world.is_ready(PHONES) and at_both(world, f"{APPLICATION}.2"),
        before=BEGUN,
        kuberay=("k",),
        most_pods=2,
    ),
    "its replicas give way to those of the next revision": Story(
        lambda world: world.apply_deployment(**BEGUN, **CHANGED, replicas=3),
        lambda world: world.is_ready(PHONES) and at_both(world, f"{APPLICATION}.2"),
        before={**BEGUN, "replicas": 3},
        kuberay=("k",),
        most_pods=4,
        every=8,
    ),
}  # fmt: skip


def _replicas(world: World) -> dict[str, int]:
    configs = {site: found.get(APPLICATION) for site, found in world.configs().items()}
    return {site: config["deployments"][0]["num_replicas"] for site, config in configs.items() if config is not None}


def _ours(world: World) -> list[str]:
    return [name for configs in world.configs().values() for name in configs if name != "shop"]


@dataclass(frozen=True)
class Told:
    """How a story went: what is left at its end, and what the first operator called."""

    end: Any
    deployed: list[tuple[str, str]]
    calls: list[str]
    hit: str | None


async def tell(story: Story, trap: Trap | None) -> Told:
    world = World(kuberay=story.kuberay)
    with wired(world):
        for cluster in world.clusters.values():
            cluster.put([FOREIGN])
        for site in (*world.clusters, *world.kuberay):
            world.apply_site(site)
        world.loads = {"team/phones": {"a": story.load}}
        process = world.start("first")
        if story.begins_ready:
            world.apply_deployment(**story.before)
            await world.wait(lambda: world.is_ready(PHONES), "it is Ready")
        else:
            await world.wait(lambda: bool(world.tables), "the operator leads")
        places: list[RayModel | KubeModel] = [*world.clusters.values(), *world.kuberay.values()]
        for place in places:
            place.deployed.clear()
        process.calls, process.trap = [], trap
        story.act(world)
        try:
            await world.wait(lambda: process.dead or story.done(world), "it is carried out")
            calls = process.calls[:]
            if process.dead:
                second = world.start("second")
                await world.wait(lambda: world.leader() is second, "a fresh operator leads")
                await world.wait(lambda: story.done(world), "it carried the rest out")
            await asyncio.sleep(REST_S)
            assert story.done(world), "it stays so"
        finally:
            await world.stop()
        deployed = [one for place in places for one in place.deployed]
        assert all(pods <= story.most_pods for place in world.kuberay.values() for pods in place.pods)
        return Told(_end(world), deployed, calls, trap.hit if trap else None)


def _end(world: World) -> Any:
    """What is left, without times and numbers that count writes."""
    objects = {
        str(key): (found["spec"], found["metadata"].get("finalizers"), _timeless(found.get("status")))
        for key, found in world.objects.items()
    }
    return objects, world.configs(), world.routes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        skipped = (
            "lastTransitionTime",
            "since",
            "capacityObservedAt",
            "capacityMessage",
            "observedAt",
            "gatewayTable",
            "at",
            "took",
        )
        return {key: _timeless(each) for key, each in value.items() if key not in skipped}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", STORIES)
def test_a_fault_at_any_call_changes_nothing_in_the_end(name: str, fault: Fault) -> None:
    story = STORIES[name]
    good = virtual_time.run(tell(story, None))
    points = [at for at, what in enumerate(good.calls, 1) if matters(fault, what)][
        :: max(STEPS.get(fault, 1), story.every)
    ]
    assert len(points) > 2
    for at in points:
        told = virtual_time.run(tell(story, Trap(at, fault)))
        where = f"{fault} at call {at}: {told.hit}"
        assert told.hit is not None, where
        assert told.end == good.end, where
        assert sorted(told.deployed) == sorted(good.deployed), where


def matters(fault: Fault, what: str) -> bool:
    """A lost answer of a read is a failed read; only writes of objects conflict."""
    if fault == "answer lost":
        return writes(what)
    if fault == "conflict":
        return what.startswith(("status", "finalizers", "PATCH"))
    return True
