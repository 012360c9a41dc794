"""Copies of a model that learn side by side: each takes its share of a step's batches, and all learn from the sum.

What a step learns does not depend on how many copies there are: its batches follow from its number, and what is drawn at
random from the number of the batch. The gradients of a step are added in one piece, where torch's DDP adds them bucket by
bucket; it is not used because a step may leave out whole parts of the model, which DDP has to be told for each call.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class World:
    """Which of the copies this one is, from 0. More than one need torch's default process group."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this copy writes logs and checkpoints."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """The numbers of the batches that this copy learns from."""
        return range(self.rank, parts, self.size)

    def agree(self, values: Iterable[torch.Tensor]) -> None:
        """Let all copies begin with the first one's values."""
        if self.size > 1:
            for value in values:
                distributed.broadcast(value.detach(), 0)

    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their sums. What no copy has learned anything about keeps none."""
        if self.size == 1:
            return
        learning = [each for each in parameters if each.requires_grad]
        counts = torch.tensor([float(each.grad is not None) for each in learning], device=learning[0].device)
        distributed.all_reduce(counts)
        shared = [each for each, count in zip(learning, counts.tolist(), strict=True) if count]
        if not shared:
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in shared]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        begin = 0
        for each in shared:
            each.grad = flat[begin : begin + each.numel()].view_as(each)
            begin += each.numel()

    def all_of(self, value: Any) -> list[Any]:
        """The values of all copies, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


ALONE = World()
