"""The steps of a `glm4v` vision tower, apart from each other, so that something can happen between them.

The weights stay where they are: every function takes the tower (`Glm4vVisionModel`). Run one after the other without
changes they give the tower's own output, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb_vision

from autoglm_serving.vision.modules.layout import PatchShape
from autoglm_serving.vision.modules.positions import (
    GridMethod,
    interpolate_grid,
    masked_attention,
    pad,
    padding_mask,
    scale_positions,
    unpad,
)

Visual = Any
"""A `Glm4vVisionModel`; transformers' types do not reach that far."""
Rotary = tuple[Tensor, Tensor]
"""cos and sin, [P, head dimension] each."""


@dataclass(frozen=True)
class Run:
    """Pictures, or pieces of them, that pass through the tower side by side. Each attends only to itself."""

    lengths: tuple[int, ...]
    """Patches of each piece."""
    coordinates: Tensor
    """[P, 2] row and column of each patch in its picture."""
    extents: Tensor
    """[pieces, 2] rows and columns, in patches, of the picture that the piece belongs to."""

    @property
    def bounds(self) -> Tensor:
        """[pieces + 1] where each piece starts and the last one ends."""
        ends = torch.tensor(self.lengths, device=self.coordinates.device).cumsum(0)
        return torch.cat((ends.new_zeros(1), ends)).to(torch.int32)


@dataclass(frozen=True)
class Positions:
    """How positions reach the tower."""

    grid: GridMethod = "bicubic"
    trained_side: int | None = None
    """Rotary positions of pictures with a longer side, in patches, are squeezed into this; None leaves them alone."""


def patch_shape(visual: Visual) -> PatchShape:
    """What one row of patches holds."""
    config = visual.config
    return PatchShape(config.in_channels, config.temporal_patch_size, config.patch_size)


def embed(visual: Visual, patches: Tensor, run: Run, grid: GridMethod = "bicubic") -> Tensor:
    """[P, D] pixels -> [P, C] with the learned positions added."""
    hidden = visual.post_conv_layernorm(visual.patch_embed(patches.to(visual.dtype)))
    shapes = torch.cat((torch.ones_like(run.extents[:, :1]), run.extents), 1)
    if grid == "bicubic":
        rows, columns = run.coordinates.unbind(1)
        embedded: Tensor = visual.embeddings(hidden, list(run.lengths), shapes, rows, columns)
        return embedded
    weight = visual.embeddings.position_embedding.weight
    repeats = torch.tensor(run.lengths, device=hidden.device)
    added: Tensor = hidden + interpolate_grid(weight, run.coordinates, run.extents.repeat_interleave(repeats, 0), grid)
    return added


def rotary(visual: Visual, hidden: Tensor, run: Run, trained_side: int | None = None) -> Rotary:
    """The rotary angles of a run."""
    if trained_side is None:
        angles: Rotary = visual.rotary_pos_emb(hidden, run.coordinates)
        return angles
    pieces = zip(run.coordinates.split(list(run.lengths)), run.extents.tolist(), strict=True)
    scaled = [scale_positions(piece, height, width, trained_side) for piece, (height, width) in pieces]
    squeezed: Rotary = visual.rotary_pos_emb(hidden, torch.cat(scaled))
    return squeezed


def blocks(visual: Visual, hidden: Tensor, run: Run, angles: Rotary, part: slice = slice(None)) -> Tensor:
    """[P, C] -> [P, C] through these blocks, one piece after the other in each (what `glm4v` does without flash attention)."""
    for block in visual.blocks[part]:
        hidden = block(hidden, cu_seqlens=run.bounds, position_embeddings=angles)
    return hidden


def blocks_padded(visual: Visual, hidden: Tensor, run: Run, angles: Rotary, part: slice = slice(None)) -> Tensor:
    """As `blocks`, with all pieces in one attention call, padded to the longest and masked."""
    mask = padding_mask(run.lengths, hidden.device)
    for block in visual.blocks[part]:
        hidden = hidden + _attend_padded(block.attn, block.norm1(hidden), run.lengths, angles, mask)
        hidden = hidden + block.mlp(block.norm2(hidden))
    return hidden


def query_key_value(attention: Any, normed: Tensor, angles: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """[P, C] -> three times [P, heads, d], queries and keys rotated."""
    query, key, value = attention.qkv(normed).reshape(normed.shape[0], 3, attention.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *angles)
    return query, key, value


def _attend_padded(attention: Any, normed: Tensor, lengths: Sequence[int], angles: Rotary, mask: Tensor) -> Tensor:
    heads = [pad(x, lengths).transpose(1, 2) for x in query_key_value(attention, normed, angles)]  # [B, heads, N, d]
    seen = masked_attention(heads[0], heads[1], heads[2], mask, attention.scaling)
    out: Tensor = attention.proj(unpad(seen.transpose(1, 2), mask).flatten(1))
    return out


def merge(visual: Visual, hidden: Tensor) -> Tensor:
    """[P, C] -> [P / m^2, C_out]: the merger's output, one row for each image token."""
    side = visual.spatial_merge_size
    cells = visual.post_layernorm(hidden).view(-1, side, side, hidden.shape[-1]).permute(0, 3, 1, 2)
    merged: Tensor = visual.merger(visual.downsample(cells).view(-1, visual.config.out_hidden_size))
    return merged
