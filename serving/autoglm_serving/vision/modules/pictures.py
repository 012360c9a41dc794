"""Handing image tokens that were made elsewhere to a `glm4v` model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from autoglm_serving.vision.modules.crop import CellCrop
from autoglm_serving.vision.modules.fused_tower import Encoded
from autoglm_serving.vision.modules.rewriting import Inputs, image_runs, resize_runs, take_columns

Model = Any
"""A `Glm4vForConditionalGeneration`."""


def with_masks(model: Model, inputs: Inputs) -> Inputs:
    """The inputs with the masks that may be left out: nothing padded, and a picture wherever there is a placeholder."""
    ids: Tensor = inputs["input_ids"]
    filled = dict(inputs)
    if filled.get("attention_mask") is None:
        filled["attention_mask"] = torch.ones_like(ids)
    if filled.get("mm_token_type_ids") is None:
        filled["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    return filled


def with_features(inputs: Inputs, tokens: Sequence[Tensor]) -> Inputs:
    """The inputs with these image tokens, one tensor [n, C] for each picture, in place of pixels."""
    encoded = {"image": BaseModelOutputWithPooling(pooler_output=tuple(tokens))}
    return {**{name: value for name, value in inputs.items() if name != "pixel_values"}, "mm_encoder_outputs": encoded}


def with_pictures(model: Model, inputs: Inputs, encoded: Sequence[Encoded]) -> Inputs:
    """The inputs with these pictures: placeholders and position grids as many as there are tokens."""
    filled = with_masks(model, inputs)
    counts = [len(picture.tokens) for picture in encoded]
    resized = resize_runs(filled, model.config.image_token_id, pad_token(model), counts)
    side = model.model.visual.spatial_merge_size
    grids = [[1, picture.grid[0] * side, picture.grid[1] * side] for picture in encoded]
    resized = {**resized, "image_grid_thw": inputs["image_grid_thw"].new_tensor(grids)}
    return with_features(resized, [picture.tokens for picture in encoded])


def with_crops(model: Model, inputs: Inputs, crops: Sequence[CellCrop], tokens: Sequence[Tensor]) -> Inputs:
    """The inputs with only the cropped image tokens, at the positions that they have in the whole pictures."""
    filled = with_masks(model, inputs)
    ids = filled["input_ids"]
    filled["position_ids"], model.model.rope_deltas = model.model.get_rope_index(
        ids, filled["mm_token_type_ids"], filled["image_grid_thw"], attention_mask=filled["attention_mask"]
    )
    left = iter(crops)
    columns = []
    for row in ids:
        kept = set(range(len(row)))
        for run in image_runs(row, model.config.image_token_id):
            inside = next(left).cells()
            kept -= set(run)
            kept |= {run[cell] for cell in inside}
        columns.append(sorted(kept))
    return with_features(take_columns(filled, columns, pad_token(model)), tokens)


def pad_token(model: Model) -> int:
    """The token that fills short rows; 0 where the model names none. It is masked, so any would do."""
    return model.config.text_config.pad_token_id or 0
