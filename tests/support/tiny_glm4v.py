"""A `glm4v` model of a few thousand weights and batches for it, for tests of what happens inside."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

IMAGE, BEGIN, END = 10, 12, 13
SIDE = 8
"""Rows and columns of the learned position grid."""
PATCH = 3 * 2 * 7 * 7

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 2],
    },
}
_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 32,
    "image_size": 7 * SIDE,
    "patch_size": 7,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "initializer_range": 0.2,
}


def tiny_glm4v(seed: int = 0) -> Any:
    """The model, in evaluation mode."""
    config = Glm4vConfig(
        text_config=dict(_TEXT),
        vision_config=dict(_VISION),
        image_token_id=IMAGE,
        video_token_id=11,
        image_start_token_id=BEGIN,
        image_end_token_id=END,
        video_start_token_id=14,
        video_end_token_id=15,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Glm4vForConditionalGeneration(config).eval()


def pictures(grids: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random pictures of these rows and columns of patches, as the image processor gives them."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(rows * columns for rows, columns in grids)
    return {
        "pixel_values": torch.randn(total, PATCH, generator=generator),
        "image_grid_thw": torch.tensor([[1, *grid] for grid in grids]),
    }


def batch(grids: Sequence[tuple[int, int]], words: int = 5, answer: int = 2) -> dict[str, torch.Tensor]:
    """One row for each picture: a word, the picture, a question, an answer to learn. Short rows are padded on the left."""
    rows = [
        [1, BEGIN, *[IMAGE] * (height * width // 4), END, *range(20 + i, 20 + i + words + answer)]
        for i, (height, width) in enumerate(grids)
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    labels = torch.full_like(ids, -100)
    labels[:, -answer:] = ids[:, -answer:]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "labels": labels,
        **pictures(grids),
    }
