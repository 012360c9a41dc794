"""Where the end of a question looks: one layer's attention, which is taught directly to go to the element's image tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.glm4v.modeling_glm4v import apply_rotary_pos_emb

from autoglm_serving.training.batches import Batch

LOOKING_LAYER = 1
"""The layer whose attention goes from a question to its place: words must have gathered their spelling in the one before."""


def looking_layer(layers: Sequence[Any]) -> int:
    """The number of that layer; the last one of a model that has fewer."""
    return min(LOOKING_LAYER, len(layers) - 1)


def looks(
    text_model: Any, states: torch.Tensor, positions: torch.Tensor, batch: Batch, is_image: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """-log of the attention that ends of questions give to their element, and how often the most looked-at token is its.

    The mean over heads and questions. `states` (rows, length, width) are what the layer gets; `positions` are the model's.
    """
    if not batch.asks:
        return states.sum() * 0, 0.0
    layer = text_model.layers[looking_layer(text_model.layers)]
    losses, found = [], 0
    queries, keys = _compared(layer, text_model.rotary_emb, states, positions)
    for row in sorted({ask[0] for ask in batch.asks}):
        asked = [(place, cells) for number, place, cells in batch.asks if number == row]
        places = [place for place, _ in asked]
        logs = _logs(queries[row][:, places], keys[row], batch.mask[row, 0, places])[..., is_image[row]]
        for number, (_, cells) in enumerate(asked):
            # The element is found with all of the attention that its image tokens get together.
            losses.append(-logs[:, number, list(cells)].logsumexp(-1).mean())
            found += int(logs[:, number].exp().mean(0).argmax()) in cells
    return torch.stack(losses).mean(), found / len(batch.asks)


def attention_logs(
    text_model: Any, states: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """(heads, ends, length): the logarithm of the attention of one row's places `ends`. `states` are what the layer gets."""
    layer = text_model.layers[looking_layer(text_model.layers)]
    queries, keys = _compared(layer, text_model.rotary_emb, states, positions)
    return _logs(queries[0][:, list(ends)], keys[0], mask[0, 0, list(ends)])


def _compared(
    layer: Any, rotary: Any, states: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys as the layer itself compares them: (rows, heads, length, size of a head)."""
    attention, normed = layer.self_attn, layer.input_layernorm(states)
    projected = [attention.q_proj(normed), attention.k_proj(normed)]
    queries, keys = [each.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for each in projected]
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotary(states, position_ids=positions))
    return queries, keys.repeat_interleave(attention.num_key_value_groups, 1)


def _logs(queries: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The logarithm of attention: (heads, questions, length)."""
    scores = (queries @ keys.transpose(1, 2)).float() / queries.shape[-1] ** 0.5
    logs: torch.Tensor = scores.masked_fill(~seen, float("-inf")).log_softmax(-1)
    return logs
