"""Where attention goes: maps over a picture's image tokens, for cropping. No gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autoglm_serving.vision.modules.tower import Rotary, Run, Visual, query_key_value


@torch.no_grad()
def received_attention(visual: Visual, hidden: Tensor, run: Run, angles: Rotary, block: int = -1) -> list[Tensor]:
    """How much each image token's patches are looked at inside the tower, on average over heads and queries.

    hidden [P, C] is what enters the block; the result is one [cells] for each piece. It knows the picture, not the task.
    """
    layer = visual.blocks[block]
    query, key, _ = query_key_value(layer.attn, layer.norm1(hidden), angles)  # [P, heads, d]
    cell = visual.spatial_merge_size**2
    maps = []
    for q, k in zip(query.split(list(run.lengths)), key.split(list(run.lengths)), strict=True):
        heads = zip(q.unbind(1), k.unbind(1), strict=True)  # one head at a time: [n, n] is large
        received = torch.stack([(a @ b.T * layer.attn.scaling).softmax(-1).mean(0) for a, b in heads]).mean(0)
        maps.append(received.unflatten(0, (-1, cell)).sum(1))
    return maps


@torch.no_grad()
def question_attention(model: Any, prepared: dict[str, Any], runs: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
    """How much each picture's tokens are looked at by the words after it, on average over words, heads and layers.

    prepared: keyword arguments of the model; runs: columns of each picture in each row. Answers that are being learned
    (labels) are not asked, only the question. One [tokens] for each picture, in order.
    """
    labels = prepared.get("labels")
    arguments = {name: value for name, value in prepared.items() if name != "labels"}
    with eager(model.config.text_config, model.model.language_model.config):
        layers = model(**arguments, output_attentions=True, use_cache=False).attentions
    attention = torch.stack([layer.mean(1) for layer in layers]).mean(0)  # [B, S, S]
    mask: Tensor = prepared["attention_mask"].bool()
    maps = []
    for i, pictures in enumerate(runs):
        asked = mask[i] if labels is None else mask[i] & (labels[i] < 0)
        for columns in pictures:
            words = asked.clone()
            words[: columns[-1] + 1] = False
            maps.append(attention[i, words][:, columns[0] : columns[-1] + 1].mean(0))
    return maps


@contextmanager
def eager(*configs: Any) -> Iterator[None]:
    """Models of these configurations give their attention weights inside, as fused kernels cannot."""
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
