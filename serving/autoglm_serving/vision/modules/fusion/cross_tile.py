"""Attention from each tile to the others."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoglm_serving.vision.modules.fusion.base import Fusion
from autoglm_serving.vision.modules.fusion.position_code import PositionCode


class CrossTileAttention(Fusion):
    """[B, T, N, C] -> [B, T*N, C]: every token also looks at the tokens of all other tiles.

    The article "adaptation" encodes tiles alone and joins them by attention across tiles (82.7 % against 76.3 % for one 512x512
    picture there). A tile's own tokens are left out: the tower has done those. The output projection starts at zero, so
    training starts from `Concat`; one tile comes out unchanged.
    """

    output = "tokens"

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.code = PositionCode(channels)
        self.query_key = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:
        _, count, tokens, _ = tiles.shape
        flat = tiles.flatten(1, 2)  # [B, T*N, C]
        if count == 1:
            return flat
        normed = self.norm(flat)
        query, key = self.query_key(normed + self.code(positions.flatten(1, 2))).chunk(2, -1)
        owner = torch.arange(count, device=tiles.device).repeat_interleave(tokens)
        other = owner.unsqueeze(1) != owner.unsqueeze(0)  # [T*N, T*N], true where a token may look
        seen = attend(query, key, self.value(normed), self.heads, other)
        return flat + self.out(seen)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """[B, N, C] queries on [B, M, C] keys and values -> [B, N, C], in heads; mask [N, M] is true where one may look."""
    q, k, v = (
        x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value)
    )  # [B, heads, ., C / heads]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
