"""Masks that do not depend on the resolution, and batches of pictures of different sizes that use them.

The article "adaptation", section 3.2: build the mask on coordinates from 0 to 1 and the same rule holds at every size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Region = Callable[[Tensor, Tensor], Tensor]
"""(y, x) as shares of height and width -> true where attended. Example: `lambda y, x: x + y <= 1`."""


def coordinate_mask(height: int, width: int, region: Region) -> Tensor:
    """[H, W] of bool: the region on a grid of this size, judged at cell centres."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return region(y, x)


def padding_mask(lengths: Sequence[int], device: torch.device | None = None) -> Tensor:
    """[B, longest] of bool, true where there is a token."""
    places = torch.arange(max(lengths), device=device)
    return places.unsqueeze(0) < torch.tensor(lengths, device=device).unsqueeze(1)


def pad(packed: Tensor, lengths: Sequence[int]) -> Tensor:
    """[P, ...] runs one after the other -> [B, longest, ...], zeros at the end."""
    return torch.nn.utils.rnn.pad_sequence(list(packed.split(list(lengths))), batch_first=True)


def unpad(padded: Tensor, mask: Tensor) -> Tensor:
    """[B, longest, ...] -> [P, ...]: the reverse of `pad`."""
    return padded[mask]


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[B, heads, N, d] x 3 and [B, N] of bool -> [B, heads, N, d]. No token looks at padding; padded rows mean nothing."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], scale=scale)
