"""Replicas that follow the load, with the whole operator in virtual time: one writer, held numbers, sleep and waking."""

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from autoglm_operator.store import DEPLOYMENT, ObjectKey
from support import virtual_time
from support.operator_sim import World, wired

PHONES = ObjectKey(DEPLOYMENT, "team", "phones")
NAME = "team/phones"
APPLICATION = "team.phones"


def play(act: Callable[[World], Awaitable[None]], *operators: str, scaling: dict[str, Any] | None = None) -> None:
    """A world with two sites and a deployment that scales and is Ready, then what the test does."""
    random.seed(7)

    async def main() -> None:
        world = World()
        with wired(world):
            try:
                for name in world.clusters:
                    world.apply_site(name)
                world.apply_deployment(scaling=scaling or {"max": 8})
                for name in operators or ("first",):
                    world.start(name)
                await world.wait(lambda: world.is_ready(PHONES), "it is Ready")
                await asyncio.sleep(30)
                await act(world)
            finally:
                await world.stop()

    virtual_time.run(main())


def asked(world: World) -> dict[str, int]:
    """Replicas that each Ray cluster was asked for."""
    configs = {site: found.get(APPLICATION) for site, found in world.configs().items()}
    return {site: config["deployments"][0]["num_replicas"] for site, config in configs.items() if config is not None}


def decided(world: World) -> list[tuple[str, int, int]]:
    return [(one["site"], one["before"], one["after"]) for one in world.status(PHONES)["scaling"]["decisions"]]


def load(world: World, **sites: float) -> None:
    world.loads = {NAME: sites}


async def becomes(world: World, limit_s: float, **sites: int) -> float:
    """Waits until the clusters were asked for these replicas; after how many seconds."""
    begin = world.loop.time()
    await world.wait(lambda: asked(world) == sites, f"{sites} are asked for", limit_s)
    return world.loop.time() - begin


def test_a_load_that_rises_and_falls_is_followed_by_one_writer_in_few_writes() -> None:
    async def act(world: World) -> None:
        puts = {site: len(cluster.deployed) for site, cluster in world.clusters.items()}
        load(world, a=14.0, b=2.0)
        assert await becomes(world, 30, a=4, b=1) < 8, "at once: within two looks at the gateway"
        await world.wait(lambda: world.is_ready(PHONES), "it is Ready")
        load(world, b=2.0)
        assert 300 <= await becomes(world, 600, a=1, b=1) < 360
        await asyncio.sleep(60)
        assert decided(world) == [("a", 1, 4), ("a", 4, 1)]
        made = {site: len(cluster.deployed) - puts[site] for site, cluster in world.clusters.items()}
        assert made == {"a": 2, "b": 0}, "each decision is one write, at its site alone"
        told = [event for event in world.events if event.startswith("Scaled")]
        assert told == [
            "ScaledUp: a: 1 -> 4 replicas: 14 requests under way, 4 for each replica",
            "ScaledDown: a: 4 -> 1 replicas: at most 0 requests under way for 5m, 4 for each replica",
        ]

    play(act)


def test_while_the_load_jitters_within_the_band_nothing_is_written_for_an_hour() -> None:
    async def act(world: World) -> None:
        world.noise = 0.04
        load(world, a=14.0, b=7.5)
        await asyncio.sleep(600)
        since, puts = len(world.history), [len(cluster.deployed) for cluster in world.clusters.values()]
        await asyncio.sleep(3600)
        assert world.history[since:] == []
        assert [len(cluster.deployed) for cluster in world.clusters.values()] == puts

    play(act)


def test_while_nothing_is_asked_for_no_object_is_read_and_nothing_written() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(600)
        since, calls = len(world.history), len(world.processes[0].calls)
        await asyncio.sleep(3600)
        assert world.history[since:] == []
        reads = {what for what in world.processes[0].calls[calls:] if what.startswith(("get", "PUT", "event"))}
        assert {what for what in reads if not what.startswith("GET")} == set()

    play(act)


@pytest.mark.parametrize("how", ["the gateway is silent", "the gateway is older and tells no load"])
def test_without_figures_the_last_numbers_hold_and_a_condition_says_so(how: str) -> None:
    async def act(world: World) -> None:
        load(world, a=14.0)
        await becomes(world, 30, a=4, b=1)
        if how == "the gateway is silent":
            world.down.add("gateway")
        else:
            world.loads = None
        await world.wait(
            lambda: world.condition(PHONES, "ScalingActive") == ("Unknown", "LoadUnknown"), "it is told", 120
        )
        await asyncio.sleep(1800)
        assert asked(world) == {"a": 4, "b": 1}
        world.down.clear()
        load(world)
        await world.wait(lambda: world.condition(PHONES, "ScalingActive")[0] == "True", "figures are back", 60)
        assert await becomes(world, 600, a=1, b=1) >= 280, "a whole window is seen before anything is taken away"

    play(act)


def test_a_new_leader_goes_on_from_the_numbers_of_the_old_one_and_lowers_nothing_it_did_not_see() -> None:
    async def act(world: World) -> None:
        load(world, a=14.0)
        await becomes(world, 30, a=4, b=1)
        load(world)
        await asyncio.sleep(250)
        first = world.leader()
        assert first is not None
        puts = len(world.clusters["a"].deployed)
        first.kill()
        await world.wait(lambda: world.leader() not in (None, first), "the second leads")
        await asyncio.sleep(240)
        assert asked(world) == {"a": 4, "b": 1}
        await becomes(world, 120, a=1, b=1)
        assert len(world.clusters["a"].deployed) == puts + 1
        assert decided(world) == [("a", 1, 4), ("a", 4, 1)], "the log is in the status, whoever writes it"

    play(act, "first", "second")


def test_a_frozen_leader_that_wakes_up_writes_no_number_over_that_of_the_new_one() -> None:
    async def act(world: World) -> None:
        first = world.leader()
        assert first is not None
        first.frozen_until = world.loop.time() + 60
        load(world, a=14.0)
        await becomes(world, 90, a=4, b=1)
        assert world.leader() is not first
        calls = len(first.calls)
        await asyncio.sleep(120)
        assert asked(world) == {"a": 4, "b": 1}
        assert [what for what in first.calls[calls:] if what.startswith(("PUT", "status"))] == []

    play(act, "first", "second")


def test_replicas_that_somebody_set_at_the_ray_cluster_are_set_back_once() -> None:
    async def act(world: World) -> None:
        load(world, a=14.0)
        await becomes(world, 30, a=4, b=1)
        await asyncio.sleep(30)
        cluster = world.clusters["a"]
        config = copy.deepcopy(cluster.applications[APPLICATION].config)
        assert config is not None
        config["deployments"][0]["num_replicas"] = 7
        cluster.put([config])
        puts = len(cluster.deployed)
        assert asked(world) == {"a": 7, "b": 1}
        await becomes(world, 60, a=4, b=1)
        await asyncio.sleep(120)
        assert len(cluster.deployed) == puts + 1
        assert decided(world) == [("a", 1, 4)], "that is no decision of the load"

    play(act)


def test_what_nobody_asks_for_sleeps_and_the_first_request_wakes_it() -> None:
    async def act(world: World) -> None:
        assert await becomes(world, 400) < 305, "as soon as a whole window was seen; it was Ready for 30 s before"
        assert world.condition(PHONES) == ("False", "ScaledToZero")
        await asyncio.sleep(60)
        (route,) = world.tables[-1].routes
        assert (route.model, route.asleep, route.endpoints) == ("autoglm-phones", True, ()), "the model stays known"
        since = len(world.history)
        await asyncio.sleep(3600)
        assert world.history[since:] == []
        world.asked[NAME] = world.now()
        assert await becomes(world, 30, a=1, b=1) < 5
        await world.wait(lambda: world.is_ready(PHONES), "it answers", 30)
        assert world.tables[-1].routes[0].asleep is None
        await asyncio.sleep(200)
        world.asked[NAME] = world.now()
        await asyncio.sleep(200)
        assert asked(world) == {"a": 1, "b": 1}, "somebody asked meanwhile"
        assert await becomes(world, 300) < 140, "a window after the last request"

    play(act, scaling={"min": 0, "max": 4})


def test_a_new_leader_finds_one_asleep_and_wakes_it() -> None:
    async def act(world: World) -> None:
        await becomes(world, 400)
        first = world.leader()
        assert first is not None
        first.kill()
        world.asked[NAME] = world.now()
        await becomes(world, 120, a=1, b=1)

    play(act, "first", "second", scaling={"min": 0, "max": 4})


@pytest.mark.parametrize(
    "jump", [timedelta(minutes=10), timedelta(minutes=-10), timedelta(days=400), timedelta(days=-400)]
)
def test_a_clock_that_jumps_takes_nothing_away_and_stops_nothing(jump: timedelta) -> None:
    async def act(world: World) -> None:
        load(world, a=14.0)
        await becomes(world, 30, a=4, b=1)
        await asyncio.sleep(120)
        world.clock_shift = jump
        await asyncio.sleep(120)
        assert asked(world) == {"a": 4, "b": 1}
        load(world, a=22.0)
        await becomes(world, 60, a=6, b=1)
        load(world)
        await becomes(world, 900, a=1, b=1)

    play(act)


@pytest.mark.parametrize("jump", [timedelta(minutes=-10), timedelta(days=-400), timedelta(days=400)])
def test_one_that_sleeps_wakes_also_after_the_clock_jumped(jump: timedelta) -> None:
    async def act(world: World) -> None:
        await becomes(world, 400)
        world.clock_shift = jump
        await asyncio.sleep(60)
        world.asked[NAME] = world.now()
        await becomes(world, 60, a=1, b=1)

    play(act, scaling={"min": 0, "max": 4})
