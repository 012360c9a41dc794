"""Where a picture differs from the one before it: moved and changed regions, by optical flow.

Source: "Three hidden features of Open-AutoGLM's visual recognition", section 2.4 (Farneback's flow, an adaptive threshold on
its length). The threshold is this pair's own noise (median and median deviation of the length), so that a flickering camera
does not report the whole picture. Flow needs texture: on a plain area it stays zero although the area changed its colour,
which is how screens change; so the difference of brightness, with a threshold of the same kind, counts as well.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.boxes import Box
from autoglm_serving.vision.pixels.resize import Picture, shrunk
from autoglm_serving.vision.regions import merged

ChangeReason = Literal["changed", "same", "another_size", "another_scene"]


@dataclass(frozen=True)
class FlowOptions:
    """How change is looked for."""

    short_side: int = 270
    """Flow is computed on pictures this small; regions are in the pixels of the whole picture."""
    deviations: float = 8.0
    """How far above the noise a change has to be."""
    motion: tuple[float, float] = (0.5, 4.0)
    """Bounds of the threshold in pixels of the small picture: less is no motion, more is no noise."""
    difference: tuple[float, float] = (12.0, 80.0)
    """The same in grey levels."""
    least_pixels: int = 6
    """Of the small picture; a smaller spot is noise."""
    scene_share: float = 0.6
    """Where more of the picture than this changed, it is another scene and regions mean nothing."""


@dataclass(frozen=True)
class Change:
    """What changed. Without regions `reason` says why: nothing did, or everything."""

    regions: tuple[Box, ...]
    share: float
    """The changed part of the picture, 0 to 1."""
    motion_threshold: float
    """Pixels of the small picture."""
    reason: ChangeReason


def changed_regions(before: Picture, after: Picture, options: FlowOptions | None = None) -> Change:
    """Compare two pictures of the same source. They are taken as different scenes when their sizes differ."""
    options = options or FlowOptions()
    if before.shape != after.shape:
        return Change((), 1.0, 0.0, "another_size")
    old, new = (cv2.cvtColor(shrunk(each, options.short_side), cv2.COLOR_RGB2GRAY) for each in (before, after))
    flow = cv2.calcOpticalFlowFarneback(old, new, np.zeros((*old.shape, 2), np.float32), 0.5, 3, 15, 3, 5, 1.2, 0)
    motion = np.hypot(flow[..., 0], flow[..., 1])
    difference = np.abs(new.astype(np.float32) - old.astype(np.float32))
    threshold = _threshold(motion, options.motion, options.deviations)
    level = _threshold(difference, options.difference, options.deviations)
    # Flow spreads its windows over what stands still beside the motion: without any difference nothing changed there.
    near = cv2.dilate(difference, np.ones((5, 5), np.uint8))
    mask = ((motion > threshold) & (near > level)) | (difference > level)
    share = float(mask.mean())
    if share > options.scene_share:
        return Change((), share, threshold, "another_scene")
    regions = _boxes(mask.astype(np.uint8), after.shape, options.least_pixels)
    return Change(regions, share, threshold, "changed" if regions else "same")


def _threshold(values: NDArray[np.float32], bounds: tuple[float, float], deviations: float) -> float:
    """Above the noise of these values: the median and the median deviation, which a changed minority does not move.

    A changed majority does; the upper bound keeps it from passing for noise.
    """
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    return min(max(bounds[0], median + deviations * spread), bounds[1])


def _boxes(mask: NDArray[np.uint8], shape: tuple[int, ...], least_pixels: int) -> tuple[Box, ...]:
    """Boxes in the pixels of the whole picture around connected changes, near ones joined."""
    joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined)
    small_height, small_width = mask.shape
    height, width = shape[:2]
    boxes = [
        Box(
            int(x) * width // small_width,
            int(y) * height // small_height,
            -(-int(x + w) * width // small_width),
            -(-int(y + h) * height // small_height),
        )
        for x, y, w, h, pixels in stats[1:count]
        if pixels >= least_pixels
    ]
    return merged(boxes, gap=2 * width // small_width)
