"""Normalising a picture by its own statistics instead of fixed ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-6


def dynamic_normalise(values: Tensor, dim: int | tuple[int, ...] = 0, epsilon: float = EPSILON) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) along `dim`, with the biased variance: the article "adaptation", section 4.1."""
    variance, mean = torch.var_mean(values, dim=dim, keepdim=True, unbiased=False)
    return (values - mean) / torch.sqrt(variance + epsilon)


class DynamicNormalisation(nn.Module):
    """[P, D] patches of pictures of `lengths` patches -> [P, D], each picture and colour at mean 0 and variance 1.

    By picture and not by batch as the article has it: then a picture's values do not depend on its neighbours. A learned
    scale and shift for each colour follow, and a learned share (sigmoid, half at the start) of the fixed normalisation stays.
    """

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(colours, 1))
        self.shift = nn.Parameter(torch.zeros(colours, 1))
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        colours = patches.unflatten(1, (self.scale.shape[0], -1))  # [P, colours, pixels]
        own = torch.cat([dynamic_normalise(picture, (0, 2)) for picture in colours.split(list(lengths))])
        share = torch.sigmoid(self.share)
        return (share * colours + (1 - share) * (own * self.scale + self.shift)).flatten(1)
