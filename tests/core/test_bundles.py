"""Deltas that come close together travel as one, in virtual time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from autoglm_serving.app.bundles import WHOLE_PAUSE_S, bundled, joined, pause_of_streams
from autoglm_serving.engines.interface import Delta, GenerationFailed
from support.virtual_time import run

Timed = tuple[float, str, int]


class Source:
    """An engine's answer: after each pause one token, then the end or a fault."""

    def __init__(self, pauses: list[float], fault: Exception | None = None) -> None:
        self._pauses = pauses
        self._fault = fault
        self.closed = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            for index, pause in enumerate(self._pauses):
                await asyncio.sleep(pause)
                last = index + 1 == len(self._pauses) and self._fault is None
                yield Delta(f"{index} ", "stop" if last else None, 10, index + 1, 0)
            if self._fault is not None:
                raise self._fault
        finally:
            self.closed = True


async def seen(source: Source, pause_s: float, into: list[Timed]) -> None:
    """When each delta came, in seconds since the call, its text, and the tokens so far."""
    begun = asyncio.get_running_loop().time()
    async with aclosing(source.deltas()) as deltas, aclosing(bundled(deltas, lambda: pause_s)) as bundles:
        async for delta in bundles:
            if delta is None:
                continue
            now = asyncio.get_running_loop().time() - begun
            into.append((round(now, 3), delta.text, delta.completion_tokens))


def test_the_first_token_goes_at_once_and_what_comes_within_a_pause_goes_together() -> None:
    times: list[Timed] = []
    run(seen(Source([0.01] * 13), 0.055, times))
    assert times == [(0.01, "0 ", 1), (0.065, "1 2 3 4 5 ", 6), (0.12, "6 7 8 9 10 ", 11), (0.13, "11 12 ", 13)]


def test_what_comes_while_the_reader_is_busy_is_not_lost() -> None:
    async def slowly() -> list[str]:
        texts = []
        source = Source([0.0, 0.01, 0.01])
        async with aclosing(source.deltas()) as deltas, aclosing(bundled(deltas, lambda: 0.05)) as bundles:
            async for delta in bundles:
                assert delta is not None
                texts.append(delta.text)
                await asyncio.sleep(1.0)
        return texts

    assert run(slowly()) == ["0 ", "1 2 "]


def test_tokens_slower_than_the_pause_are_not_delayed() -> None:
    times: list[Timed] = []
    run(seen(Source([0.2, 0.3, 0.3]), 0.05, times))
    assert times == [(0.2, "0 ", 1), (0.5, "1 ", 2), (0.8, "2 ", 3)]


def test_the_end_waits_for_nothing() -> None:
    times: list[Timed] = []
    run(seen(Source([0.0, 0.01, 0.01]), 10.0, times))
    assert times == [(0.0, "0 ", 1), (0.02, "1 2 ", 3)]


def test_a_fault_comes_at_once_and_after_everything_before_it() -> None:
    times: list[Timed] = []
    with pytest.raises(GenerationFailed, match="broken"):
        run(seen(Source([0.0, 0.01], GenerationFailed("broken")), 10.0, times))
    assert times == [(0.0, "0 ", 1), (0.01, "1 ", 2)]


def test_a_fault_before_the_first_token_is_raised() -> None:
    with pytest.raises(GenerationFailed):
        run(seen(Source([], GenerationFailed("broken")), 10.0, []))


@pytest.mark.parametrize(("until_first", "told"), [(0.9, [0.9]), (5.0, [1.0, 5.0]), (None, [1.0])])
def test_a_caller_hears_within_a_second_that_its_call_is_worked_on(
    until_first: float | None, told: list[float]
) -> None:
    async def heard() -> list[float]:
        begun, times = asyncio.get_running_loop().time(), list[float]()
        source = Source([until_first]) if until_first else Source([1000.0])
        async with aclosing(source.deltas()) as deltas, aclosing(bundled(deltas, lambda: 0.05)) as bundles:
            async for delta in bundles:
                times.append(round(asyncio.get_running_loop().time() - begun, 3))
                assert (delta is None) == (len(times) < len(told) or until_first is None)
                if until_first is None:
                    break
        return times

    assert run(heard()) == told


@pytest.mark.parametrize(("running", "pause_s"), [(1, 0.05), (2, 0.05), (4, 0.1), (16, 0.4), (1000, WHOLE_PAUSE_S)])
def test_many_streams_send_no_more_messages_together_than_few(running: int, pause_s: float) -> None:
    assert pause_of_streams(running) == pause_s


def test_a_stream_whose_neighbours_end_is_faster_from_its_next_message_on() -> None:
    pauses = iter([0.2, 0.05, 0.05])

    async def times() -> list[float]:
        begun, found = asyncio.get_running_loop().time(), list[float]()
        source = Source([0.01] * 30)
        async with aclosing(source.deltas()) as deltas, aclosing(bundled(deltas, lambda: next(pauses))) as bundles:
            async for _ in bundles:
                found.append(round(asyncio.get_running_loop().time() - begun, 2))
        return found

    assert run(times()) == [0.01, 0.21, 0.26, 0.3]


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_reader_that_leaves_ends_the_answer(cancelled: bool) -> None:
    source = Source([0.0, 0.01, 1000.0, 1000.0])

    async def leaves() -> None:
        async with aclosing(source.deltas()) as deltas, aclosing(bundled(deltas, lambda: 0.05)) as bundles:
            await anext(bundles)
            if cancelled:
                async with asyncio.timeout(1.0):
                    async for _ in bundles:
                        pass

    if cancelled:
        with pytest.raises(TimeoutError):
            run(leaves())
    else:
        run(leaves())
    assert source.closed


def test_a_joined_delta_has_both_texts_and_the_later_counts() -> None:
    earlier, later = Delta("a", None, 10, 1, 4, 2), Delta("b", "length", 10, 2, 4, 2)
    assert joined(earlier, later) == Delta("ab", "length", 10, 2, 4, 2)
