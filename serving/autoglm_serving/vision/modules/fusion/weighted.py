"""Fusions that are weighted sums over the tiles: [B, T, N, C] -> [B, N, C]. One tile comes out unchanged."""

import math

import torch
from torch import Tensor, nn

from autoglm_serving.vision.modules.fusion.base import Fusion


class LearnedWeights(Fusion):
    """One learned weight for each tile, softmax over tiles; equal at the start.

    The article "multi-scale", section 2.3, "weighted fusion" (78.5 mIoU there, against 76.2 for concat).
    """

    output = "tile"

    def __init__(self, tiles: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.ones(tiles))

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        weights = self.logits[: tiles.shape[1]].softmax(0)
        return torch.einsum("t,btnc->bnc", weights, tiles)


class SqueezeExcitation(Fusion):
    """A weight for each tile and channel, from the mean over the tile's tokens; softmax over tiles. Starts as the mean.

    Squeeze-and-excitation (Hu et al. 2018) with the selection over branches of SKNet (Li et al. 2019); "multi-scale" 2.3,
    "attention fusion (SE)", has 79.1 mIoU.
    """

    output = "tile"

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        summary = tiles.mean(2)  # [B, T, C]
        weights = self.excite(torch.relu(self.squeeze(summary))).softmax(1)
        return (weights.unsqueeze(2) * tiles).sum(1)


class EntropyWeighted(Fusion):
    """A weight for each token of each tile: the richer in information (higher entropy over channels), the heavier.

    The article "compression", section 2.3: H(softmax(x)) / log C as weight (72.6 mAP there, against 68.3 for the
    mean). The softmax over tiles has a learned sharpness; at 0 it is the mean.
    """

    output = "tile"

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.ones(()))

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        weights = (self.sharpness * channel_entropy(tiles)).softmax(1)  # [B, T, N]
        return (weights.unsqueeze(-1) * tiles).sum(1)


def channel_entropy(features: Tensor) -> Tensor:
    """[..., C] -> [...]: Shannon entropy of softmax over channels, as a share of its maximum log C."""
    log_p = features.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(features.shape[-1])
