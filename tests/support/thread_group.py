"""The collectives of torch.distributed between threads of this process: ranks without processes."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
DEADLINE_S = 120.0


class ThreadGroup:
    """Put in the place of `torch.distributed` in a module; each thread of `run` is one rank."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._barrier = threading.Barrier(ranks)
        self._handed: list[torch.Tensor | None] = [None] * ranks
        self._local = threading.local()

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Every rank's result. An error of one ends all."""

        def rank(number: int) -> T:
            self._local.rank = number
            try:
                return work(number)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._ranks) as pool:
            return list(pool.map(rank, range(self._ranks)))

    def all_reduce(self, values: torch.Tensor) -> None:
        values.copy_(torch.stack(self._everybodys(values)).sum(dim=0))

    def all_gather(self, parts: Sequence[torch.Tensor], values: torch.Tensor) -> None:
        for part, other in zip(parts, self._everybodys(values), strict=True):
            part.copy_(other)

    def _everybodys(self, values: torch.Tensor) -> list[torch.Tensor]:
        self._handed[self._local.rank] = values.clone()
        self._barrier.wait(DEADLINE_S)
        found = [each for each in self._handed if each is not None]
        self._barrier.wait(DEADLINE_S)
        assert {each.shape for each in found} == {values.shape}, "the ranks compute different things"
        return found
