"""The stage of telling: upper layers learn to say a place that is given to them, before the lower ones have learned to find it.

There is no picture and no looking: at the end of each question its element's place is added to what the looking layer says.
Which digits say a place is learned so in a fraction of the steps, and later every right look is a right answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoglm_serving.training.batches import Batch, starts

_AT_MARK, _AT_LAST = (1.2, 2.6), (0.3, 2.4)
"""How loud a place is at the mark of the answer, which is the token before the last, and at the last one: between these."""

_NOISE = 0.08
"""The spread of each number that is added beside the place."""


@contextmanager
def given(layer: nn.Module, places: torch.Tensor) -> Iterator[None]:
    """While this lasts, what the layer says has places added to it, and nothing before it learns."""
    handle = layer.register_forward_hook(lambda _, __, said: said.detach() + places)
    try:
        yield
    finally:
        handle.remove()


def places(batch: Batch) -> torch.Tensor:
    """(rows, length, width): the codes of the places that the questions of a batch ask for, at the ends of the questions."""
    begins = starts(batch.tokens)
    found = batch.codes.new_zeros(*batch.ids.shape, batch.codes.shape[-1])
    for row, last, cells in batch.asks:
        code = batch.codes[[begins[row] + cell for cell in cells]].mean(0)
        for place, (least, most) in ((last - 1, _AT_MARK), (last, _AT_LAST)):
            # Drawn where a checkpoint keeps the generator's state: on the CPU.
            loud = least + (most - least) * float(torch.rand(()))
            found[row, place] = code * loud + _NOISE * torch.randn(len(code)).to(code.device)
    return found


def positions(batch: Batch, merged_side: int) -> torch.Tensor:
    """(3, rows, length): as if the picture were there, whose image tokens have `merged_side` patches along each side."""
    inside = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
    after = batch.prefix + batch.grid[:, 1:].amax(1) // merged_side
    found = torch.where(batch.segments == 0, inside, after.unsqueeze(1) + batch.offsets)
    return found.unsqueeze(0).expand(3, -1, -1)
