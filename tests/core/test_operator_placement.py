"""Placement by the whole controller, in virtual time: replicas move a few at a time, whatever fails around the operator."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from autoglm_operator.store import DEPLOYMENT, ObjectKey
from support import virtual_time
from support.operator_sim import Fault, Trap, World, wired, writes

PHONES = ObjectKey(DEPLOYMENT, "team", "phones")
APPLICATION = "team.phones"
REPLICAS = 4
CORES = 6.0
SPEC: dict[str, Any] = {"replicas": REPLICAS, "placement": {"settle": "1m", "grace": "2m"}}


class Watch:
    """What was asked of the clusters and what ran on them, from one moment to the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[dict[str, int]] = []
        self.fewest = REPLICAS
        self.task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            now = asked(self.world)
            if now != (self.asked[-1] if self.asked else None):
                self.asked.append(now)
            self.fewest = min(self.fewest, running(self.world))
            await asyncio.sleep(0.05)

    def begin(self) -> None:
        """Forgets what was before."""
        self.asked, self.fewest = [asked(self.world)], REPLICAS


def asked(world: World) -> dict[str, int]:
    """Replicas that each cluster was asked for."""
    configs = {site: found.get(APPLICATION) for site, found in world.configs().items()}
    return {site: config["deployments"][0]["num_replicas"] for site, config in configs.items() if config is not None}


def running(world: World) -> int:
    """Replicas that run at sites that gateways reach."""
    for cluster in world.clusters.values():
        cluster.get()
    found = (cluster.applications.get(APPLICATION) for cluster in world.clusters.values())
    return sum(one.running for one in found if one is not None)


def told(world: World, key: ObjectKey = PHONES) -> dict[str, int]:
    """Replicas by site, as the status has them."""
    rows = world.status(key).get("placement", {}).get("sites", ())
    return {row["name"]: row["replicas"] for row in rows if row["replicas"]}


def is_at(world: World, **replicas: int) -> bool:
    """Whether so many replicas were asked for at each site, run, are told and get requests."""
    routes = world.routes().get("team/phones")
    return (
        asked(world) == told(world) == replicas
        and running(world) == sum(replicas.values())
        and routes == sorted(replicas)
    )


def steps(of: list[dict[str, int]], site: str) -> list[int]:
    """How the number of one site changed, from one thing asked for to the next."""
    counts = [one.get(site, 0) for one in of]
    return [after - before for before, after in itertools.pairwise(counts) if after != before]


def play(act: Callable[[World, Watch], Awaitable[None]]) -> None:
    """Two sites, a cheaper than b, with room for six replicas each; four run at a."""
    random.seed(7)

    async def main() -> None:
        world = World()
        with wired(world):
            watch = Watch(world)
            try:
                for name, cluster in world.clusters.items():
                    cluster.cores = CORES
                    world.apply_site(name, price={"a": 1.0, "b": 2.0}[name])
                world.apply_deployment(**SPEC)
                world.start("first")
                await world.wait(lambda: world.is_ready(PHONES) and is_at(world, a=4), "all are at the cheaper site")
                await act(world, watch)
            finally:
                watch.task.cancel()
                await world.stop()

    virtual_time.run(main())


async def kill_in_turn(world: World) -> None:
    """Operators are killed 17 s after they began to lead; another one begins at once."""
    for number in range(12):
        await asyncio.sleep(17)
        for process in world.processes:
            process.kill()
        world.start(f"fresh-{number}")


async def lose_api(world: World) -> None:
    """The API server is away for half of the time."""
    for _ in range(6):
        world.down.add("api")
        await asyncio.sleep(20)
        world.down.discard("api")
        await asyncio.sleep(20)


async def lose_links(world: World) -> None:
    """Each site in turn is cut off the operator for less than the grace."""
    for site in "abab":
        world.cut.add(site)
        await asyncio.sleep(50)
        world.cut.discard(site)
        await asyncio.sleep(10)


async def lose_gateway(world: World) -> None:
    """The gateway answers no operator for a while."""
    for _ in range(4):
        world.down.add("gateway")
        await asyncio.sleep(30)
        world.down.discard("gateway")
        await asyncio.sleep(20)


FAULTS = {"kills": kill_in_turn, "no API server": lose_api, "cut links": lose_links, "no gateway": lose_gateway}


@pytest.mark.parametrize("fault", FAULTS)
def test_replicas_move_to_the_cheaper_site_one_by_one_whatever_fails_meanwhile(fault: str) -> None:
    async def act(world: World, watch: Watch) -> None:
        watch.begin()
        world.apply_site("a", price=5.0)
        await FAULTS[fault](world)
        await world.wait(lambda: world.is_ready(PHONES) and is_at(world, b=4), "all are at the other site", 1800)
        assert steps(watch.asked, "b") == [1, 1, 1, 1], watch.asked
        assert steps(watch.asked, "a") == [-1, -1, -1, -1], watch.asked
        assert watch.fewest == REPLICAS, "the next one runs before the last one goes"
        assert max(sum(one.values()) for one in watch.asked) == REPLICAS + 1

    play(act)


@pytest.mark.parametrize("fault", ["killed after", "answer lost"])
def test_a_move_survives_a_fault_at_any_write(fault: Fault) -> None:
    """Told once undisturbed, then once for each write, with one fault there; whoever was killed is replaced."""
    spec: dict[str, Any] = {"replicas": REPLICAS, "placement": {"settle": "0s"}}

    def tell(trap: Trap | None) -> list[str]:
        calls: list[str] = []

        async def act(world: World, watch: Watch) -> None:
            world.apply_deployment(**spec)
            await world.wait(lambda: world.is_ready(PHONES), "it is Ready with the new spec")
            await asyncio.sleep(5)
            process = world.processes[0]
            process.calls, process.trap = [], trap
            watch.begin()
            world.apply_site("a", price=5.0)
            await world.wait(lambda: process.dead or is_at(world, b=4), "they moved, or it was killed", 1800)
            calls.extend(process.calls)
            if process.dead:
                world.start("second")
            await world.wait(lambda: world.is_ready(PHONES) and is_at(world, b=4), "all are at the other site", 1800)
            assert steps(watch.asked, "b") == [1, 1, 1, 1], (trap, watch.asked)
            assert steps(watch.asked, "a") == [-1, -1, -1, -1], (trap, watch.asked)
            assert watch.fewest == REPLICAS, trap

        play(act)
        return calls

    points = [at for at, what in enumerate(tell(None), 1) if writes(what)]
    assert len(points) > 12, "each replica is written at both sites, and its move into the status"
    for at in points:
        trap = Trap(at, fault)
        tell(trap)
        assert trap.hit is not None


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_saturated_site_cannot_hold_moves_and_nothing_else_does(fault: str) -> None:
    async def act(world: World, watch: Watch) -> None:
        watch.begin()
        world.clusters["a"].cores = 1.0
        await FAULTS[fault](world)
        await world.wait(lambda: is_at(world, a=1, b=3), "three are at the other site", 900)
        assert next(one["b"] for one in watch.asked if "b" in one) == 3, "at once: they answer nobody where they are"
        assert watch.asked[-1] == {"a": 1, "b": 3}
        assert min(one.get("a", 0) for one in watch.asked) == 1
        since = len(watch.asked)
        await asyncio.sleep(600)
        assert watch.asked[since:] == [], "it is not tried again while it is full"
        assert world.is_ready(PHONES)

    play(act)


def test_replicas_come_back_one_by_one_when_the_site_has_room_again() -> None:
    async def act(world: World, watch: Watch) -> None:
        world.clusters["a"].cores = 1.0
        await world.wait(lambda: is_at(world, a=1, b=3), "three are at the other site")
        watch.begin()
        world.clusters["a"].cores = CORES
        await world.wait(lambda: is_at(world, a=4), "they are back", 7200)
        assert steps(watch.asked, "a") == [1, 1, 1]
        assert watch.fewest == REPLICAS

    play(act)


def test_a_silent_site_keeps_its_replicas_for_the_grace_and_loses_them_after_it() -> None:
    async def act(world: World, watch: Watch) -> None:
        watch.begin()
        world.cut.add("a")
        await asyncio.sleep(110)
        assert watch.asked == [{"a": 4}], "the operator does not see it, and that is all"
        await world.wait(lambda: told(world) == {"b": 4}, "the grace is over", 60)
        await world.wait(lambda: asked(world).get("b") == 4, "they start elsewhere")
        assert asked(world)["a"] == 4, "nobody can take away what runs there"
        world.cut.clear()
        await world.wait(lambda: world.is_ready(PHONES) and sum(asked(world).values()) == REPLICAS, "one of them goes")
        assert watch.fewest == REPLICAS
        await world.wait(lambda: is_at(world, a=4), "it is the cheaper one after all", 3600)
        assert watch.fewest == REPLICAS

    play(act)


def test_what_no_site_has_room_for_is_told_and_placed_when_there_is_room() -> None:
    async def act(world: World, watch: Watch) -> None:
        for cluster in world.clusters.values():
            cluster.cores = 1.0
        await world.wait(lambda: world.condition(PHONES, "SitesReady") == ("False", "InsufficientResources"), "told")
        await world.wait(lambda: running(world) == 2 and not world.is_ready(PHONES), "as many run as there is room for")
        assert world.routes()["team/phones"] == ["a", "b"], "they get requests"
        world.clusters["b"].cores = CORES
        await world.wait(lambda: world.is_ready(PHONES) and is_at(world, a=1, b=3), "all run", 7200)

    play(act)


def test_two_deployments_share_what_is_free() -> None:
    """The second sees what the first left, and neither takes away from the other."""

    async def act(world: World, watch: Watch) -> None:
        other = world.apply_deployment("other", **SPEC)
        await world.wait(lambda: world.is_ready(other), "the second is Ready")
        watch.begin()
        await world.wait(
            lambda: told(world, other) == {"a": 2, "b": 2}, "it has what is left of the cheaper site", 3600
        )
        assert watch.asked == [{"a": 4}], "the first one stays where it is"
        assert watch.fewest == REPLICAS

    play(act)
