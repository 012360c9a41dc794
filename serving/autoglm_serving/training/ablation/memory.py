"""What a tower made of pictures, kept in memory: many techniques differ only in what comes after it."""

import zlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from autoglm_serving.training.replies import See, Seen

T = TypeVar("T")


class Memory:
    """Made once for each picture and way to see it. Tens of megabytes for all screens of a test split."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def recall(self, what: Hashable, pixels: torch.Tensor, grid: torch.Tensor, make: Callable[[], T]) -> T:
        """What `make` gave for these pixels when it was asked first."""
        key = (what, zlib.crc32(pixels.cpu().numpy().tobytes()), *grid.flatten().tolist())
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def remembered(self, what: Hashable, see: See) -> See:
        """The same way to see, each picture once."""

        def again(pixels: torch.Tensor, grid: torch.Tensor) -> Seen:
            return self.recall(what, pixels, grid, lambda: see(pixels, grid))

        return again
