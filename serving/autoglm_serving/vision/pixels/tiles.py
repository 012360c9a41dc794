"""Cut a picture into the tiles of a tiling, and put tiles (or what a model made of them) together again.

Source: "Open-AutoGLM multi-resolution adaptation in practice", section 3.1 (partition and reassembly).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.pixels.resize import Picture
from autoglm_serving.vision.tiling import Tiling


def cut(picture: Picture, tiling: Tiling) -> list[Picture]:
    """One array for each tile, in the tiling's order. They share the picture's memory."""
    if picture.shape[:2] != (tiling.height, tiling.width):
        raise ValueError(f"a tiling of {tiling.width}x{tiling.height} for {picture.shape[1]}x{picture.shape[0]} pixels")
    boxes = (tile.box for tile in tiling.tiles)
    return [picture[box.top : box.bottom, box.left : box.right] for box in boxes]


def merge(parts: Sequence[NDArray[Any]], tiling: Tiling) -> NDArray[Any]:
    """The picture that the parts are tiles of. Any number of channels; overlapping tiles are averaged."""
    if len(parts) != len(tiling.tiles):
        raise ValueError(f"{len(parts)} parts for {len(tiling.tiles)} tiles")
    total = np.zeros((tiling.height, tiling.width, *parts[0].shape[2:]), dtype=np.float64)
    count = np.zeros((tiling.height, tiling.width, *(1 for _ in parts[0].shape[2:])))
    for part, tile in zip(parts, tiling.tiles, strict=True):
        box = tile.box
        place = (slice(box.top, box.bottom), slice(box.left, box.right))
        if part.shape[:2] != (box.height, box.width):
            raise ValueError(f"tile {tile.index} has {box.width}x{box.height} pixels, its part {part.shape[1::-1]}")
        total[place] += part
        count[place] += 1
    mean = total / np.maximum(count, 1)
    merged = np.rint(mean) if np.issubdtype(parts[0].dtype, np.integer) else mean
    return np.asarray(merged, dtype=parts[0].dtype)
