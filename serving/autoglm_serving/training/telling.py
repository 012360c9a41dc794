"""The stage of telling: upper layers learn to say a place that is given to them, before the lower ones have learned to find it.

There is no picture and no looking: at the end of each question its element's place is added to what the looking layer says.
Which digits say a place is learned so in a fraction of the steps, and later every right look is a right answer, if the places
of what is looked at arrive there as they were told. That is a loss of its own (`arrived`): from the digits alone, which later
layers say, it is hardly learned.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoglm_serving.training.batches import Batch, starts
from autoglm_serving.training.spelling import place_directions

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
    found = batch.codes.new_zeros(*batch.ids.shape, batch.codes.shape[-1])
    for (row, last, _), code in zip(batch.asks, _asked_for(batch), strict=True):
        for place, (least, most) in ((last - 1, _AT_MARK), (last, _AT_LAST)):
            # Drawn where a checkpoint keeps the generator's state: on the CPU.
            loud = least + (most - least) * float(torch.rand(()))
            found[row, place] = code * loud + _NOISE * torch.randn(len(code)).to(code.device)
    return found


def arrived(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """How far the places are that the looking layer says at the ends of questions from those asked for, squared and in mean.

    `states` (rows, length, width) are what the layer says. Only the directions of places count.
    """
    if not batch.asks:
        return states.sum() * 0
    directions = place_directions(states.shape[-1]).to(states.device)
    wanted = torch.stack(_asked_for(batch)) @ directions.T
    rows, lasts = [row for row, _, _ in batch.asks], torch.tensor([last for _, last, _ in batch.asks])
    loss = states.sum() * 0
    for places, (least, most) in ((lasts - 1, _AT_MARK), (lasts, _AT_LAST)):
        said = states[rows, places].float() @ directions.T
        loss = loss + (said - wanted * (least + most) / 2).square().sum(1).mean()
    return loss


def _asked_for(batch: Batch) -> list[torch.Tensor]:
    """[width] for each question: the code of its element's place, the mean over the image tokens that show it."""
    begins = starts(batch.tokens)
    return [batch.codes[[begins[row] + cell for cell in cells]].mean(0) for row, _, cells in batch.asks]


def positions(batch: Batch, merged_side: int) -> torch.Tensor:
    """(3, rows, length): as if the picture were there, whose image tokens have `merged_side` patches along each side."""
    inside = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
    after = batch.prefix + batch.grid[:, 1:].amax(1) // merged_side
    found = torch.where(batch.segments == 0, inside, after.unsqueeze(1) + batch.offsets)
    return found.unsqueeze(0).expand(3, -1, -1)
