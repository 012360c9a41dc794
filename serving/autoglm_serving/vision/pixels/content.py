"""Tiles that follow the content: small ones where there is detail, large ones where there is none.

Source: "Open-AutoGLM multi-resolution adaptation in practice", section 3.1: the variance of the Laplacian marks detail, a
morphological closing makes areas of it, contours give their boxes. The article's tiles are those boxes alone; here every
pixel lies in one tile, because a button on a plain background must not vanish.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.boxes import Box
from autoglm_serving.vision.pixels.resize import Picture
from autoglm_serving.vision.regions import merged
from autoglm_serving.vision.tiling import LARGE_TILE, Tiling, grid, of_regions

DETAIL_SHARE = 0.15
"""Of the greatest local variance: from there on a place has detail (the article's threshold)."""

WINDOW = 15
"""Pixels over which the variance is taken, and over which gaps between details are closed."""


@dataclass(frozen=True)
class ContentTiling:
    """Tiles of a picture, and which of them have detail."""

    tiling: Tiling
    detailed: tuple[bool, ...]


def detail_mask(picture: Picture, share: float = DETAIL_SHARE, window: int = WINDOW) -> NDArray[np.bool_]:
    """Where the picture has detail, one flag for each pixel. A plain picture has none."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    mean = cv2.blur(edges, (window, window))
    variance = cv2.blur(edges * edges, (window, window)) - mean * mean
    highest = float(variance.max())
    if highest < 1.0:  # less than one grey level: noise of the compression at most
        return np.zeros(grey.shape, dtype=np.bool_)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (window, window))
    mask = (variance > share * highest).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel) > 0)


def detail_regions(picture: Picture, share: float = DETAIL_SHARE, window: int = WINDOW) -> tuple[Box, ...]:
    """Boxes around the areas with detail; boxes that overlap are one."""
    mask = detail_mask(picture, share, window).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = (cv2.boundingRect(contour) for contour in contours)
    return merged([Box(x, y, x + width, y + height) for x, y, width, height in rectangles])


def content_tiles(
    picture: Picture, largest: int = LARGE_TILE, smallest: int = LARGE_TILE // 4, least_detail: float = 0.1
) -> ContentTiling:
    """Tiles of at most `largest` pixels a side, quartered while more than `least_detail` of them has detail.

    None gets a side under `smallest`. Tiles do not overlap, and together they are the picture.
    """
    height, width = picture.shape[:2]
    mask = detail_mask(picture)
    start = grid(width, height, -(-height // largest), -(-width // largest))
    waiting = [tile.box for tile in start.tiles]
    done: dict[Box, bool] = {}
    while waiting:
        box = waiting.pop()
        share = float(mask[box.top : box.bottom, box.left : box.right].mean())
        if share > least_detail and min(box.width, box.height) >= 2 * smallest:
            waiting += _quarters(box)
        else:
            done[box] = share > least_detail
    tiling = of_regions(width, height, list(done))
    return ContentTiling(tiling, tuple(done[tile.box] for tile in tiling.tiles))


def _quarters(box: Box) -> list[Box]:
    x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2
    return [
        Box(box.left, box.top, x, y),
        Box(x, box.top, box.right, y),
        Box(box.left, y, x, box.bottom),
        Box(x, y, box.right, box.bottom),
    ]
