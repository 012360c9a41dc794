"""What the tower sees of a picture: the whole, tiles of it, or the whole at several sizes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoglm_serving.vision.modules.layout import (
    CellTiles,
    PatchShape,
    centres,
    equal_tiles,
    patch_coordinates,
    resize_patches,
)
from autoglm_serving.vision.modules.tower import Run
from autoglm_serving.vision.tiling import by_long_edge

Grid = tuple[int, int]
"""Rows and columns."""


@dataclass(frozen=True)
class Piece:
    """One thing that the tower encodes on its own."""

    patches: Tensor
    """[h*w, D], block by block."""
    grid: Grid
    """h and w, in patches."""
    origin: Grid
    """Its top left patch in the whole picture."""
    whole: Grid
    """Rows and columns, in patches, of the picture at this piece's size."""

    def places(self, merge: int) -> Tensor:
        """[h*w / merge^2, 2] centres in the whole picture, 0 to 1, row-major."""
        extent = torch.tensor(self.whole)
        grid = torch.tensor(self.grid)
        return (torch.tensor(self.origin) + centres(self.grid[0] // merge, self.grid[1] // merge) * grid) / extent


@dataclass(frozen=True)
class Views:
    """All pieces of one picture, and how they lie in it."""

    pieces: tuple[Piece, ...]
    tiles: CellTiles
    """Of the first piece's size; scales lie on each other."""
    scales: bool
    """True when the pieces are the whole picture at several sizes, the finest first."""


class Source(ABC):
    """Cuts or scales one picture."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Pieces that a picture becomes."""

    @abstractmethod
    def views(self, patches: Tensor, grid: Grid, merge: int, shape: PatchShape) -> Views:
        """patches [h*w, D] of one picture with `grid` = (h, w)."""


@dataclass(frozen=True)
class Tiles(Source):
    """rows x columns tiles of equal size (the article "adaptation": 2x2, 3x3 or along the long side); 1 x 1 is the whole."""

    rows: int = 1
    columns: int = 1

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def views(self, patches: Tensor, grid: Grid, merge: int, shape: PatchShape) -> Views:  # noqa: ARG002
        return _tiled(patches, grid, merge, self.rows, self.columns)


@dataclass(frozen=True)
class TilesByEdge(Source):
    """As many tiles as the picture's long edge asks for: of 512 pixels above 1024, of 384 above 512, else the whole."""

    @property
    def count(self) -> int:
        """Differs from picture to picture: nothing that needs one weight for each tile goes with it."""
        return 1

    def views(self, patches: Tensor, grid: Grid, merge: int, shape: PatchShape) -> Views:
        cut = by_long_edge(grid[1] * shape.side, grid[0] * shape.side)
        return _tiled(patches, grid, merge, cut.rows, cut.columns)


def _tiled(patches: Tensor, grid: Grid, merge: int, rows: int, columns: int) -> Views:
    cut = equal_tiles((grid[0] // merge, grid[1] // merge), rows, columns)
    cells = patches.unflatten(0, (-1, merge * merge))  # [cells, m*m, D]
    size = (cut.tile[0] * merge, cut.tile[1] * merge)
    pieces = []
    for index in cut.cells:
        first = int(index[0])
        origin = (first // cut.whole[1] * merge, first % cut.whole[1] * merge)
        pieces.append(Piece(cells[index.to(patches.device)].flatten(0, 1), size, origin, grid))
    return Views(tuple(pieces), cut, scales=False)


@dataclass(frozen=True)
class Scales(Source):
    """The whole picture at its own size and at these shares of it."""

    shares: tuple[float, ...] = (0.5,)

    @property
    def count(self) -> int:
        return 1 + len(self.shares)

    def views(self, patches: Tensor, grid: Grid, merge: int, shape: PatchShape) -> Views:
        pieces = [Piece(patches, grid, (0, 0), grid)]
        for share in self.shares:
            size = scaled_grid(grid, share, merge)
            pieces.append(Piece(resize_patches(patches, grid, size, shape, merge), size, (0, 0), size))
        one = equal_tiles((grid[0] // merge, grid[1] // merge), 1, 1)
        return Views(tuple(pieces), CellTiles(one.cells.repeat(len(pieces), 1), one.whole, one.tile), scales=True)


def scaled_grid(grid: Grid, share: float, merge: int) -> Grid:
    """The grid at a share of its size, in whole merge blocks, at least one."""
    rows, columns = (max(1, round(side * share / merge)) * merge for side in grid)
    return rows, columns


def run_of(pieces: Sequence[Piece], merge: int, device: torch.device) -> Run:
    """What the tower needs to know of these pieces."""
    coordinates = [patch_coordinates(*piece.grid, merge) + torch.tensor(piece.origin) for piece in pieces]
    lengths = tuple(piece.grid[0] * piece.grid[1] for piece in pieces)
    extents = torch.tensor([piece.whole for piece in pieces])
    return Run(lengths, torch.cat(coordinates).to(device), extents.to(device))
