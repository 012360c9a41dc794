"""Feature pyramid over scales."""

import torch
from torch import Tensor, nn

from autoglm_serving.vision.modules.fusion.base import Fusion, mean_identity


class FeaturePyramid(Fusion):
    """[B, T, N, C] -> [B, N, C]: scales from fine to coarse, summed top-down through lateral maps, then smoothed 3x3.

    FPN (Lin et al. 2017); the article "multi-scale" names it for nearby scales. The scales are already aligned to the finest
    grid, whose map is what comes out. Starts as the mean; one scale comes out unchanged.
    """

    output = "tile"

    def __init__(self, channels: int, tiles: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(mean_identity(channels, tiles) for _ in range(tiles))
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.dirac_(self.smooth.weight, groups=channels)
        nn.init.zeros_(_bias(self.smooth))

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:
        if tiles.shape[1] != len(self.lateral):
            raise ValueError(f"built for {len(self.lateral)} scales, got {tiles.shape[1]}")
        summed = self.lateral[-1](tiles[:, -1])
        for t in range(tiles.shape[1] - 2, -1, -1):
            summed = self.lateral[t](tiles[:, t]) + summed
        width = first_row_length(positions)
        image = summed.transpose(1, 2).unflatten(2, (-1, width))  # [B, C, H, W]
        return self.smooth(image).flatten(2).transpose(1, 2)


def first_row_length(positions: Tensor) -> int:
    """Columns of a row-major grid, from [B, T, N, 2]: how many tokens share the first one's height."""
    heights = positions[0, 0, :, 0]
    return int(torch.isclose(heights, heights[0], rtol=0, atol=1e-6).sum())


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
