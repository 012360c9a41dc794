"""Where to look: from a batch to a crop of each picture and the image tokens inside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from autoglm_serving.vision.modules import tower
from autoglm_serving.vision.modules.attention.maps import question_attention, received_attention
from autoglm_serving.vision.modules.crop import CellCrop, CropRule, crop_by_attention
from autoglm_serving.vision.modules.fused_tower import FusedTower, Plan, still_grids
from autoglm_serving.vision.modules.layout import resize_patches
from autoglm_serving.vision.modules.pictures import Model, with_pictures
from autoglm_serving.vision.modules.rewriting import Inputs, image_runs
from autoglm_serving.vision.modules.sources import Grid, Piece, run_of, scaled_grid
from autoglm_serving.vision.regions import cells_to_pixels


@dataclass(frozen=True)
class Glance:
    """One crop for each picture."""

    crops: tuple[CellCrop, ...]
    tokens: tuple[Tensor, ...]
    """[cells, C] image tokens inside, row-major."""
    looked: tuple[int, ...]
    """Image tokens that the language model read to find the crop."""


class Look(Protocol):
    """A way to find the crops."""

    def __call__(self, model: Model, inputs: Inputs, rule: CropRule) -> Glance:
        """inputs: a whole batch with masks and pixels."""


def look_by_tower(model: Model, inputs: Inputs, rule: CropRule) -> Glance:
    """The vision tower's own attention in its last block: what stands out, whatever the task. The tower sees everything."""
    visual = model.model.visual
    pieces = _whole_pieces(inputs)
    run = run_of(pieces, visual.spatial_merge_size, inputs["pixel_values"].device)
    hidden = tower.embed(visual, inputs["pixel_values"], run)
    angles = tower.rotary(visual, hidden, run)
    hidden = tower.blocks(visual, hidden, run, angles, slice(-1))
    maps = received_attention(visual, hidden, run, angles)
    merged = tower.merge(visual, tower.blocks(visual, hidden, run, angles, slice(-1, None)))
    crops = [
        crop_by_attention(found.reshape(_cells(piece.grid, visual)), rule)
        for found, piece in zip(maps, pieces, strict=True)
    ]
    parts = merged.split([len(found) for found in maps])
    tokens = [part[torch.tensor(crop.cells(), device=part.device)] for part, crop in zip(parts, crops, strict=True)]
    return Glance(tuple(crops), tuple(tokens), (0,) * len(crops))


@dataclass(frozen=True)
class LookByQuestion:
    """The question's attention on a small version of the picture; only the crop is then encoded at full size."""

    share: float = 0.5
    """Of the picture's sides, for the first look: a half costs a quarter of the tokens."""

    def __call__(self, model: Model, inputs: Inputs, rule: CropRule) -> Glance:
        visual = model.model.visual
        pieces = _whole_pieces(inputs)
        coarse = self._coarse(model, inputs, pieces)
        runs = [image_runs(row, model.config.image_token_id) for row in coarse["input_ids"]]
        grids = [_cells((height, width), visual) for height, width in still_grids(coarse["image_grid_thw"])]
        maps = question_attention(model, coarse, runs)
        crops = [
            _enlarged(crop_by_attention(found.reshape(grid), rule), _cells(piece.grid, visual))
            for found, grid, piece in zip(maps, grids, pieces, strict=True)
        ]
        return Glance(tuple(crops), _encode(visual, pieces, crops), tuple(len(found) for found in maps))

    @torch.no_grad()
    def _coarse(self, model: Model, inputs: Inputs, pieces: Sequence[Piece]) -> Inputs:
        """The batch with small pictures, encoded."""
        visual = model.model.visual
        side, shape = visual.spatial_merge_size, tower.patch_shape(visual)
        sizes = [scaled_grid(piece.grid, self.share, side) for piece in pieces]
        small = [resize_patches(p.patches, p.grid, size, shape, side) for p, size in zip(pieces, sizes, strict=True)]
        grid_thw = inputs["image_grid_thw"].new_tensor([[1, *size] for size in sizes])
        return with_pictures(model, inputs, FusedTower(Plan())(visual, torch.cat(small), grid_thw))


def _encode(visual: Any, pieces: Sequence[Piece], crops: Sequence[CellCrop]) -> tuple[Tensor, ...]:
    """Image tokens of the crops alone, at their positions in the whole pictures."""
    side = visual.spatial_merge_size
    parts = [_cut(piece, crop, side) for piece, crop in zip(pieces, crops, strict=True)]
    patches = torch.cat([part.patches for part in parts])
    run = run_of(parts, side, patches.device)
    hidden = tower.embed(visual, patches, run)
    merged = tower.merge(visual, tower.blocks(visual, hidden, run, tower.rotary(visual, hidden, run)))
    return merged.split([crop.saving.after for crop in crops])


def _cut(piece: Piece, crop: CellCrop, side: int) -> Piece:
    cells = piece.patches.unflatten(0, (-1, side * side))
    inside = cells[torch.tensor(crop.cells(), device=cells.device)].flatten(0, 1)
    size = (crop.box.height * side, crop.box.width * side)
    return replace(piece, patches=inside, grid=size, origin=(crop.box.top * side, crop.box.left * side))


def _enlarged(crop: CellCrop, grid: Grid) -> CellCrop:
    """The same box on a finer grid, rounded outwards."""
    rows, columns = grid
    return CellCrop(cells_to_pixels(crop.box, (crop.columns, crop.rows), (columns, rows)), rows, columns)


def _whole_pieces(inputs: Inputs) -> list[Piece]:
    grids = still_grids(inputs["image_grid_thw"])
    parts = inputs["pixel_values"].split([height * width for height, width in grids])
    return [Piece(part, grid, (0, 0), grid) for part, grid in zip(parts, grids, strict=True)]


def _cells(grid: Grid, visual: Any) -> Grid:
    return grid[0] // visual.spatial_merge_size, grid[1] // visual.spatial_merge_size
