"""Whose images the vision tower sees next: one call at a time, first come, first served, images of one size together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """An image that is prepared for the tower."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, patches down and patches across: images of one grid can share a call."""

    @property
    def tokens(self) -> int:
        """Image tokens."""


Image = TypeVar("Image", bound=Sized)
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Image, Result]):
    image: Image
    begin: Callable[[], None]
    done: "asyncio.Future[Result]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TowerTurns(Generic[Image, Result]):
    """For one event loop; the tower runs in a thread of its own. A call takes up to `batch_tokens`, or one image."""

    def __init__(self, encode: Callable[[Sequence[Image]], Sequence[Result]], batch_tokens: int) -> None:
        self._encode = encode
        self._batch_tokens = batch_tokens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="autoglm-tower")
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting[Image, Result]] = []
        self.failed = 0
        """Calls that failed since the last one that did not."""

    async def load(self, work: Callable[[], None]) -> None:
        """Do something in the tower's thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def result(self, image: Image, begin: Callable[[], None]) -> Result:
        """What the tower says about an image. Cancelling it before `begin` was called costs the tower nothing."""
        mine = _Waiting[Image, Result](image, begin)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.done.done():
                    await self._call(self._group(mine))
            return await mine.done
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)

    def close(self) -> None:
        """End the thread after the call it is in. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _group(self, first: _Waiting[Image, Result]) -> list[_Waiting[Image, Result]]:
        room = self._batch_tokens - first.image.tokens
        group = [first]
        for other in self._waiting:
            if other is not first and other.image.grid == first.image.grid and other.image.tokens <= room:
                group.append(other)
                room -= other.image.tokens
        return group

    async def _call(self, group: list[_Waiting[Image, Result]]) -> None:
        for each in group:
            self._waiting.remove(each)
            each.begin()
        images = [each.image for each in group]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, images)
        except Exception as error:  # noqa: BLE001 - told to everybody who waits for one of them
            self.failed += 1
            for each in group:
                each.done.set_exception(error)
            return
        self.failed = 0
        for each, result in zip(group, results, strict=True):
            if not each.done.done():
                each.done.set_result(result)
