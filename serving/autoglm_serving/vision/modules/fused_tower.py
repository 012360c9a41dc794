"""A `glm4v` vision tower with a fusion early, in the middle or late. The tower's weights are used as they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from autoglm_serving.vision.modules import tower
from autoglm_serving.vision.modules.alignment import Alignment, Bilinear
from autoglm_serving.vision.modules.fusion import Concat, Fusion, GatedQueries
from autoglm_serving.vision.modules.layout import (
    blocks_to_rows,
    map_to_rows,
    rows_to_blocks,
    rows_to_map,
    stitch,
)
from autoglm_serving.vision.modules.positions import DynamicNormalisation
from autoglm_serving.vision.modules.sources import Grid, Piece, Source, Tiles, Views, run_of
from autoglm_serving.vision.modules.tower import Positions, Visual

Place = Literal["early", "middle", "late"]
"""After the patch embedding, between two blocks, or after the merger."""


@dataclass(frozen=True)
class Plan:
    """What the tower does, apart from learned parts."""

    source: Source = field(default_factory=Tiles)
    place: Place = "late"
    middle_block: int = 2
    """A fusion in the middle happens before this block."""
    positions: Positions = field(default_factory=Positions)
    padded: bool = False
    """One masked attention call for all pieces instead of one call for each."""


@dataclass(frozen=True)
class Encoded:
    """One picture as the language model gets it."""

    tokens: Tensor
    """[rows*columns, C], row-major."""
    grid: Grid
    """rows and columns."""


@dataclass(frozen=True)
class Begun:
    """All pieces of all pictures where their fusion begins."""

    hidden: Tensor
    """[P, C], or one row for each image token when the fusion is late."""
    pictures: tuple[Views, ...]

    def without_pixels(self) -> "Begun":
        """The same without the pieces' own patches, which nothing needs any more: for keeping many."""
        pictures = [
            replace(views, pieces=tuple(replace(piece, patches=piece.patches[:0].clone()) for piece in views.pieces))
            for views in self.pictures
        ]
        return replace(self, pictures=tuple(pictures))


class FusedTower(nn.Module):
    """Pixels to image tokens with the given parts; with none of them, exactly the tower's own output.

    The article "hidden", section 3.2, compares early (76.3 %), late (78.1 %) and middle fusion (82.7 %) of modalities; here
    the three places are inside the vision tower.
    """

    def __init__(
        self,
        plan: Plan,
        fusion: Fusion | None = None,
        alignment: Alignment | None = None,
        refine: nn.Module | None = None,
        normalise: DynamicNormalisation | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.fusion = fusion or Concat()
        self.alignment = alignment or Bilinear()
        self.refine = refine
        self.normalise = normalise
        if self.fusion.output == "queries" and plan.place != "late":
            raise ValueError("queries have no patches to go on with: they fuse late")

    def forward(self, visual: Visual, patches: Tensor, grid_thw: Tensor) -> list[Encoded]:
        """patches [P, D] and grid_thw [pictures, 3] as the image processor gives them."""
        return self.finish(visual, self.begin(visual, patches, grid_thw))

    def begin(self, visual: Visual, patches: Tensor, grid_thw: Tensor) -> Begun:
        """Up to the fusion. Without `normalise` no new weight is in it: it may be computed once and kept."""
        side = visual.spatial_merge_size
        grids = still_grids(grid_thw)
        lengths = [height * width for height, width in grids]
        if self.normalise is not None:
            patches = self.normalise(patches, lengths)
        shape = tower.patch_shape(visual)
        pictures = [
            self.plan.source.views(part, grid, side, shape)
            for part, grid in zip(patches.split(lengths), grids, strict=True)
        ]
        return Begun(
            self._first_half(visual, [piece for picture in pictures for piece in picture.pieces]), tuple(pictures)
        )

    def finish(self, visual: Visual, begun: Begun) -> list[Encoded]:
        """The fusion and what follows it."""
        side = visual.spatial_merge_size
        unit = 1 if self.plan.place == "late" else side
        fused = self._fuse_all(begun.hidden, begun.pictures, side, unit)
        if self.plan.place == "late":
            return fused
        return self._second_half(visual, fused)

    def grids(self, grid_thw: Tensor, merge: int) -> list[Grid]:
        """Rows and columns of image tokens of each picture, without running anything."""
        if isinstance(self.fusion, GatedQueries):
            return [(self.fusion.rows, self.fusion.columns)] * len(grid_thw)
        whole = [(height // merge, width // merge) for height, width in still_grids(grid_thw)]
        source = self.plan.source
        if self.fusion.output == "tile" and isinstance(source, Tiles):
            return [(-(-rows // source.rows), -(-columns // source.columns)) for rows, columns in whole]
        return whole

    def _first_half(self, visual: Visual, pieces: Sequence[Piece]) -> Tensor:
        """All pieces up to the fusion: [P, C], or one row for each image token when it is late."""
        place, positions = self.plan.place, self.plan.positions
        patches = torch.cat([piece.patches for piece in pieces])
        run = run_of(pieces, visual.spatial_merge_size, patches.device)
        hidden = tower.embed(visual, patches, run, positions.grid)
        if place == "early":
            return hidden
        part = slice(self.plan.middle_block) if place == "middle" else slice(None)
        hidden = self._blocks(visual, hidden, run, part)
        return hidden if place == "middle" else tower.merge(visual, hidden)

    def _second_half(self, visual: Visual, fused: Sequence[Encoded]) -> list[Encoded]:
        """From fused patches, row-major, to image tokens."""
        side = visual.spatial_merge_size
        pieces = [Piece(rows_to_blocks(e.tokens, *e.grid, side), e.grid, (0, 0), e.grid) for e in fused]
        hidden = torch.cat([piece.patches for piece in pieces])
        run = run_of(pieces, side, hidden.device)
        start = self.plan.middle_block if self.plan.place == "middle" else 0
        merged = tower.merge(visual, self._blocks(visual, hidden, run, slice(start, None)))
        grids = [(e.grid[0] // side, e.grid[1] // side) for e in fused]
        tokens = merged.split([rows * columns for rows, columns in grids])
        return [Encoded(part, grid) for part, grid in zip(tokens, grids, strict=True)]

    def _blocks(self, visual: Visual, hidden: Tensor, run: tower.Run, part: slice) -> Tensor:
        angles = tower.rotary(visual, hidden, run, self.plan.positions.trained_side)
        step = tower.blocks_padded if self.plan.padded else tower.blocks
        return step(visual, hidden, run, angles, part)

    def _fuse_all(self, hidden: Tensor, pictures: Sequence[Views], side: int, unit: int) -> list[Encoded]:
        step = side // unit  # patches of one token's side
        lengths = [p.grid[0] * p.grid[1] // step**2 for picture in pictures for p in picture.pieces]
        parts = iter(hidden.split(lengths))
        return [self._fuse(picture, [next(parts) for _ in picture.pieces], step, unit) for picture in pictures]

    def _fuse(self, picture: Views, features: Sequence[Tensor], step: int, unit: int) -> Encoded:
        """Features of one picture's pieces, block by block in blocks of unit x unit -> row-major tokens of its grid."""
        grids = [(piece.grid[0] // step, piece.grid[1] // step) for piece in picture.pieces]
        rows = [blocks_to_rows(f, *grid, unit) for f, grid in zip(features, grids, strict=True)]
        places = [piece.places(step) for piece in picture.pieces]
        if picture.scales:
            rows = [rows[0], *(self._align(r, g, rows[0], grids[0]) for r, g in zip(rows[1:], grids[1:], strict=True))]
            places = places[:1] * len(rows)
        tiles = torch.stack(rows).unsqueeze(0)  # [1, T, N, C]
        fused = self.fusion(tiles, torch.stack(places).unsqueeze(0).to(tiles))[0]
        tokens, grid = self._lay_out(fused, picture, grids[0], unit)
        if self.refine is not None:
            tokens = map_to_rows(self.refine(rows_to_map(tokens, *grid)))
        return Encoded(tokens, grid)

    def _align(self, coarse: Tensor, grid: Grid, fine: Tensor, fine_grid: Grid) -> Tensor:
        return map_to_rows(self.alignment(rows_to_map(coarse, *grid), rows_to_map(fine, *fine_grid)))

    def _lay_out(self, fused: Tensor, picture: Views, tile: Grid, unit: int) -> tuple[Tensor, Grid]:
        """What the fusion gave as rows of one grid: tiles go back to their places."""
        if isinstance(self.fusion, GatedQueries):
            return fused, (self.fusion.rows, self.fusion.columns)
        if self.fusion.output == "tile":
            return fused, tile
        cut = picture.tiles
        channels = fused.shape[-1]
        blocks = torch.cat([rows_to_blocks(t, *tile, unit) for t in fused.unflatten(0, (cut.tiles, -1))])
        cells = blocks.reshape(cut.tiles, -1, unit * unit * channels)
        whole = stitch(cells, cut.cells, cut.whole[0] * cut.whole[1]).reshape(-1, channels)
        grid = (cut.whole[0] * unit, cut.whole[1] * unit)
        return blocks_to_rows(whole, *grid, unit), grid


def still_grids(grid_thw: Tensor) -> list[Grid]:
    """(h, w) in patches of each picture. ValueError for films: fusion is for still pictures."""
    if bool((grid_thw[:, 0] != 1).any()):
        raise ValueError("only still pictures: the grids' first number must be 1")
    return [(height, width) for _, height, width in grid_thw.tolist()]
