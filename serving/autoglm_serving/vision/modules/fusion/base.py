"""What every fusion is: several views of one picture in, one sequence of tokens out."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

Output = Literal["tokens", "tile", "queries"]
"""What comes out: every token of every tile [B, T*N, C], one tile's grid [B, N, C], or a fixed number [B, Q, C]."""


class Fusion(nn.Module, ABC):
    """Fuses T tiles (pieces of a picture) or T scales (the picture at several sizes, aligned to one grid)."""

    output: Output

    @abstractmethod
    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:
        """tiles [B, T, N, C] row-major in each tile; positions [B, T, N, 2] centre (y, x) in the whole picture, 0 to 1."""


def mean_identity(channels: int, tiles: int) -> nn.Linear:
    """A linear map C -> C without bias that starts as one of `tiles` equal shares of the identity."""
    linear = nn.Linear(channels, channels, bias=False)
    nn.init.eye_(linear.weight)
    with torch.no_grad():
        linear.weight.div_(tiles)
    return linear
