"""Which part of a picture is worth sending: from changed or looked-at places to one crop, and coordinates back.

Sources: "Three hidden features of Open-AutoGLM's visual recognition", section 2.4 (dynamic regions of interest);
"Open-AutoGLM model compression and acceleration", section 2.2 (attention map, threshold, smallest box: 37 % less work at the
same accuracy).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.vision.boxes import Box, bounding, whole
from autoglm_serving.vision.sizing import image_tokens

MARGIN = 28
"""Pixels kept around a region: one token, because what a button means is often written beside it."""

MAX_SHARE = 0.8
"""A crop that keeps more of the picture than this saves too little for what it hides."""

RELATIVE = 1000
"""Answers name points as 0..999 of the width and of the height."""

CropReason = Literal["region", "nothing_found", "almost_everything"]


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is sent, and why."""

    width: int
    height: int
    box: Box
    reason: CropReason

    @property
    def tokens_saved(self) -> float:
        """The share of image tokens that the crop saves, 0 to 1."""
        before = image_tokens(self.width, self.height)
        return max(0.0, 1 - image_tokens(self.box.width, self.box.height) / before)

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """A relative point (0..999) of the crop as a relative point of the picture."""
        return (
            (self.box.left + x * self.box.width / RELATIVE) * RELATIVE / self.width,
            (self.box.top + y * self.box.height / RELATIVE) * RELATIVE / self.height,
        )

    def to_crop(self, x: float, y: float) -> tuple[float, float]:
        """A relative point of the picture as a relative point of the crop; outside 0..999 when the crop has lost it."""
        return (
            (x * self.width / RELATIVE - self.box.left) * RELATIVE / self.box.width,
            (y * self.height / RELATIVE - self.box.top) * RELATIVE / self.box.height,
        )


def crop(size: tuple[int, int], regions: Sequence[Box], margin: int = MARGIN) -> Crop:
    """One crop around all regions of a picture of (width, height); the whole picture where a crop would not pay."""
    everything = whole(*size)
    inside = [part for region in regions if (part := region.intersection(everything)) is not None]
    if not inside:
        return Crop(*size, everything, "nothing_found")
    kept = bounding(inside).grown(margin).intersection(everything)
    assert kept is not None
    if kept.pixels > MAX_SHARE * everything.pixels:
        return Crop(*size, everything, "almost_everything")
    return Crop(*size, kept, "region")


def attention_box(weights: Sequence[Sequence[float]], threshold: float = 0.5) -> Box | None:
    """The smallest box of cells around all whose weight reaches `threshold` of the way from the least to the greatest.

    None where all weights are equal: then the map points at nothing.
    """
    values = [value for row in weights for value in row]
    low, high = min(values), max(values)
    if high <= low:
        return None
    limit = low + threshold * (high - low)
    cells = [(r, c) for r, row in enumerate(weights) for c, value in enumerate(row) if value >= limit]
    return bounding(Box(column, row, column + 1, row + 1) for row, column in cells)


def cells_to_pixels(cells: Box, grid: tuple[int, int], size: tuple[int, int]) -> Box:
    """A box of cells in a grid of (columns, rows), as pixels of a picture of (width, height): outwards, never smaller."""
    (columns, rows), (width, height) = grid, size
    return Box(
        cells.left * width // columns,
        cells.top * height // rows,
        -(-cells.right * width // columns),
        -(-cells.bottom * height // rows),
    )


def merged(boxes: Sequence[Box], gap: int = 0) -> tuple[Box, ...]:
    """Boxes that overlap, or lie less than `gap` pixels apart, become one; repeated until none do."""
    left = sorted(boxes)
    done: list[Box] = []
    while left:
        current = left.pop(0)
        near = [box for box in left if current.grown(gap).intersection(box) is not None]
        if near:
            # The new box may reach one that was far enough from all the old ones.
            far = [box for box in left if box not in near]
            left, done = sorted([bounding([current, *near]), *far, *done]), []
        else:
            done.append(current)
    return tuple(sorted(done))
