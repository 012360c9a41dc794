"""Replicas that are taken away under load finish what they have."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest

from autoglm_serving.config import EngineConfig
from support.ray import DEADLINE_S, RayCluster, application
from support.serving import MODEL, app_config
from support.traffic import Account, Traffic

FEW = 1
RATE = 4.0
MOST = 8
START_S = 1200.0
STREAMS = 4
TOKENS = 20
TEXT = "".join(f"w{index} " for index in range(TOKENS))
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": json.dumps({"tokens": TOKENS, "pace": 0.05})}],
    "max_tokens": TOKENS,
}


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("many", "times"), [(2, 1), pytest.param(4, 10, marks=pytest.mark.slow)])
async def test_replicas_that_are_taken_away_and_come_again_lose_neither_answers_nor_streams(
    ray_head: RayCluster, many: int, times: int
) -> None:
    """An answer takes a second, so that every replica has some when it is told to go."""
    config = app_config(engine=EngineConfig(max_concurrency=16), max_ongoing_requests=16)
    schema = application(config, replicas=many, scripted=True)
    url = f"{ray_head.serve_address}{schema['route_prefix']}"
    try:
        await asyncio.to_thread(_scaled, ray_head, schema, many)
        async with _streams(url) as streams:
            ended, account = await asyncio.to_thread(_down_and_up, ray_head, schema, many, times)
    finally:
        await asyncio.to_thread(ray_head.delete, schema["name"])
    print(f"{len(ended)} replicas were taken away, {len(streams)} streams were read to their end")
    assert len(ended) == (many - FEW) * times
    account.expect_none_lost(20 * times)
    assert {outcome.text for outcome in account.outcomes} == {TEXT}
    assert len(streams) >= 10 * times
    assert [text for text in streams if text != TEXT] == []


def _down_and_up(ray_head: RayCluster, schema: dict[str, Any], many: int, times: int) -> tuple[set[str], Account]:
    """The replicas that went, and what became of the requests meanwhile."""
    url = f"{ray_head.serve_address}{schema['route_prefix']}"
    ended: set[str] = set()
    with Traffic([url], BODY, RATE, most=MOST) as load:
        for _ in range(times):
            before = _scaled(ray_head, schema, many)
            load.wait_answered(10)
            left = _scaled(ray_head, schema, FEW)
            load.wait_answered(10)
            assert left < before
            ended |= before - left
        _scaled(ray_head, schema, many)
        load.wait_answered(10)
    return ended, load.account


def _scaled(ray_head: RayCluster, schema: dict[str, Any], count: int) -> set[str]:
    """The replicas, once there are so many and no other is still ending."""
    name: str = schema["name"]
    ray_head.deploy({**schema, "deployments": [{"name": "Engine", "num_replicas": count}]}, wait=False)
    ray_head.wait_for(
        name,
        lambda _: len(ray_head.running_replicas(name)) == count == len(ray_head.replica_ids(name)),
        f"has {count} replicas",
        START_S,
    )
    return ray_head.replica_ids(name)


@asynccontextmanager
async def _streams(url: str) -> AsyncIterator[list[str]]:
    """What clients read of their streams, one after the other each, until the block ends; how it ended, for one that broke."""
    read: list[str] = []
    ending = asyncio.Event()

    async def client(http: httpx.AsyncClient) -> None:
        while not ending.is_set():
            read.append(await _stream(http, url))

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S, limits=limits, trust_env=False) as http,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(STREAMS):
            group.create_task(client(http))
        try:
            yield read
        finally:
            ending.set()


async def _stream(http: httpx.AsyncClient, url: str) -> str:
    text, done = "", False
    async with http.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            done = done or data == "[DONE]"
            if data.startswith("{") and not done:
                event = json.loads(data)
                text += "".join(each["delta"].get("content") or "" for each in event.get("choices", ()))
    return text if done and answer.status_code == 200 else f"{answer.status_code}, {'done' if done else 'cut'}: {text}"
