"""Cut a picture into tiles that the model reads one by one.

Sources: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 1 (tiles of 512 above
a long edge of 1024, of 384 above 512, else the whole picture); "Open-AutoGLM multi-resolution adaptation in practice",
section 1 (grids of 2 x 2 and 3 x 3; long pictures are cut along their long edge).

Cuts are spread evenly: no tile is larger than the wanted side, and none is a sliver at the edge. Tiles do not overlap, and
together they are the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.vision.boxes import Box

LARGE_EDGE, LARGE_TILE = 1024, 512
MEDIUM_EDGE, MEDIUM_TILE = 512, 384

NEAR_SQUARE = 1.5
"""Up to this ratio of the sides a picture gets as many rows as columns."""

MAX_TILES = 16
"""Along the long edge of a long picture."""

TilingReason = Literal["whole", "medium_edge", "large_edge", "grid", "near_square", "long", "regions"]


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the order of tiles, in the grid and in the picture."""

    index: int
    row: int
    column: int
    box: Box

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """A point of the tile, in the picture."""
        return self.box.left + x, self.box.top + y


@dataclass(frozen=True)
class Tiling:
    """All tiles of a picture, row by row, and why they are so many."""

    width: int
    height: int
    rows: int
    columns: int
    tiles: tuple[Tile, ...]
    reason: TilingReason

    def at(self, x: float, y: float) -> Tile | None:
        """The tile that holds a point of the picture."""
        return next((tile for tile in self.tiles if tile.box.contains(x, y)), None)


def grid(width: int, height: int, rows: int, columns: int, reason: TilingReason = "grid") -> Tiling:
    """Rows times columns of nearly equal tiles; fewer where the picture has not that many pixels."""
    if min(width, height, rows, columns) < 1:
        raise ValueError("a grid needs at least one pixel, one row and one column")
    rows, columns = min(rows, height), min(columns, width)
    across, down = _cuts(width, columns), _cuts(height, rows)
    tiles = tuple(
        Tile(row * columns + column, row, column, Box(across[column], down[row], across[column + 1], down[row + 1]))
        for row in range(rows)
        for column in range(columns)
    )
    return Tiling(width, height, rows, columns, tiles, reason)


def by_long_edge(width: int, height: int) -> Tiling:
    """Tiles of at most 512 or 384 pixels, or the whole picture, by its long edge."""
    edge = max(width, height)
    if edge > LARGE_EDGE:
        return _of_side(width, height, LARGE_TILE, "large_edge")
    if edge > MEDIUM_EDGE:
        return _of_side(width, height, MEDIUM_TILE, "medium_edge")
    return grid(width, height, 1, 1, "whole")


def by_shape(width: int, height: int) -> Tiling:
    """2 x 2 or 3 x 3 for a picture near a square, one row or column of near squares for a long one.

    The smaller square grid whose tiles keep under 512 pixels is taken; above 1536 pixels that is none, and 3 x 3 stays.
    """
    longest, shortest = max(width, height), min(width, height)
    if longest <= MEDIUM_EDGE:
        return grid(width, height, 1, 1, "whole")
    if longest <= NEAR_SQUARE * shortest:
        count = 2 if longest <= 2 * LARGE_TILE else 3
        return grid(width, height, count, count, "near_square")
    count = min(max(2, round(longest / shortest)), MAX_TILES)
    rows, columns = (count, 1) if height > width else (1, count)
    return grid(width, height, rows, columns, "long")


def of_regions(width: int, height: int, regions: Sequence[Box]) -> Tiling:
    """Tiles given as boxes (content-aware tiles), read from top to bottom, then from left to right."""
    ordered = sorted(regions, key=lambda box: (box.top, box.left))
    tiles = tuple(Tile(index, index, 0, box) for index, box in enumerate(ordered))
    return Tiling(width, height, len(tiles), 1, tiles, "regions")


def _of_side(width: int, height: int, side: int, reason: TilingReason) -> Tiling:
    return grid(width, height, math.ceil(height / side), math.ceil(width / side), reason)


def _cuts(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]
