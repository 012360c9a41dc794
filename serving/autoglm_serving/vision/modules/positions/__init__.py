"""Positions, masks and normalisation at sizes that were never trained."""

from autoglm_serving.vision.modules.positions.grid import GridMethod, interpolate_grid, resize_grid
from autoglm_serving.vision.modules.positions.masks import (
    coordinate_mask,
    masked_attention,
    pad,
    padding_mask,
    unpad,
)
from autoglm_serving.vision.modules.positions.normalisation import DynamicNormalisation, dynamic_normalise
from autoglm_serving.vision.modules.positions.rope import linear_scale, scale_positions

__all__ = [
    "DynamicNormalisation",
    "GridMethod",
    "coordinate_mask",
    "dynamic_normalise",
    "interpolate_grid",
    "linear_scale",
    "masked_attention",
    "pad",
    "padding_mask",
    "resize_grid",
    "scale_positions",
    "unpad",
]
