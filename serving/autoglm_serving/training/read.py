"""What patches and image tokens tell alone, before the language model: the reader of letters, and the losses."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from autoglm_serving.training.batches import NO_LETTER, SLOTS
from autoglm_serving.training.recipe import Recipe


class LetterReader(nn.Module):
    """Which letter has its middle here? Each patch has places beside each other to answer for.

    What a letter looks like is learned from places that are known, hardly from a list of all letters near by.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Linear(width, SLOTS * _SLOT_WIDTH)
        self.signs = nn.Linear(_SLOT_WIDTH, NO_LETTER + 1)

    def forward(self, patches: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Scores of all letters, and of none, at some of the places: [slots, letters + 1]."""
        seen = self.places(patches).view(-1, _SLOT_WIDTH)[slots]
        scores: torch.Tensor = self.signs(functional.gelu(seen))
        return scores


_SLOT_WIDTH = 64


@dataclass(frozen=True)
class Read:
    """The losses of what patches and image tokens tell alone: letters, their spellings, and whole image tokens."""

    letters: torch.Tensor
    spelling: torch.Tensor
    tokens: torch.Tensor

    def total(self, recipe: Recipe) -> torch.Tensor:
        """The part of the loss that needs no language model."""
        return (
            recipe.letters_weight * self.letters
            + recipe.spelling_weight * self.spelling
            + recipe.tokens_weight * self.tokens
        )

    def figures(self) -> dict[str, float]:
        """The same for the log."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


def nothing_read(features: torch.Tensor) -> Read:
    """Losses of nothing, with nothing to learn; the tensor says on which device."""
    nothing = features.sum() * 0
    return Read(nothing, nothing, nothing)
