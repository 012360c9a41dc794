"""A fixed number of learnable queries that read all tiles, mixed with a plain average by a gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoglm_serving.vision.modules.fusion.base import Fusion
from autoglm_serving.vision.modules.fusion.cross_tile import attend
from autoglm_serving.vision.modules.fusion.position_code import PositionCode

GATE_AT_START = -2.0
"""Before the sigmoid: 12 % attention, 88 % average."""


class GatedQueries(Fusion):
    """[B, T, N, C] -> [B, Q, C] with Q = rows x columns: as many tokens as asked for, whatever the resolution.

    The article "multi-scale", chapter 1: learnable queries across tiles, then a gated fusion. Each query stands for one
    cell of a rows x columns grid over the picture: out = g * attended + (1 - g) * mean of the tokens in the cell. A cell that
    holds no token takes what is attended.
    """

    output = "queries"

    def __init__(self, channels: int, rows: int, columns: int, heads: int = 4) -> None:
        super().__init__()
        self.rows, self.columns, self.heads = rows, columns, heads
        self.queries = nn.Parameter(torch.randn(rows * columns, channels) * channels**-0.5)
        self.norm = nn.LayerNorm(channels)
        self.code = PositionCode(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.gate = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, GATE_AT_START)

    def forward(self, tiles: Tensor, positions: Tensor) -> Tensor:
        flat, places = tiles.flatten(1, 2), positions.flatten(1, 2)  # [B, T*N, C], [B, T*N, 2]
        pooled, filled = self._pool(flat, places)
        attended = self._attend(flat, places)
        gate = torch.sigmoid(self.gate(torch.cat((attended, pooled), -1)))
        gate = torch.where(filled.unsqueeze(-1), gate, torch.ones_like(gate))
        return gate * attended + (1 - gate) * pooled

    def _attend(self, flat: Tensor, places: Tensor) -> Tensor:
        keys = self.norm(flat) + self.code(places)
        key, value = self.key_value(keys).chunk(2, -1)
        query = self.query(self.queries + self.code(self._centres(places))).expand(flat.shape[0], -1, -1)
        return self.out(attend(query, key, value, self.heads))

    def _pool(self, flat: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the tokens in each query's cell [B, Q, C], and which cells hold any [B, Q]."""
        row = (places[..., 0] * self.rows).long().clamp(0, self.rows - 1)
        column = (places[..., 1] * self.columns).long().clamp(0, self.columns - 1)
        member = functional.one_hot(row * self.columns + column, self.rows * self.columns).to(flat.dtype)  # [B, T*N, Q]
        count = member.sum(1)
        return torch.einsum("bnq,bnc->bqc", member, flat) / count.clamp(min=1).unsqueeze(-1), count > 0

    def _centres(self, places: Tensor) -> Tensor:
        index = torch.arange(self.rows * self.columns, device=places.device)
        row, column = index // self.columns, index % self.columns
        return torch.stack(((row + 0.5) / self.rows, (column + 0.5) / self.columns), -1).to(places.dtype)
