"""How `glm4v` lays patches out, and the ways from there to rows, pixels, tiles and back. No parameters.

A picture of h x w patches is one run of h*w rows. Patches come block by block: all patches of a merge block (m x m, one
image token) lie together, blocks row by row. "Rows" below means plain row-major order, "cells" means merge blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def blocks_to_rows(patches: Tensor, height: int, width: int, merge: int) -> Tensor:
    """[h*w, C] block by block -> [h*w, C] row-major."""
    blocks = patches.reshape(height // merge, width // merge, merge, merge, -1)
    return blocks.transpose(1, 2).reshape(height * width, -1)


def rows_to_blocks(patches: Tensor, height: int, width: int, merge: int) -> Tensor:
    """[h*w, C] row-major -> [h*w, C] block by block."""
    rows = patches.reshape(height // merge, merge, width // merge, merge, -1)
    return rows.transpose(1, 2).reshape(height * width, -1)


def rows_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """[h*w, C] row-major -> [1, C, h, w]."""
    return tokens.reshape(height, width, -1).permute(2, 0, 1).unsqueeze(0)


def map_to_rows(feature_map: Tensor) -> Tensor:
    """[1, C, h, w] -> [h*w, C] row-major."""
    return feature_map.squeeze(0).permute(1, 2, 0).flatten(0, 1)


def patch_coordinates(height: int, width: int, merge: int) -> Tensor:
    """[h*w, 2] row and column of each patch, block by block, as `glm4v` numbers them."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return rows_to_blocks(torch.stack((rows, columns), -1).flatten(0, 1), height, width, merge)


def centres(height: int, width: int) -> Tensor:
    """[h*w, 2] centre (y, x) of each token of a whole picture, row-major, 0 to 1."""
    rows, columns = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack((rows, columns), -1).flatten(0, 1)


@dataclass(frozen=True)
class PatchShape:
    """What one patch row holds: [channels, frames, side, side], flattened."""

    channels: int
    frames: int
    side: int


def resize_patches(
    patches: Tensor, grid: tuple[int, int], target: tuple[int, int], shape: PatchShape, merge: int
) -> Tensor:
    """[h*w, D] -> [H*W, D]: the same picture at another size. Antialiased bilinear, as the image processors resize."""
    pixels = patches_to_pixels(patches, grid, shape, merge)
    size = (target[0] * shape.side, target[1] * shape.side)
    return pixels_to_patches(functional.interpolate(pixels, size=size, mode="bilinear", antialias=True), shape, merge)


def patches_to_pixels(patches: Tensor, grid: tuple[int, int], shape: PatchShape, merge: int) -> Tensor:
    """[h*w, D] -> [frames, channels, H, W]."""
    rows = blocks_to_rows(patches, *grid, merge).reshape(*grid, shape.channels, shape.frames, shape.side, shape.side)
    return rows.permute(3, 2, 0, 4, 1, 5).reshape(
        shape.frames, shape.channels, grid[0] * shape.side, grid[1] * shape.side
    )


def pixels_to_patches(pixels: Tensor, shape: PatchShape, merge: int) -> Tensor:
    """[frames, channels, H, W] -> [h*w, D]. H and W are whole patches."""
    height, width = pixels.shape[2] // shape.side, pixels.shape[3] // shape.side
    cut = pixels.reshape(shape.frames, shape.channels, height, shape.side, width, shape.side)
    return rows_to_blocks(cut.permute(2, 4, 1, 0, 3, 5).flatten(0, 1).flatten(1), height, width, merge)


@dataclass(frozen=True)
class CellTiles:
    """Tiles of one picture, all of the same size so that they stack; where it does not divide evenly, neighbours overlap."""

    cells: Tensor
    """[T, n] index of each tile's cells in the row-major grid of the whole picture."""
    whole: tuple[int, int]
    """Rows and columns of cells of the picture."""
    tile: tuple[int, int]
    """Rows and columns of cells of one tile."""

    @property
    def tiles(self) -> int:
        """How many."""
        return self.cells.shape[0]


def equal_tiles(whole: tuple[int, int], rows: int, columns: int) -> CellTiles:
    """Cut a grid of cells into rows x columns tiles. A grid smaller than that gives tiles that lie on each other."""
    height, width = -(-whole[0] // rows), -(-whole[1] // columns)
    tops, lefts = _starts(whole[0], height, rows), _starts(whole[1], width, columns)
    index = torch.arange(whole[0] * whole[1]).reshape(whole)
    cells = [index[top : top + height, left : left + width].flatten() for top in tops for left in lefts]
    return CellTiles(torch.stack(cells), whole, (height, width))


def _starts(length: int, size: int, count: int) -> list[int]:
    if count == 1:
        return [0]
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def stitch(tiles: Tensor, cells: Tensor, total: int) -> Tensor:
    """[T, n, D] -> [total, D]: cells back in their places; where tiles overlap, their mean."""
    index = cells.flatten().to(tiles.device)
    summed = tiles.new_zeros(total, tiles.shape[-1]).index_add(0, index, tiles.flatten(0, 1))
    count = tiles.new_zeros(total).index_add(0, index, tiles.new_ones(index.shape[0]))
    return summed / count.unsqueeze(-1)
