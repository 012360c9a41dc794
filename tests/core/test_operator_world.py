"""What happens around an operator, in virtual time: rivals, silence, jumping clocks, foreign hands, tokens, old objects."""

import asyncio
import copy
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from autoglm_operator.api.quantities import seconds
from autoglm_operator.state import FINALIZER
from autoglm_operator.store import DEPLOYMENT, SITE, Kind, ObjectKey
from support import virtual_time
from support.manifests import ACCEPTED, manifest
from support.mutations import changed
from support.operator_sim import World, wired

PHONES = ObjectKey(DEPLOYMENT, "team", "phones")
APPLICATION = "team.phones"


def play(act: Callable[[World], Awaitable[None]], *operators: str) -> None:
    """A world with two sites and a deployment that is Ready, then what the test does."""
    random.seed(11)

    async def main() -> None:
        world = World()
        with wired(world):
            try:
                for name in world.clusters:
                    world.apply_site(name)
                world.apply_deployment()
                for name in operators or ("first",):
                    world.start(name)
                await world.wait(lambda: world.is_ready(PHONES), "it is Ready")
                await asyncio.sleep(5)
                await act(world)
            finally:
                await world.stop()

    virtual_time.run(main())


def written(world: World, since: int) -> list[str]:
    return [str(key) for key, _ in world.history[since:]]


def deployed(world: World) -> int:
    return sum(len(cluster.deployed) for cluster in world.clusters.values())


# Nothing happens


def test_while_nothing_happens_nothing_is_written_for_an_hour() -> None:
    async def act(world: World) -> None:
        since, before, table = len(world.history), deployed(world), world.tables[-1]
        calls = len(world.processes[0].calls)
        await asyncio.sleep(3600)
        assert written(world, since) == []
        assert deployed(world) == before
        assert world.tables[-1] == table
        assert world.is_ready(PHONES)
        reads = Counter(what for what in world.processes[0].calls[calls:] if what.startswith(("get", "list")))
        assert reads.keys() == {"list AutoGLMDeployment", "list AutoGLMSite"}, "no object is read that did not change"
        assert set(reads.values()) <= {11, 12}, "all of them are listed every five minutes"

    play(act)


def test_the_link_that_a_gateway_measures_is_in_the_status_of_its_site_and_its_jitter_is_not() -> None:
    async def act(world: World) -> None:
        site = ObjectKey(SITE, "", "a")
        world.round_trips["a"] = 0.02
        await world.wait(lambda: "link" in world.status(site), "the link is told")
        await asyncio.sleep(60)
        since = len(world.history)
        await asyncio.sleep(3600)
        assert written(world, since) == []
        world.round_trips["a"] = 0.2
        await world.wait(lambda: seconds(world.status(site)["link"]["rtt"]) > 0.1, "it is far now")
        assert written(world, since) == [str(site)]
        world.round_trips.clear()
        await world.wait(lambda: "link" not in world.status(site), "nobody measures it any more")
        assert written(world, since) == [str(site)] * 2

    play(act)


def test_what_somebody_wants_anew_overtakes_what_else_there_is_to_do() -> None:
    async def act(world: World) -> None:
        others = [world.apply_deployment(f"other-{number}") for number in range(60)]
        await world.wait(lambda: all(map(world.is_ready, others)), "all are Ready")
        await asyncio.sleep(5)
        (process,) = world.processes
        assert process.controller is not None
        before = len(process.calls)
        for key in others:
            process.controller.wake(key)
        world.apply_deployment(engine={"maxConcurrency": 9})
        await world.wait(lambda: f"get {PHONES}" in process.calls[before:], "the changed one is read")
        reads = [what for what in process.calls[before:] if what.startswith("get ")]
        assert reads.index(f"get {PHONES}") <= 10, "those that are worked on already come before it, and no others"

    play(act)


# Two operators


def test_a_change_of_leaders_is_not_told_as_gateways_that_are_silent() -> None:
    async def act(world: World) -> None:
        first = world.leader()
        assert first is not None
        since, told, epoch = len(world.history), len(world.events), world.tables[-1].epoch
        first.kill()
        second = next(one for one in world.processes if one is not first)
        await world.wait(lambda: world.leader() is second, "the second leads")
        await asyncio.sleep(60)
        stored = [made for key, made in world.history[since:] if key == PHONES]
        assert stored == [], "it is as it was, whoever leads"
        assert world.tables[-1].epoch > epoch, "the second gave a table of its own"
        assert world.events[told:] == []

    play(act, "first", "second")


def test_a_frozen_leader_is_replaced_and_what_it_still_wanted_to_write_is_refused() -> None:
    async def act(world: World) -> None:
        first = world.leader()
        assert first is not None
        second = next(one for one in world.processes if one is not first)
        epoch = world.tables[-1].epoch
        world.apply_deployment(engine={"maxConcurrency": 9})
        await asyncio.sleep(0.003)
        first.frozen_until = world.loop.time() + 40
        since = len(world.history)
        await world.wait(lambda: world.leader() is second, "the second leads")
        await world.wait(lambda: world.is_ready(PHONES), "the second carried it out")
        done, tables, stored = deployed(world), len(world.tables), len(world.history)
        assert stored > since
        calls = len(first.calls)
        await asyncio.sleep(60)
        assert world.leader() is second
        assert deployed(world) == done, "what is there already is not written again"
        assert {table.epoch for table in world.tables[tables:]} <= {world.tables[-1].epoch}
        assert world.tables[-1].epoch > epoch
        late = [what for what in first.calls[calls:] if what.startswith(("status", "finalizers", "PUT", "event"))]
        assert late == [], "a leader that wakes up without its lease writes nothing"

    play(act, "first", "second")


def test_two_operators_that_are_killed_in_turn_never_lead_both_and_lose_nothing() -> None:
    async def act(world: World) -> None:
        for round_ in range(6):
            leader = world.leader()
            assert leader is not None
            world.apply_deployment(engine={"maxConcurrency": 10 + round_})
            await asyncio.sleep(0.002 * round_)
            leader.kill()
            world.start(f"fresh-{round_}")
            await world.wait(
                lambda: world.leader() is not None and world.is_ready(PHONES), "another one carried it out"
            )
            assert {name for name, _ in world.clusters["a"].deployed} == {APPLICATION}
        assert all(routes == ["a", "b"] for routes in world.routes().values())
        assert all(table.routes for table in world.tables), "no table ever dropped what was served"
        revisions = [revision for _, revision in world.clusters["a"].deployed]
        assert len(revisions) == len(set(revisions)) == 7, "each revision was submitted once"

    play(act, "first", "second")


# The API server


def test_a_minute_without_the_api_server_changes_nothing_that_serves() -> None:
    async def act(world: World) -> None:
        table, before = world.tables[-1], deployed(world)
        world.down.add("api")
        await asyncio.sleep(60)
        assert world.leader() is None, "nobody leads who cannot renew"
        assert (world.tables[-1], deployed(world)) == (table, before)
        world.down.clear()
        world.apply_deployment(engine={"maxConcurrency": 9})
        await world.wait(lambda: world.is_ready(PHONES), "the change was carried out", 80)
        assert all(table.routes for table in world.tables)

    play(act)


def test_a_watch_that_is_silent_is_made_up_for_by_the_next_full_reading() -> None:
    async def act(world: World) -> None:
        world.watch_is_cut = True
        world.apply_deployment(engine={"maxConcurrency": 9})
        await world.wait(lambda: world.is_ready(PHONES), "the change was found", 400)

    play(act)


def test_a_change_that_was_missed_is_found_when_the_watch_is_there_again() -> None:
    async def act(world: World) -> None:
        world.watch_is_cut = True
        world.apply_deployment(engine={"maxConcurrency": 9})
        await asyncio.sleep(30)
        assert not world.is_ready(PHONES)
        world.reconnect()
        await world.wait(lambda: world.is_ready(PHONES), "the change was carried out", 30)

    play(act)


def test_a_status_that_is_decided_from_an_old_reading_is_not_written() -> None:
    """The watch is late: what is remembered is old, and the API server refuses the write that follows from it."""

    async def act(world: World) -> None:
        world.watch_is_cut = True
        world.edit(PHONES, lambda found: found["metadata"].update(labels={"by": "hand"}))
        world.clusters["a"].applications[APPLICATION].status = "UNHEALTHY"
        world.clusters["a"].touch()
        await world.wait(lambda: world.condition(PHONES)[0] == "False", "it is told", 60)
        assert world.objects[PHONES]["metadata"]["labels"] == {"by": "hand"}

    play(act)


# Clocks


@pytest.mark.parametrize(
    "jump", [timedelta(minutes=10), timedelta(minutes=-10), timedelta(days=400), timedelta(days=-400)]
)
def test_a_clock_that_jumps_neither_deploys_anything_nor_loses_a_route(jump: timedelta) -> None:
    async def act(world: World) -> None:
        before, leader = deployed(world), world.leader()
        world.clock_shift = jump
        await asyncio.sleep(90)
        assert world.is_ready(PHONES), "everything was seen again by the new clock"
        assert deployed(world) == before
        assert world.routes() == {"team/phones": ["a", "b"]}
        assert world.leader() is leader, "the lease does not depend on the time of day"
        world.clock_shift = timedelta(0)
        world.apply_deployment(engine={"maxConcurrency": 9})
        await world.wait(lambda: world.is_ready(PHONES), "a change is carried out")

    play(act)


# Foreign hands


def test_an_application_that_somebody_changed_or_removed_by_hand_is_restored_once() -> None:
    async def act(world: World) -> None:
        cluster = world.clusters["a"]
        good = copy.deepcopy(cluster.applications[APPLICATION].config)
        assert good is not None
        bad = copy.deepcopy(good)
        bad["args"]["revision"] = "by-hand"
        cluster.put([bad])
        await world.wait(lambda: world.configs()["a"].get(APPLICATION) == good, "it is restored")
        cluster.put([])
        await world.wait(lambda: world.configs()["a"].get(APPLICATION) == good, "it is there again")
        await world.wait(lambda: world.is_ready(PHONES), "it is Ready")
        assert [revision for _, revision in cluster.deployed].count(good["args"]["revision"]) == 3

    play(act)


def test_a_status_that_somebody_wrote_by_hand_is_corrected() -> None:
    async def act(world: World) -> None:
        good = copy.deepcopy(world.status(PHONES))
        world.edit(PHONES, lambda found: found["status"].update(readyReplicas=77, conditions=[], revision="by-hand"))
        await world.wait(lambda: world.is_ready(PHONES), "it is told again")
        assert world.status(PHONES)["readyReplicas"] == good["readyReplicas"]
        assert world.status(PHONES)["revision"] == good["revision"]

    play(act)


def test_a_finalizer_that_somebody_removed_comes_back() -> None:
    async def act(world: World) -> None:
        world.edit(PHONES, lambda found: found["metadata"].update(finalizers=["somebody/else"]))
        await world.wait(lambda: FINALIZER in world.objects[PHONES]["metadata"]["finalizers"], "it is back")
        assert "somebody/else" in world.objects[PHONES]["metadata"]["finalizers"]

    play(act)


@pytest.mark.parametrize("stored", ["an unknown field", "a field of another type", "a status of another version"])
def test_a_stored_object_of_another_version_does_not_stop_what_serves(stored: str) -> None:
    def change(found: dict[str, object]) -> None:
        spec = found["spec"]
        assert isinstance(spec, dict)
        if stored == "an unknown field":
            spec["fieldOfTomorrow"] = {"deep": [1, 2]}
        elif stored == "a field of another type":
            spec["replicas"] = "two"
        else:
            found["status"] = {"observedGeneration": "old", "conditions": {"Ready": "yes"}, "fieldOfYesterday": 1}

    async def act(world: World) -> None:
        before = deployed(world)
        world.edit(PHONES, change)
        await asyncio.sleep(400)
        assert world.processes[0].main is not None
        assert not world.processes[0].main.done()
        assert world.routes() == {"team/phones": ["a", "b"]}, "it serves on"
        assert deployed(world) == before
        assert world.condition(PHONES)[1] in ("Answering", "InvalidSpec"), "the status tells what is true"

    play(act)


@pytest.mark.parametrize("kind", [DEPLOYMENT, SITE])
def test_whatever_is_stored_gets_a_condition_and_disturbs_nobody(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Specs gone wrong in many ways, as another version or a person with rights on the store may leave them."""
    chance = random.Random(kind)
    good = [made["spec"] for made in map(manifest, ACCEPTED) if made["kind"] == kind]
    made = [changed(spec, chance) if chance.random() < 0.7 else spec for spec in chance.choices(good, k=100)]

    async def act(world: World) -> None:
        world.apply_deployment(sites={"names": ["a", "b"]})
        await world.wait(lambda: world.is_ready(PHONES), "it names its sites")
        before = {site: world.configs()[site][APPLICATION] for site in world.clusters}
        keys = [
            world.apply(kind, f"stored-{number}", spec, "team" if kind == DEPLOYMENT else "")
            for number, spec in enumerate(made)
        ]
        await asyncio.sleep(60)
        found = {key: world.condition(key, "Ready" if kind == DEPLOYMENT else "Connected") for key in keys}
        untold = [(key, world.objects[key]["spec"]) for key, (status, _) in found.items() if not status]
        assert untold == []
        reasons = Counter(reason for _, reason in found.values())
        assert reasons["InvalidSpec"] > 20
        assert reasons.total() - reasons["InvalidSpec"] > 5, "some are good enough to be tried"
        failed = [one for one in caplog.records if one.exc_info and one.name.startswith("autoglm")]
        assert failed == [], "no pass and no look ended in an error of its own"
        assert world.is_ready(PHONES)
        assert {site: world.configs()[site][APPLICATION] for site in world.clusters} == before
        for key in keys:
            world.delete(key)
        await world.wait(lambda: not world.objects.keys() & set(keys), "all of them can be deleted", 900)

    play(act)


# Links


def test_a_link_that_flaps_for_minutes_deploys_nothing_and_writes_next_to_nothing() -> None:
    async def act(world: World) -> None:
        since, before, table = len(world.history), deployed(world), world.tables[-1]
        told = len(world.events)
        for _ in range(30):
            world.cut.add("a")
            await asyncio.sleep(5)
            world.cut.clear()
            await asyncio.sleep(5)
        assert deployed(world) == before
        assert world.tables[-1] == table, "traffic stays where it is"
        assert len(written(world, since)) <= 8, written(world, since)
        assert len(world.events) - told <= 4, world.events[told:]
        await world.wait(lambda: world.is_ready(PHONES), "it is Ready again", 120)

    play(act)


def test_words_of_a_gateway_that_grow_old_are_noticed_though_it_reports_and_so_are_young_ones() -> None:
    async def act(world: World) -> None:
        await asyncio.sleep(600)
        world.probes_until = dict.fromkeys("ab", world.now())
        await asyncio.sleep(50)
        assert world.is_ready(PHONES), "they are young enough"
        await world.wait(lambda: world.condition(PHONES) == ("Unknown", "Stale"), "they are too old", 20)
        world.probes_until.clear()
        await world.wait(lambda: world.is_ready(PHONES), "it probes again", 10)

    play(act)


def test_each_word_that_grows_old_is_noticed_also_where_another_is_old_already() -> None:
    async def act(world: World) -> None:
        world.apply_deployment(sites={"names": ["a", "b"], "quorum": 50})
        await asyncio.sleep(600)
        world.probes_until["b"] = world.now()
        await asyncio.sleep(100)
        assert world.is_ready(PHONES), "half of the sites are enough"
        world.probes_until["a"] = world.now()
        await world.wait(lambda: world.condition(PHONES) == ("Unknown", "Stale"), "no word is young", 70)

    play(act)


# Namespaces and tokens


def test_a_namespace_that_goes_takes_its_deployments_applications_with_it() -> None:
    async def act(world: World) -> None:
        other = world.apply(
            DEPLOYMENT, "other", {"model": {"name": "autoglm-other", "uri": "builtin://autoglm-tiny"}}, "team"
        )
        await world.wait(lambda: world.is_ready(other), "both are Ready")
        for key in (PHONES, other):
            world.delete(key)
        await world.wait(lambda: not {PHONES, other} & world.objects.keys(), "both are gone", 60)
        assert world.configs() == {"a": {}, "b": {}}
        await asyncio.sleep(5)
        assert world.routes() == {}

    play(act)


def test_a_token_that_expires_is_told_and_its_successor_is_used_at_once() -> None:
    async def act(world: World) -> None:
        before = deployed(world)
        world.tokens["a"] = "rotated"
        await world.wait(lambda: world.condition(PHONES) == ("Unknown", "Unauthorized"), "it is told", 60)
        assert world.routes() == {"team/phones": ["a", "b"]}, "the site serves on, whoever may look at it"
        world.secrets["ray-a"] = "rotated"
        await world.wait(lambda: world.is_ready(PHONES), "the new token works", 120)
        assert deployed(world) == before

    play(act)


def test_a_token_that_is_replaced_in_the_secret_first_costs_nothing() -> None:
    async def act(world: World) -> None:
        since = len(world.history)
        world.secrets["ray-a"] = world.tokens["a"] = "rotated"
        await asyncio.sleep(60)
        assert world.is_ready(PHONES)
        assert not any("False" in str(found["status"]["conditions"][:1]) for _, found in world.history[since:])

    play(act)
