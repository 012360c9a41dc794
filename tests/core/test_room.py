"""Room for what is large."""

import asyncio
from contextlib import AsyncExitStack

from autoglm_serving.app.room import Room
from support.virtual_time import run


def test_what_is_larger_than_what_is_left_waits_and_what_came_first_goes_first() -> None:
    held: list[str] = []
    room = Room(100)

    async def hold(name: str, size: int, seconds: float) -> None:
        async with room.hold(size):
            held.append(f"{name} of {room.held}")
            await asyncio.sleep(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(hold("a", 60, 2), hold("b", 40, 1), hold("c", 50, 1), hold("d", 10, 1))

    run(all_of_them())
    assert held == ["a of 60", "b of 100", "c of 60", "d of 60"], "d had room before, and came after c"
    assert room.held == 0


def test_what_is_larger_than_the_whole_room_has_it_alone() -> None:
    async def alone() -> int:
        room = Room(10)
        async with room.hold(50):
            return room.held

    assert run(alone()) == 50


def test_whoever_is_cancelled_while_waiting_or_just_admitted_holds_nothing() -> None:
    async def cancelled() -> None:
        room = Room(100)
        async with AsyncExitStack() as first:
            await first.enter_async_context(room.hold(100))
            waiting = asyncio.create_task(room.hold(30).__aenter__())
            admitted = asyncio.create_task(room.hold(30).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await first.aclose()  # from here on `admitted` has its room, and does not know it yet
            assert room.held == 30
            admitted.cancel()
            await asyncio.gather(admitted, return_exceptions=True)
        assert room.held == 0
        async with room.hold(100):
            pass

    run(cancelled())
