"""Who runs, who waits, who is refused."""

import asyncio
import contextlib

import pytest

from autoglm_serving.engines.admission import Admission
from autoglm_serving.engines.interface import EngineOverloaded


class Visitor:
    """Takes a place, runs until told to leave."""

    def __init__(self, admission: Admission) -> None:
        self.place = admission.reserve()
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        try:
            async with self.place.running():
                self.entered.set()
                await self.leave.wait()
        finally:
            self.place.release()

    async def cancel(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def settle() -> None:
    """Let every task run until it waits for something else."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_as_many_run_as_may_and_the_others_wait_in_order() -> None:
    admission = Admission(max_running=2, max_waiting=2)
    visitors = [Visitor(admission) for _ in range(4)]
    await settle()
    assert [visitor.entered.is_set() for visitor in visitors] == [True, True, False, False]
    assert (admission.running, admission.waiting) == (2, 2)
    visitors[1].leave.set()
    await settle()
    assert [visitor.entered.is_set() for visitor in visitors] == [True, True, True, False]
    for visitor in visitors:
        visitor.leave.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert (admission.running, admission.waiting) == (0, 0)


async def test_one_too_many_is_refused_at_once_and_counted() -> None:
    admission = Admission(max_running=1, max_waiting=1)
    visitors = [Visitor(admission) for _ in range(2)]
    with pytest.raises(EngineOverloaded):
        admission.reserve()
    await settle()
    with pytest.raises(EngineOverloaded, match="1 requests run and 1 wait"):
        admission.reserve()
    assert admission.refused_total == 2
    for visitor in visitors:
        visitor.leave.set()
        await visitor.task
    admission.reserve().release()
    assert admission.waiting == 0


async def test_a_place_that_is_given_up_before_running_is_free_again() -> None:
    admission = Admission(max_running=1, max_waiting=0)
    place = admission.reserve()
    place.release()
    place.release()
    assert admission.waiting == 0
    admission.reserve()


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    admission = Admission(max_running=1, max_waiting=5)
    first, second, third = (Visitor(admission) for _ in range(3))
    await settle()
    await second.cancel()
    assert admission.waiting == 1
    first.leave.set()
    await settle()
    assert third.entered.is_set()
    third.leave.set()
    await third.task
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_turn_that_comes_together_with_the_cancellation_goes_to_the_next() -> None:
    admission = Admission(max_running=1, max_waiting=5)
    first, second, third = (Visitor(admission) for _ in range(3))
    await settle()
    first.leave.set()
    await first.task  # the turn is now the second's, which has not run since
    await second.cancel()
    await settle()
    assert third.entered.is_set()
    third.leave.set()
    await third.task
    assert (admission.running, admission.waiting) == (0, 0)
