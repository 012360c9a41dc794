"""Five times the load that an application can bear, for a minute: what it admits it answers as well as ever."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from autoglm_serving.config import Limits
from support.ray import DEADLINE_S, RayCluster, application
from support.serving import MODEL, app_config

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

REPLICAS, PLACES, QUEUE = 2, 4, 1
"""The queue is that of each of two ingresses."""
TOKENS, PACE_S = 20, 0.1
CALL_S = TOKENS * PACE_S
CAPACITY = REPLICAS * PLACES / CALL_S
OVERLOAD_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One answer, and how long it took."""

    answer: httpx.Response
    seconds: float

    @property
    def status(self) -> int:
        return self.answer.status_code


class Client:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def ask(self) -> Seen:
        script = json.dumps({"tokens": TOKENS, "pace": PACE_S})
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": script}], "max_tokens": TOKENS}
        begun = time.monotonic()
        answer = await self._http.post(self._url, json=body)
        return Seen(answer, time.monotonic() - begun)

    async def admitted(self) -> Seen:
        while (seen := await self.ask()).status == 503:
            await asyncio.sleep(PACE_S)
        return seen

    async def full(self, rounds: int) -> tuple[list[Seen], float]:
        """As many clients as there are places, one call after the other; what they saw, and answers a second.

        Who meets a place that is still taken is refused, as each ingress lets one call wait, and asks again.
        """

        async def one() -> list[Seen]:
            return [await self.admitted() for _ in range(rounds)]

        begun = time.monotonic()
        seen = [each for many in await asyncio.gather(*[one() for _ in range(REPLICAS * PLACES)]) for each in many]
        return seen, len(seen) / (time.monotonic() - begun)

    async def flood(self, rate: float, seconds: float) -> tuple[list[Seen], float]:
        """So many calls a second, however slow the answers are; what they saw, and good answers a second."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number in range(int(rate * seconds)):
                tasks.append(group.create_task(self.ask()))
                await asyncio.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))
        seen = [task.result() for task in tasks]
        return seen, sum(each.status == 200 for each in seen) / (time.monotonic() - begun)


async def test_what_is_admitted_is_answered_and_the_rest_is_refused_at_once_with_when_to_come_back(
    ray_head: RayCluster,
) -> None:
    config = app_config(max_ongoing_requests=PLACES, limits=Limits(max_queue=QUEUE))
    app = application(config, replicas=REPLICAS, scripted=True)
    name, url = app["name"], f"{ray_head.serve_address}{app['route_prefix']}/v1/chat/completions"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    try:
        await asyncio.to_thread(ray_head.deploy, app)
        before = set(ray_head.processes(name))
        async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits, trust_env=False) as http:
            client = Client(http, url)
            await client.full(1)
            normal, peak = await client.full(8)
            seen, goodput = await client.flood(5 * CAPACITY, OVERLOAD_S)
            after, _ = await client.full(2)
        assert set(ray_head.processes(name)) == before, "no process was lost"
    finally:
        await asyncio.to_thread(ray_head.delete, name)
    usual = statistics.median(each.seconds for each in normal)
    admitted = sorted(each.seconds for each in seen if each.status == 200)
    refused = sorted(each.seconds for each in seen if each.status != 200)
    print(
        f"{len(seen)} asked, {len(admitted)} answered, {goodput:.2f} a second of {peak:.2f}; usually {usual:.2f} s, "
        f"p99 {admitted[int(0.99 * len(admitted))]:.2f} s; refused after {1000 * statistics.median(refused):.0f} ms, "
        f"p99 {1000 * refused[int(0.99 * len(refused))]:.0f} ms"
    )
    assert {each.status for each in (*normal, *after)} == {200}
    assert {each.status for each in seen} == {200, 503}
    assert len(refused) >= len(seen) / 2
    for each in seen:
        if each.status == 503:
            assert each.answer.json()["error"]["code"] == "overloaded"
            assert int(each.answer.headers["retry-after"]) >= 1
    assert goodput >= 0.9 * peak
    # The slowest in a hundred, which is printed, are those that a busy machine holds up besides.
    assert statistics.median(admitted) <= 2 * usual, "the queue is no longer than an answer"
    assert statistics.median(refused) < CALL_S, "who is refused does not wait first"
