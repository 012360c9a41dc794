"""An event loop whose time passes at once: when every task waits, the clock jumps to the moment at which the first goes on.

Nothing in it may use sockets or threads. A run depends on nothing but the program, and hours take milliseconds.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from typing_extensions import override

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits for something that cannot happen any more."""


class _Selector(selectors.DefaultSelector):
    """Waits by moving the loop's clock."""

    loop: "VirtualLoop"

    @override
    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("every task waits, and none of them for a time")
        self.loop.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`now` is its clock in seconds."""

    def __init__(self) -> None:
        selector = _Selector()
        self.now = 1_000.0
        super().__init__(selector)
        selector.loop = self

    @override
    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
