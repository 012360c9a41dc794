"""The definition changes under load: fields come and go, bounds are tightened, and objects that were stored before stay."""

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from support import manifests
from support.kubernetes import CRDS, KubectlFailed
from support.operator import World
from support.processes import wait_until

Json = dict[str, Any]

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

_FILE = CRDS / "autoglmdeployments.serving.autoglm.dev.yaml"
FORMER, COMING = "formerHint", "comingHint"
"""A field that only an earlier definition knows, and one that only a later one knows. This operator knows neither."""
CROWD = 1500
"""Replicas that the earlier definition allowed, and the present one does not."""
TIGHT = 4
"""Replicas that the later definition allows at most."""


def definition(field: str = "", replicas: int = 0) -> Json:
    """The present definition, with one more field, or with another bound of the replicas."""
    found: Json = copy.deepcopy(yaml.safe_load(_FILE.read_text()))
    (version,) = found["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    if field:
        spec[field] = {"type": "string", "maxLength": 63}
    if replicas:
        spec["replicas"]["maximum"] = replicas
    return found


def is_taken(world: World, **spec: Any) -> bool:
    """Whether the API server would store a new deployment with these fields."""
    made = manifests.deployment("trial", **spec)
    made["metadata"]["namespace"] = world.namespace
    try:
        world.api.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(made))
    except KubectlFailed as refused:
        if not any(word in str(refused) for word in ("unknown field", "spec.replicas")):
            raise
        return False
    return True


def define(world: World, made: Json, *, taken: Json, refused: Json) -> None:
    """Change the definition; returns when the API server goes by it."""
    world.api.apply(made)
    wait_until(lambda: is_taken(world, **taken) and not is_taken(world, **refused), "the API server goes by it")


@contextmanager
def load(world: World) -> Iterator[list[int]]:
    """A deployment of five replicas that is changed again and again, each time when the last change is carried out."""
    stop, done = threading.Event(), [0]

    def change() -> None:
        while not stop.is_set():
            world.apply_deployment(replicas=5, limits={"maxQueue": 100 + done[0]})
            world.wait_ready()
            done[0] += 1

    with ThreadPoolExecutor(1) as pool:
        changing: Future[None] = pool.submit(change)
        try:
            wait_until(lambda: done[0] > 0 or changing.done(), "the load has begun")
            yield done
            goes_on(done)
        finally:
            stop.set()
        changing.result()


def goes_on(done: list[int]) -> None:
    """Two changes that begin from now on are carried out."""
    since = done[0]
    wait_until(lambda: done[0] >= since + 3, "changes are carried out")


@pytest.fixture
def restored(empty_world: World) -> Iterator[World]:
    """The definition is the project's own again in the end."""
    try:
        yield empty_world
    finally:
        define(empty_world, definition(), taken={"replicas": 1000}, refused={"replicas": 1001})


def stored(world: World, name: str) -> Json:
    found = world.deployment(name)
    assert found is not None, f"{name} is gone"
    return found


def written(world: World, name: str) -> list[Json]:
    """The different applications that Ray was told for a deployment."""
    told = [one for put in world.ray.puts for one in put["applications"] if one["name"] == world.application(name)]
    return [one for number, one in enumerate(told) if one not in told[:number]]


def named(name: str) -> Json:
    return {"model": {"name": f"autoglm-{name}", "uri": "builtin://autoglm-tiny"}}


def test_stored_objects_survive_a_changed_definition_under_load_and_the_operator_goes_on(restored: World) -> None:
    world = restored
    define(world, definition(FORMER, CROWD), taken={FORMER: "x", "replicas": CROWD}, refused={COMING: "x"})
    operator = world.operator("only")
    world.apply_site()
    world.apply_deployment("elder", replicas=2, **named("elder"))
    world.wait_ready("elder")
    world.apply_deployment("elder", replicas=2, **{**named("elder"), FORMER: "kept"})
    world.apply_deployment("crowd", replicas=CROWD, **named("crowd"))
    for name, field in (("elder", FORMER), ("crowd", "spec.replicas")):
        world.wait(lambda: world.condition("Ready", name)[1] == "InvalidSpec", "it is told")  # noqa: B023
        assert field in world.condition("Ready", name)[2]
    uids = {name: stored(world, name)["metadata"]["uid"] for name in ("elder", "crowd")}
    elders = written(world, "elder")
    assert len(elders) == 1

    with load(world) as done:
        # The present definition: a field is gone, and a bound is tighter than what is stored.
        define(world, definition(), taken={"replicas": 1000}, refused={"replicas": CROWD})
        world.wait_ready("elder")
        assert FORMER not in stored(world, "elder")["spec"]
        assert stored(world, "crowd")["spec"]["replicas"] == CROWD
        assert world.condition("Ready", "crowd")[1] == "InvalidSpec"
        goes_on(done)

        # A later one: a new field, and a bound that the deployment under load breaks. It is changed all the same.
        define(
            world, definition(COMING, TIGHT), taken={COMING: "x", "replicas": TIGHT}, refused={"replicas": TIGHT + 1}
        )
        goes_on(done)
        world.apply_deployment("elder", replicas=2, **{**named("elder"), COMING: "new"})
        world.wait(lambda: world.condition("Ready", "elder")[1] == "InvalidSpec", "the unknown field is told")
        assert COMING in world.condition("Ready", "elder")[2]
        assert world.ray.applications[world.application("elder")].status == "RUNNING"
        assert f"{world.namespace}/elder" in world.routes()
        goes_on(done)

        # And back: what is stored with the field of the later one is read without it.
        define(world, definition(), taken={"replicas": 1000}, refused={COMING: "x"})
        world.wait_ready("elder")
        goes_on(done)
    world.wait_ready()

    assert {name: stored(world, name)["metadata"]["uid"] for name in uids} == uids
    assert written(world, "elder") == elders, "nothing else was written to Ray for it"
    assert stored(world, "phones")["spec"]["replicas"] == 5
    world.apply_deployment("crowd", replicas=1, **named("crowd"))
    world.wait_ready("crowd")
    assert operator.process.running
    assert operator.role() == "leading"
    errors = [entry for entry in operator.log_entries() if entry["level"] == "error"]
    assert not errors, errors
