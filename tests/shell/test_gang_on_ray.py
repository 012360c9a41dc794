"""Gangs where they live: replicas whose ranks are actors of one placement group each, put there as the operator does it."""

import asyncio
import json
import os
import signal
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from autoglm_operator.applications import Standing
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import GenerateRequest, Message, TextPart
from support import manifests
from support.gangs import PATIENCE_S
from support.models import answer, engine_config
from support.processes import pid_inside, until
from support.ray import RayCluster
from support.ray_gangs import Gang, gangs
from support.ray_site import RaySite

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.faults, pytest.mark.timeout(3600)]

RANKS = 2
DEADLINE_S = 900.0
RESTART_S = 900.0
"""By then a whole gang is there again, also on a machine that gives it a thirtieth of a core (298 s were seen there)."""
TEXT, TOKENS = "打开设置 open settings", 24


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(ray_head: RayCluster, folder: Path) -> AsyncIterator[RaySite]:
    """A cluster with room for two gangs and for one rank more."""
    async with RaySite(ray_head, manifests.deployment(uuid.uuid4().hex)) as before:
        capacity = (await before.observe()).capacity
    assert capacity is not None
    rank_cores = int(1000 * capacity.available["CPU"] / (2 * RANKS + 1))
    manifest = manifests.deployment(
        f"gang-{uuid.uuid4().hex[:10]}",
        model={"name": "autoglm-tiny", "uri": folder.as_uri()},
        engine={"parallelism": {"tensor": RANKS}, "options": {"device": "cpu", "rankPatienceS": PATIENCE_S}},
        worker={"resources": {"cpu": f"{RANKS * rank_cores}m"}},
    )
    async with RaySite(ray_head, manifest) as site:
        yield site
    await until(lambda: not gangs(ray_head), "no placement group stays behind")
    assert not ray_head.actors("RankActor.run")


@pytest_asyncio.fixture(loop_scope="module")
async def gang(site: RaySite) -> Gang:
    """The one gang of a deployment that is Ready."""
    await site.apply(1)
    await site.until(1, _ready, "one gang is ready", DEADLINE_S)
    (gang,) = gangs(site.cluster)
    return gang


async def test_a_lost_rank_takes_its_replica_with_it_and_a_whole_gang_comes_back(
    site: RaySite, gang: Gang, folder: Path
) -> None:
    expected = await _alone(folder)
    assert gang.whole(RANKS)
    assert await _ask(site) == expected

    (process,) = site.cluster.processes(site.name)
    (rank,) = site.cluster.actors("RankActor.run")
    lost = time.monotonic()
    os.kill(rank, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{process}").exists(), "the replica of the lost rank has ended", DEADLINE_S)
    ended = time.monotonic()
    # Serve says so at its next look at the replica.
    noticed = (await site.until(1, lambda seen: not _ready(seen), "it is not ready", DEADLINE_S))[-1]
    seen = await site.until(1, _ready, "a gang is ready again", RESTART_S)
    counts = [each.standing.ready for each in (noticed, *seen)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 1)

    (other,) = gangs(site.cluster)
    assert other.whole(RANKS)
    assert not set(other.pids) & set(gang.pids)
    assert other.group != gang.group
    assert await _ask(site) == expected
    print(
        f"after the rank was lost the replica had ended in {ended - lost:.1f} s, the status knew in"
        f" {noticed.at - lost:.1f} s ({noticed.standing.state}: {noticed.standing.reason}), and was Ready in"
        f" {seen[-1].at - lost:.1f} s"
    )


async def test_gangs_come_and_go_whole(site: RaySite, gang: Gang, folder: Path) -> None:
    expected = await _alone(folder)
    await site.apply(2)
    while (await site.standing(2)).state != "Ready":
        ready = (await site.standing(2)).ready
        assert ready <= sum(each.whole(RANKS) for each in gangs(site.cluster)), "a part of a gang counted as ready"
        await asyncio.sleep(0.2)
    both = gangs(site.cluster)
    assert [each.whole(RANKS) for each in both] == [True, True]
    assert gang in both

    # One rank of a third would find room: it takes nothing as long as there is none for all.
    await site.apply(3)
    seen = await site.until(3, lambda seen: seen.reason == "InsufficientResources", "one does not fit", DEADLINE_S)
    assert seen[-1].standing.ready == 2
    (third,) = [each for each in gangs(site.cluster) if each.group not in {one.group for one in both}]
    assert (third.state, third.bundles, third.placed, third.actors) == ("PENDING", RANKS, 0, ())
    assert await _ask(site) == expected

    await site.apply(1)
    await site.until(1, _ready, "one gang is left", DEADLINE_S)
    await until(lambda: len(gangs(site.cluster)) == 1, "the groups of the others are gone", DEADLINE_S)
    (left,) = gangs(site.cluster)
    assert left in both
    gone = {pid for each in both for pid in each.pids} - set(left.pids)
    await until(lambda: not gone & _ranks(site.cluster), "no rank of the others is left")
    assert await _ask(site) == expected


def _ready(seen: Standing) -> bool:
    return seen.state == "Ready"


def _ranks(cluster: RayCluster) -> set[int]:
    """Process ids, in Ray's own namespace, of the actors that are ranks."""
    return {pid_inside(pid) for pid in cluster.actors("RankActor.run")}


async def _alone(folder: Path) -> str:
    """What one process that holds the whole model answers."""
    engine = create_engine(engine_config(folder))
    try:
        await engine.start()
        text, deltas = await answer(engine, GenerateRequest("alone", (Message("user", (TextPart(TEXT),)),), TOKENS))
    finally:
        await engine.close()
    assert deltas[-1].completion_tokens > 4, "the answer is too short to tell anything"
    return text


async def _ask(site: RaySite) -> str:
    return await asyncio.to_thread(_answer, site.url)


def _answer(url: str) -> str:
    asked: dict[str, Any] = {
        "model": "autoglm-tiny",
        "max_tokens": TOKENS,
        "temperature": 0,
        "messages": [{"role": "user", "content": TEXT}],
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(asked).encode(), {"content-type": "application/json"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=DEADLINE_S) as response:
        text: str = json.loads(response.read())["choices"][0]["message"]["content"]
    return text
