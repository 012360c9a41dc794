"""Fusion by putting side by side: along the sequence, or along the channels with a projection."""

from torch import Tensor, nn

from autoglm_serving.vision.modules.fusion.base import Fusion, mean_identity


class Concat(Fusion):
    """[B, T, N, C] -> [B, T*N, C]: all tokens, one tile after the other. No parameters; the language model sorts it out."""

    output = "tokens"

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        return tiles.flatten(1, 2)


class ChannelConcat(Fusion):
    """[B, T, N, C] -> [B, N, C]: channels side by side, projected back to C. Starts as the mean.

    The row "Concat" in the article "multi-scale", section 2.3 (76.2 mIoU there). W [x_1; ...; x_T] is written as the sum of
    W_t x_t, which is the same.
    """

    output = "tile"

    def __init__(self, channels: int, tiles: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(mean_identity(channels, tiles) for _ in range(tiles))

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        if tiles.shape[1] != len(self.projections):
            raise ValueError(f"built for {len(self.projections)} tiles, got {tiles.shape[1]}")
        parts = [projection(tiles[:, t]) for t, projection in enumerate(self.projections)]
        return sum(parts[1:], parts[0])
