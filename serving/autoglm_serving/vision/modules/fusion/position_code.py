"""Where a token lies in the whole picture, as a vector."""

import math

import torch
from torch import Tensor, nn

OCTAVES = 6


class PositionCode(nn.Module):
    """[..., 2] centre (y, x), 0 to 1 -> [..., C]: sines and cosines of 6 octaves, then a learned projection.

    Fourier features (Tancik et al. 2020). It knows no grid, so any resolution goes.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(OCTAVES), persistent=False)
        self.project = nn.Linear(4 * OCTAVES, channels)

    def forward(self, positions: Tensor) -> Tensor:
        angles = (positions.unsqueeze(-1) * self.frequencies).flatten(-2)  # [..., 2 * OCTAVES]
        return self.project(torch.cat((angles.sin(), angles.cos()), -1).to(self.project.weight.dtype))
