"""From an attention map to the part of a screen that is worth encoding, and back to screen coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class CropRule:
    """How a map becomes a box."""

    threshold: float = 0.3
    """Cells above this share of the map's maximum are inside."""
    margin: float = 0.05
    """Added on each side, as a share of the screen's side."""
    max_share: float = 0.63
    """The threshold rises until the box holds no more than this share of the cells. 0.63 saves the 37 % that the article on
    compression and scaling reports for its cropping by attention (section 2.2); 1 turns the limit off."""


@dataclass(frozen=True)
class Crop:
    """A box of cells, half open, on a grid of rows x columns."""

    top: int
    left: int
    bottom: int
    right: int
    rows: int
    columns: int

    @property
    def saving(self) -> "TokenSaving":
        """Image tokens of the whole screen and of the box."""
        return TokenSaving(self.rows * self.columns, (self.bottom - self.top) * (self.right - self.left))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom as shares of the screen's width and height."""
        return self.left / self.columns, self.top / self.rows, self.right / self.columns, self.bottom / self.rows

    def cells(self) -> list[int]:
        """Row-major indices of the cells inside."""
        return [r * self.columns + c for r in range(self.top, self.bottom) for c in range(self.left, self.right)]

    def to_screen(self, x: float, y: float) -> tuple[float, float]:
        """A point given as shares of the crop -> shares of the screen."""
        left, top, right, bottom = self.box
        return left + x * (right - left), top + y * (bottom - top)

    def to_crop(self, x: float, y: float) -> tuple[float, float]:
        """A point given as shares of the screen -> shares of the crop; outside 0..1 when it lies outside."""
        left, top, right, bottom = self.box
        return (x - left) / (right - left), (y - top) / (bottom - top)


@dataclass(frozen=True)
class TokenSaving:
    """Image tokens before and after."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """Saved, 0 to 1; negative when more are needed."""
        return 1 - self.after / self.before


def total_saving(savings: Sequence[TokenSaving]) -> TokenSaving:
    """Of several pictures together."""
    return TokenSaving(sum(s.before for s in savings), sum(s.after for s in savings))


def crop_by_attention(attention: Tensor, rule: CropRule) -> Crop:
    """The bounding box of the cells of an attention map [rows, columns] that matter. A flat map keeps what is allowed.

    The map is smoothed 3x3 first: single cells that collect attention from everywhere (sinks) would stretch the box.
    """
    rows, columns = attention.shape
    smooth = functional.avg_pool2d(attention.float()[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    peak = float(smooth.max())
    levels = smooth[smooth > rule.threshold * peak].unique()  # rising
    thresholds = [rule.threshold * peak, *levels.tolist()]
    low, high = 0, len(thresholds) - 1
    while low < high:  # boxes shrink as the threshold rises: the lowest one that fits
        middle = (low + high) // 2
        if _share(_box(smooth, thresholds[middle], rule.margin)) <= rule.max_share:
            high = middle
        else:
            low = middle + 1
    top, left, bottom, right = _box(smooth, thresholds[low], rule.margin)[:4]
    return Crop(top, left, bottom, right, rows, columns)


def _box(smooth: Tensor, threshold: float, margin: float) -> tuple[int, int, int, int, int, int]:
    """Box of the cells above the threshold with its margin; around the strongest cell when none is above."""
    rows, columns = smooth.shape
    inside = (smooth > threshold).nonzero()
    if len(inside) == 0:
        strongest = int(smooth.argmax())
        inside = inside.new_tensor([[strongest // columns, strongest % columns]])
    (first_row, first_column), (last_row, last_column) = inside.amin(0).tolist(), inside.amax(0).tolist()
    high, wide = round(margin * rows), round(margin * columns)
    return (
        max(first_row - high, 0),
        max(first_column - wide, 0),
        min(last_row + 1 + high, rows),
        min(last_column + 1 + wide, columns),
        rows,
        columns,
    )


def _share(box: tuple[int, int, int, int, int, int]) -> float:
    top, left, bottom, right, rows, columns = box
    return (bottom - top) * (right - left) / (rows * columns)
