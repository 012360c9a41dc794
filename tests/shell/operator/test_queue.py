"""The work queue: coalescing, one worker for each key, backoff, wishes for later."""

import asyncio

import pytest

from autoglm_operator.controller.queue import LONGEST_DELAY_S, OVERTAKES, WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[WorkQueue[str], Clock]:
    clock = Clock()
    return WorkQueue(clock), clock


async def drain(queue: WorkQueue[str]) -> list[str]:
    """Everything that can be worked on now."""
    found = []
    while True:
        try:
            async with asyncio.timeout(0.01):
                found.append(await queue.get())
        except TimeoutError:
            return found


async def test_a_key_is_there_once_however_often_it_is_added() -> None:
    queue, _ = make()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    assert await drain(queue) == ["a", "b"]


async def test_a_key_in_work_is_not_given_to_a_second_worker_and_comes_again_after_it() -> None:
    queue, _ = make()
    queue.add("a")
    assert await drain(queue) == ["a"]
    queue.add("a")
    queue.add("a")
    assert await drain(queue) == []
    queue.done("a")
    assert await drain(queue) == ["a"]
    queue.done("a")
    assert await drain(queue) == []


async def test_a_later_wish_comes_when_its_time_is_there() -> None:
    queue, clock = make()
    queue.add_after("a", 10)
    assert await drain(queue) == []
    clock.now = 10
    assert await drain(queue) == ["a"]


async def test_of_several_wishes_the_earliest_wins() -> None:
    queue, clock = make()
    queue.add_after("a", 10)
    queue.add_after("a", 2)
    queue.add_after("a", 5)
    clock.now = 2
    assert await drain(queue) == ["a"]
    queue.done("a")
    clock.now = 20
    assert await drain(queue) == [], "the later wishes went with the earlier one"


async def test_work_at_once_makes_a_later_wish_needless() -> None:
    queue, clock = make()
    queue.add_after("a", 10)
    queue.add("a")
    assert await drain(queue) == ["a"]
    queue.done("a")
    clock.now = 10
    assert await drain(queue) == []


async def test_failures_wait_longer_each_time_and_success_forgets_them() -> None:
    queue, _ = make()
    delays = [queue.fail("a") for _ in range(10)]
    assert delays == sorted(delays)
    assert delays[1] == 2 * delays[0]
    assert delays[-1] == LONGEST_DELAY_S
    queue.succeed("a")
    assert queue.fail("a") == delays[0]


async def test_a_waiting_worker_wakes_for_a_new_key() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(worker, 30) == "a"
    late = asyncio.create_task(queue.get())
    queue.add_after("b", 0.01)
    assert await asyncio.wait_for(late, 30) == "b"


@pytest.mark.parametrize("turns", range(6))
async def test_a_worker_that_is_cancelled_in_the_moment_a_key_comes_ends(turns: int) -> None:
    """Else a leader that lost its lease would never step down."""
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    queue.add_after("later", 3600)
    worker = asyncio.create_task(forever(queue))
    await asyncio.sleep(0.001)
    queue.add("a")
    for _ in range(turns):
        await asyncio.sleep(0)
    worker.cancel()
    await asyncio.wait({worker}, timeout=60)
    assert worker.cancelled()


async def forever(queue: WorkQueue[str]) -> None:
    while True:
        queue.done(await queue.get())


async def test_what_is_first_overtakes_what_waits_and_is_there_once() -> None:
    queue, _ = make()
    for key in ("a", "b", "c"):
        queue.add(key)
    queue.add("c", first=True)
    queue.add("d", first=True)
    queue.add("d")
    assert len(queue) == 4
    assert await drain(queue) == ["c", "d", "a", "b"]


async def test_what_waits_gets_its_turn_however_much_comes_first() -> None:
    queue, _ = make()
    for number in range(10):
        queue.add(f"first {number}", first=True)
    for key in ("a", "b"):
        queue.add(key)
    found = await drain(queue)
    assert [found.index(key) for key in ("a", "b")] == [OVERTAKES, 2 * OVERTAKES + 1]
    assert [key for key in found if key.startswith("first")] == [f"first {number}" for number in range(10)]


async def test_a_key_in_work_that_is_to_come_first_does_so_after_it() -> None:
    queue, _ = make()
    queue.add("a")
    assert await drain(queue) == ["a"]
    queue.add("b")
    queue.add("a", first=True)
    queue.add("a")
    queue.done("a")
    assert await drain(queue) == ["a", "b"]
