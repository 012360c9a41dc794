"""From an attention map to the image tokens that are worth keeping."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from autoglm_serving.vision.boxes import Box, whole
from autoglm_serving.vision.regions import attention_box

STEPS = 8
"""Halvings in the search for a threshold: 1/256 of the map's range."""


@dataclass(frozen=True)
class CropRule:
    """How a map becomes a box."""

    threshold: float = 0.3
    """Of the way from the map's least to its greatest value; cells from there on are inside."""
    margin: int = 1
    """Cells added on each side."""
    max_share: float = 0.63
    """The threshold rises until the box, with its margin, holds no more than this share of the cells. 0.63 saves the 37 % that
    the article "compression" reports for its crops (section 2.2); 1 turns the limit off."""


@dataclass(frozen=True)
class TokenSaving:
    """Image tokens before and after."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """Saved, up to 1; negative when more are needed."""
        return 1 - self.after / self.before


@dataclass(frozen=True)
class CellCrop:
    """A box of cells (image tokens) on a picture's grid."""

    box: Box
    rows: int
    columns: int

    @property
    def saving(self) -> TokenSaving:
        """Image tokens of the whole picture and of the box."""
        return TokenSaving(self.rows * self.columns, self.box.pixels)

    def cells(self) -> list[int]:
        """Row-major indices of the cells inside."""
        across = range(self.box.left, self.box.right)
        return [row * self.columns + column for row in range(self.box.top, self.box.bottom) for column in across]


def total_saving(savings: Sequence[TokenSaving]) -> TokenSaving:
    """Of several pictures together."""
    return TokenSaving(sum(s.before for s in savings), sum(s.after for s in savings))


def crop_by_attention(attention: Tensor, rule: CropRule) -> CellCrop:
    """The smallest box around the cells of an attention map [rows, columns] that matter.

    The whole picture where the map is flat. The map is smoothed 3x3 first: single cells that collect attention from everywhere
    (sinks) would stretch the box. Even the highest threshold keeps the strongest cells and their margin.
    """
    rows, columns = attention.shape
    smooth = functional.avg_pool2d(attention.float()[None, None], 3, 1, 1, count_include_pad=False)[0, 0].tolist()
    low, high = rule.threshold, 1.0
    best = _box(smooth, low, rule.margin)
    if best.pixels <= rule.max_share * rows * columns:
        return CellCrop(best, rows, columns)
    best = _box(smooth, high, rule.margin)
    for _ in range(STEPS):  # boxes shrink as the threshold rises: the lowest one that fits
        middle = (low + high) / 2
        box = _box(smooth, middle, rule.margin)
        if box.pixels <= rule.max_share * rows * columns:
            best, high = box, middle
        else:
            low = middle
    return CellCrop(best, rows, columns)


def _box(weights: Sequence[Sequence[float]], threshold: float, margin: int) -> Box:
    everything = whole(len(weights[0]), len(weights))
    found = attention_box(weights, threshold)
    inside = None if found is None else found.grown(margin).intersection(everything)
    return inside or everything
