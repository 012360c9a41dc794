"""Leader election by the rules of client-go, with a clock that the test moves."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from autoglm_operator.lease import Elector, LeaseName, LeaseTimes
from autoglm_operator.store import Conflict, StoreError


class Api:
    """A Lease in memory with the API server's rule for lost updates."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = self.deaf = False
        self.writes = 0

    async def read(self) -> dict[str, Any] | None:
        if self.down:
            raise StoreError("down")
        return copy.deepcopy(self.lease)

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise Conflict("exists")
        return self._store(body)

    async def replace(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.down or self.deaf:
            raise StoreError("down")
        if body["metadata"].get("resourceVersion") != str(self.version):
            raise Conflict("changed")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def elector(api: Api, identity: str, clock: Clock, retry: float = 0.005) -> Elector:
    times = LeaseTimes(duration=15, renew_deadline=10, retry=retry, margin=3)
    return Elector(api, LeaseName("ns", "operator", identity), times, clock, lambda: datetime(2026, 1, 1, tzinfo=UTC))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def forever() -> None:
    await asyncio.Event().wait()


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


def begin(one: Elector, lead: Callable[[], Awaitable[None]] = forever) -> "asyncio.Task[None]":
    return asyncio.create_task(one.run(lead))


async def test_the_first_one_leads_and_the_second_stands_by() -> None:
    api, clock = Api(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", clock)
    tasks = [begin(first)]
    await until(lambda: first.epoch() == 0)
    tasks.append(begin(second))
    writes = api.writes
    await until(lambda: api.writes > writes + 5)
    assert (first.epoch(), second.epoch(), api.holder) == (0, None, "a")
    for task in tasks:
        await stop(task)


async def test_a_dead_leader_is_replaced_after_the_lease_by_the_rivals_own_clock() -> None:
    api, clock, other = Api(), Clock(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", other)
    leading = begin(first)
    await until(lambda: first.epoch() == 0)
    api.deaf = True  # it dies: nothing is given back
    await stop(leading)
    api.deaf = False
    waiting = begin(second)
    await asyncio.sleep(0.05)
    assert second.epoch() is None, "the lease may still be held"
    other.now += 15.1
    await until(lambda: second.epoch() == 1)
    assert api.holder == "b"
    await stop(waiting)


async def test_a_leader_that_ends_gives_the_lease_back() -> None:
    api, clock = Api(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", clock)
    leading = begin(first)
    await until(lambda: first.epoch() == 0)
    waiting = begin(second)
    await stop(leading)
    assert first.epoch() is None
    await until(lambda: second.epoch() == 1)
    await stop(waiting)


async def test_a_frozen_leader_holds_nothing_when_it_wakes() -> None:
    """It looks at the clock, so the very first check after waking says no."""
    api, clock = Api(), Clock()
    first = elector(api, "a", clock, retry=3600)
    leading = begin(first)
    await until(lambda: first.epoch() == 0)
    clock.now += 11.9
    assert first.epoch() == 0
    clock.now += 0.2
    assert first.epoch() is None, "a rival could lead in three seconds"
    await stop(leading)
    assert api.holder == "a", "and it does not touch a lease that may be another's"


async def test_a_leader_that_cannot_renew_stops_and_begins_anew_when_it_can() -> None:
    api, clock = Api(), Clock()
    first = elector(api, "a", clock)
    times: list[str] = []

    async def lead() -> None:
        times.append("begin")
        try:
            await forever()
        finally:
            times.append("end")

    leading = begin(first, lead)
    await until(lambda: times == ["begin"])
    api.down = True
    clock.now += 10.1
    await until(lambda: times == ["begin", "end"])
    assert first.epoch() is None
    api.down = False
    await until(lambda: times == ["begin", "end", "begin"])
    await stop(leading)
    assert times[-1] == "end"


async def test_a_short_silence_of_the_api_server_costs_nothing() -> None:
    api, clock = Api(), Clock()
    first = elector(api, "a", clock)
    begun: list[int] = []

    async def lead() -> None:
        begun.append(1)
        await forever()

    leading = begin(first, lead)
    await until(lambda: len(begun) == 1)
    api.down = True
    clock.now += 5
    await asyncio.sleep(0.05)
    api.down = False
    writes = api.writes
    await until(lambda: api.writes > writes)
    assert begun == [1]
    assert first.epoch() == 0
    await stop(leading)


async def test_a_leader_whose_lease_was_taken_stops() -> None:
    api, clock = Api(), Clock()
    first = elector(api, "a", clock)
    leading = begin(first)
    await until(lambda: first.epoch() == 0)
    assert api.lease is not None
    api.lease["spec"].update(holderIdentity="b", leaseTransitions=1)
    await until(lambda: first.epoch() is None)
    assert api.holder == "b"
    await stop(leading)


async def test_the_failure_of_the_leaders_work_ends_the_election() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    api = Api()
    with pytest.raises(ValueError, match="broken"):
        await elector(api, "a", Clock()).run(fail)
    assert api.holder == "", "the lease is given back"
