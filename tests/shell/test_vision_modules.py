"""The torch modules for vision: shapes, where they start, and that each does what its slower description says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor

from autoglm_serving.vision.modules import layout, tower
from autoglm_serving.vision.modules.alignment import Alignment, Bilinear, Deformable, Pointwise
from autoglm_serving.vision.modules.attention import Cbam, ChannelAttention, ReceptiveField, SpatialAttention
from autoglm_serving.vision.modules.crop import CropRule, TokenSaving, crop_by_attention, total_saving
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.modules.fused_tower import FusedTower, Plan
from autoglm_serving.vision.modules.fusion import (
    ChannelConcat,
    Concat,
    CrossTileAttention,
    EntropyWeighted,
    FeaturePyramid,
    Fusion,
    GatedQueries,
    LearnedWeights,
    SqueezeExcitation,
)
from autoglm_serving.vision.modules.positions import (
    DynamicNormalisation,
    coordinate_mask,
    dynamic_normalise,
    interpolate_grid,
    linear_scale,
    pad,
    padding_mask,
    resize_grid,
    scale_positions,
    unpad,
)
from autoglm_serving.vision.modules.sources import Piece, Scales, Tiles, run_of
from support.tiny_glm4v import PATCH, SIDE, pictures, tiny_glm4v

C = 8
GRIDS = [(1, 1), (3, 5), (4, 2)]
FUSIONS: dict[str, Callable[[int], Fusion]] = {
    "concat": lambda _: Concat(),
    "channels": lambda tiles: ChannelConcat(C, tiles),
    "weights": LearnedWeights,
    "se": lambda _: SqueezeExcitation(C),
    "entropy": lambda _: EntropyWeighted(),
    "pyramid": lambda tiles: FeaturePyramid(C, tiles),
    "cross": lambda _: CrossTileAttention(C, 2),
    "queries": lambda _: GatedQueries(C, 3, 2, 2),
}
ALIGNMENTS: dict[str, Callable[[], Alignment]] = {
    "bilinear": Bilinear,
    "pointwise": lambda: Pointwise(C),
    "deformable": lambda: Deformable(C),
}
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "channel": lambda: ChannelAttention(C),
    "spatial": SpatialAttention,
    "cbam": lambda: Cbam(C),
    "receptive": lambda: ReceptiveField(C),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def tiles_of(count: int, grid: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    """Random tiles, and positions as of scales: every tile covers the whole picture."""
    places = layout.centres(*grid).expand(batch, count, -1, -1)
    return torch.randn(batch, count, grid[0] * grid[1], C), places


def disturb(module: nn.Module) -> None:
    """Move every parameter off its start, where some gradients are zero on purpose."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def without_gradient(module: nn.Module, out: Tensor) -> list[str]:
    """Names of the parameters that a random loss on `out` does not reach."""
    torch.autograd.backward((out * torch.randn_like(out)).sum())
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().any()]


# Layout


def test_patches_are_laid_out_as_the_image_processor_lays_them_out() -> None:
    picture = torch.randint(0, 256, (3, 42, 28), dtype=torch.uint8)
    processor = Glm4vImageProcessor(patch_size=7, temporal_patch_size=2, merge_size=2)
    made = processor(picture, return_tensors="pt", do_resize=False, do_normalize=False)
    assert made["image_grid_thw"].tolist() == [[1, 6, 4]]
    shape = layout.PatchShape(3, 2, 7)
    pixels = layout.patches_to_pixels(made["pixel_values"], (6, 4), shape, 2)
    assert torch.allclose(pixels, (picture / 255).expand(2, -1, -1, -1), atol=1e-6)
    assert torch.equal(layout.pixels_to_patches(pixels, shape, 2), made["pixel_values"])


def test_rows_and_blocks_are_each_others_reverse_and_coordinates_follow() -> None:
    rows = torch.arange(24.0).reshape(24, 1)
    blocks = layout.rows_to_blocks(rows, 6, 4, 2)
    assert blocks[:4, 0].tolist() == [0, 1, 4, 5]
    assert torch.equal(layout.blocks_to_rows(blocks, 6, 4, 2), rows)
    coordinates = layout.patch_coordinates(6, 4, 2)
    assert torch.equal(coordinates[:, 0] * 4 + coordinates[:, 1], blocks[:, 0].long())


@pytest.mark.parametrize("whole", [(1, 1), (2, 3), (5, 7), (6, 4)])
@pytest.mark.parametrize("cut", [(1, 1), (2, 2), (3, 3), (4, 1)])
def test_tiles_cover_a_grid_and_stitch_back_to_it(whole: tuple[int, int], cut: tuple[int, int]) -> None:
    total = whole[0] * whole[1]
    tiles = layout.equal_tiles(whole, *cut)
    assert tiles.tiles == cut[0] * cut[1]
    assert set(tiles.cells.flatten().tolist()) == set(range(total))
    grid = torch.randn(total, 3)
    assert torch.allclose(layout.stitch(grid[tiles.cells], tiles.cells, total), grid, atol=1e-6)


def test_a_resized_picture_keeps_a_flat_colour() -> None:
    patches = torch.full((24, PATCH), 0.7)
    resized = layout.resize_patches(patches, (6, 4), (4, 2), layout.PatchShape(3, 2, 7), 2)
    assert resized.shape == (8, PATCH)
    assert torch.allclose(resized, torch.tensor(0.7))


# Fusion


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_gives_the_shape_it_announces(name: str, count: int, grid: tuple[int, int]) -> None:
    fusion = FUSIONS[name](count)
    tiles, places = tiles_of(count, grid)
    tokens = {"tokens": count * grid[0] * grid[1], "tile": grid[0] * grid[1], "queries": 6}[fusion.output]
    assert fusion(tiles, places).shape == (2, tokens, C)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "queries"])
def test_one_tile_comes_out_unchanged(name: str) -> None:
    tiles, places = tiles_of(1, (3, 5))
    assert torch.allclose(FUSIONS[name](1)(tiles, places), tiles[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["channels", "weights", "se", "pyramid"])
def test_equal_weights_give_the_mean(name: str) -> None:
    tiles, places = tiles_of(3, (3, 5))
    assert torch.allclose(FUSIONS[name](3)(tiles, places), tiles.mean(1), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "concat"])
def test_gradients_reach_every_parameter_of_a_fusion(name: str) -> None:
    fusion = FUSIONS[name](3)
    disturb(fusion)
    tiles, places = tiles_of(3, (4, 2))
    tiles.requires_grad_()
    assert without_gradient(fusion, fusion(tiles, places)) == []
    assert tiles.grad is not None
    assert tiles.grad.flatten(2).abs().sum(-1).all(), "some tile has no say"


def test_a_learned_weight_decides_how_much_a_tile_says() -> None:
    fusion = LearnedWeights(2)
    with torch.no_grad():
        fusion.logits.copy_(torch.tensor([0.0, 3.0]).log().clamp(min=-50))
    tiles, places = tiles_of(2, (2, 2))
    assert torch.allclose(fusion(tiles, places), tiles[:, 1], atol=1e-5)


def test_entropy_favours_the_richer_tile_and_no_sharpness_is_the_mean() -> None:
    flat, peaked = torch.zeros(1, 1, 1, C), torch.zeros(1, 1, 1, C)
    peaked[..., 0] = 9.0
    tiles, fusion = torch.cat((flat, peaked), 1), EntropyWeighted()
    places = layout.centres(1, 1).expand(1, 2, -1, -1)
    assert fusion(tiles, places)[..., 0] < 4.5
    with torch.no_grad():
        fusion.sharpness.zero_()
    assert torch.allclose(fusion(tiles, places), tiles.mean(1))


def test_cross_tile_attention_is_what_a_loop_over_tiles_computes() -> None:
    fusion = CrossTileAttention(C, heads=2)
    disturb(fusion)
    tiles, places = tiles_of(3, (2, 2))
    assert torch.allclose(fusion(tiles, places), cross_tile_by_loop(fusion, tiles, places), atol=1e-5)


def cross_tile_by_loop(fusion: CrossTileAttention, tiles: Tensor, places: Tensor) -> Tensor:
    """Tile by tile and head by head, softmax written out."""
    normed = fusion.norm(tiles)
    query, key = fusion.query_key(normed + fusion.code(places)).chunk(2, -1)
    value = fusion.value(normed)
    out = []
    for t in range(tiles.shape[1]):
        others = [o for o in range(tiles.shape[1]) if o != t]
        k, v = key[:, others].flatten(1, 2), value[:, others].flatten(1, 2)
        heads = []
        for part in (slice(0, C // 2), slice(C // 2, C)):
            score = query[:, t, :, part] @ k[..., part].mT / (C // 2) ** 0.5
            heads.append(score.softmax(-1) @ v[..., part])
        out.append(tiles[:, t] + fusion.out(torch.cat(heads, -1)))
    return torch.cat(out, 1)


def test_queries_with_the_gate_shut_are_the_means_of_their_cells() -> None:
    fusion = GatedQueries(C, 3, 2, 2)
    with torch.no_grad():
        fusion.gate.bias.fill_(-100)
    tiles, places = tiles_of(1, (6, 8))
    image = tiles[:, 0].mT.reshape(2, C, 6, 8)
    expected = functional.adaptive_avg_pool2d(image, (3, 2)).flatten(2).mT
    assert torch.allclose(fusion(tiles, places), expected, atol=1e-5)


def test_queries_without_a_token_in_their_cell_take_what_they_attend() -> None:
    fusion = GatedQueries(C, 3, 2, 2)
    with torch.no_grad():
        fusion.gate.bias.fill_(-100)
    out = fusion(*tiles_of(1, (1, 1)))
    assert (out.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", ["channels", "pyramid"])
def test_a_fusion_built_for_another_number_of_tiles_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="built for 3"):
        FUSIONS[name](3)(*tiles_of(2, (2, 2)))


# Alignment


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize(("coarse", "fine"), [((1, 1), (3, 2)), ((2, 3), (4, 6)), ((3, 2), (7, 5))])
def test_an_alignment_starts_as_bilinear_on_the_fine_grid(
    name: str, coarse: tuple[int, int], fine: tuple[int, int]
) -> None:
    small, large = torch.randn(2, C, *coarse), torch.randn(2, C, *fine)
    expected = functional.interpolate(small, size=fine, mode="bilinear", align_corners=False)
    assert torch.allclose(ALIGNMENTS[name]()(small, large), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["pointwise", "deformable"])
def test_gradients_reach_every_parameter_of_an_alignment(name: str) -> None:
    alignment = ALIGNMENTS[name]()
    disturb(alignment)
    out = alignment(torch.randn(2, C, 2, 3), torch.randn(2, C, 4, 6))
    assert without_gradient(alignment, out) == []


def test_deformable_without_offsets_is_a_plain_convolution() -> None:
    alignment = Deformable(C)
    with torch.no_grad():
        alignment.weight.normal_()
        alignment.bias.normal_()
    image = torch.randn(2, C, 5, 4)
    plain = functional.conv2d(image, alignment.weight, alignment.bias, padding=1, groups=C)
    assert torch.allclose(alignment(image, image), plain, atol=1e-5)


def test_an_offset_of_one_pixel_moves_the_map_by_one_pixel() -> None:
    alignment = Deformable(C)
    assert alignment.offsets.bias is not None
    with torch.no_grad():
        alignment.offsets.bias[1:18:2] = 1.0  # x of all nine points
    image = torch.randn(1, C, 5, 6)
    assert torch.allclose(alignment(image, image)[..., :-1], image[..., 1:], atol=1e-5)


# Attention blocks


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 4)])
@pytest.mark.parametrize("name", BLOCKS)
def test_an_attention_block_starts_as_the_identity_at_any_size(name: str, size: tuple[int, int]) -> None:
    image = torch.randn(2, C, *size)
    assert torch.allclose(BLOCKS[name]()(image), image, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_every_parameter_of_an_attention_block(name: str) -> None:
    block = BLOCKS[name]()
    disturb(block)
    assert without_gradient(block, block(torch.randn(2, C, 6, 7))) == []


def test_channel_attention_weighs_channels_and_spatial_attention_places() -> None:
    image = torch.rand(1, C, 4, 5) + 0.5
    channel, spatial = ChannelAttention(C), SpatialAttention()
    disturb(channel)
    disturb(spatial)
    by_channel, by_place = channel(image) / image, spatial(image) / image
    assert torch.allclose(by_channel, by_channel[:, :, :1, :1].expand_as(image), atol=1e-4)
    assert torch.allclose(by_place, by_place[:, :1].expand_as(image), atol=1e-4)


# Positions, masks, normalisation


@pytest.mark.parametrize("grids", [[(2, 2)], [(8, 8)], [(12, 8), (6, 10)], [(30, 14), (2, 4), (8, 8)]])
def test_the_position_grid_is_interpolated_as_transformers_does(grids: list[tuple[int, int]]) -> None:
    embeddings = tiny_glm4v().model.visual.embeddings
    lengths = [rows * columns for rows, columns in grids]
    coordinates = torch.cat([layout.patch_coordinates(*grid, 2) for grid in grids])
    extents = torch.tensor(grids).repeat_interleave(torch.tensor(lengths), 0)
    theirs = embeddings(
        torch.zeros(sum(lengths), 16), lengths, torch.tensor([[1, *grid] for grid in grids]), *coordinates.unbind(1)
    )
    ours = interpolate_grid(embeddings.position_embedding.weight, coordinates, extents)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["bicubic", "bilinear", "nearest", "clamp"])
def test_the_position_grid_at_its_own_size_is_itself(method: str) -> None:
    weight = torch.randn(SIDE * SIDE, C)
    assert torch.allclose(resize_grid(weight, SIDE, SIDE, method), weight, atol=1e-5)  # type: ignore[arg-type]


def test_bilinear_grids_are_what_interpolate_makes_and_clamped_ones_repeat_the_edge() -> None:
    weight = torch.randn(SIDE * SIDE, C)
    image = weight.T.reshape(1, C, SIDE, SIDE)
    expected = functional.interpolate(image, size=(12, 20), mode="bilinear", align_corners=False)
    assert torch.allclose(resize_grid(weight, 12, 20, "bilinear"), layout.map_to_rows(expected), atol=1e-5)
    clamped = resize_grid(weight, 2, SIDE + 3, "clamp").reshape(2, SIDE + 3, C)
    assert torch.equal(clamped[:, :SIDE], weight.reshape(SIDE, SIDE, C)[:2])
    assert torch.equal(clamped[:, SIDE + 2], clamped[:, SIDE - 1])


def test_rotary_positions_shrink_only_for_pictures_larger_than_trained() -> None:
    coordinates = layout.patch_coordinates(32, 16, 2)
    assert linear_scale(8, 24, 24) == 1
    assert torch.equal(scale_positions(coordinates, 16, 16, 24), coordinates.float())
    scaled = scale_positions(coordinates, 32, 16, 24)
    assert scaled.max() < 24
    assert torch.allclose(scaled, coordinates * 0.75)


def test_scaled_rotary_positions_are_applied_to_each_picture_on_its_own() -> None:
    visual = tiny_glm4v().model.visual
    grids = [(16, 4), (4, 4)]
    pieces = [piece for grid in grids for piece in pieces_of(grid)]
    run = run_of(pieces, 2, torch.device("cpu"))
    hidden = torch.zeros(len(run.coordinates), 16)
    scaled = tower.rotary(visual, hidden, run, trained_side=8)[0]
    assert torch.allclose(scaled[:64], visual.rotary_pos_emb(hidden[:64], run.coordinates[:64] * 0.5)[0])
    assert torch.equal(scaled[64:], tower.rotary(visual, hidden, run)[0][64:])


def pieces_of(grid: tuple[int, int]) -> tuple[Piece, ...]:
    patches = torch.zeros(grid[0] * grid[1], PATCH)
    return Tiles().views(patches, grid, 2, layout.PatchShape(3, 2, 7)).pieces


def test_a_mask_by_coordinates_says_the_same_at_every_size() -> None:
    def corner(y: Tensor, x: Tensor) -> Tensor:
        return x + y <= 0.97

    small, large = coordinate_mask(5, 7, corner), coordinate_mask(15, 21, corner)
    assert small.any()
    assert not small.all()
    assert torch.equal(large[1::3, 1::3], small)


def test_padding_comes_off_again() -> None:
    packed, lengths = torch.randn(9, 3), [2, 6, 1]
    padded = pad(packed, lengths)
    assert padded.shape == (3, 6, 3)
    assert torch.equal(unpad(padded, padding_mask(lengths)), packed)


def test_a_padded_batch_gives_the_rows_of_single_runs() -> None:
    visual, grids = tiny_glm4v().model.visual, [(12, 8), (2, 2), (6, 10)]
    padded = FusedTower(Plan(padded=True))
    with torch.no_grad():
        together = padded(visual, *pictures(grids).values())
        rest = pictures(grids)["pixel_values"]
        for out, grid in zip(together, grids, strict=True):
            part, rest = rest[: grid[0] * grid[1]], rest[grid[0] * grid[1] :]
            alone = visual(part, torch.tensor([[1, *grid]])).pooler_output
            assert torch.allclose(out.tokens, alone, atol=1e-5)


def test_dynamic_normalisation_is_batch_norm_without_memory() -> None:
    values = 3 * torch.randn(50, C) + 2
    expected = functional.batch_norm(values, None, None, training=True, eps=1e-6)
    assert torch.allclose(dynamic_normalise(values), expected, atol=1e-5)


def test_a_picture_is_normalised_by_itself_and_not_by_its_neighbours() -> None:
    module = DynamicNormalisation()
    bright, dark = torch.randn(8, PATCH) + 5, torch.randn(12, PATCH) - 1
    together = module(torch.cat((bright, dark)), [8, 12])
    assert torch.allclose(together[8:], module(dark, [12]), atol=1e-6)
    with torch.no_grad():
        module.share.fill_(-100)  # its own statistics alone
    assert torch.allclose(module(bright, [8]).mean(), torch.tensor(0.0), atol=1e-5)
    assert without_gradient(module, module(bright, [8])) == ["share"]  # so far from the middle it cannot move


# The tower with fusions


@pytest.mark.parametrize("grids", [[(2, 2)], [(12, 8), (6, 10)]])
def test_the_tower_in_steps_gives_the_towers_own_output_bit_for_bit(grids: list[tuple[int, int]]) -> None:
    visual, inputs = tiny_glm4v().model.visual, pictures(grids)
    with torch.no_grad():
        theirs = visual(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        ours = FusedTower(Plan())(visual, *inputs.values())
    assert torch.equal(torch.cat([picture.tokens for picture in ours]), theirs)
    assert [picture.grid for picture in ours] == [(rows // 2, columns // 2) for rows, columns in grids]


def test_tiles_put_together_before_the_first_block_are_the_whole_picture() -> None:
    visual, inputs = tiny_glm4v().model.visual, pictures([(12, 8), (6, 10)])
    with torch.no_grad():
        whole = FusedTower(Plan())(visual, *inputs.values())
        early = FusedTower(Plan(Tiles(3, 2), "early"))(visual, *inputs.values())
    for a, b in zip(whole, early, strict=True):
        assert torch.allclose(a.tokens, b.tokens, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "cross", "alone"), [("late", False, True), ("late", True, False), ("middle", False, False)]
)
def test_a_tile_sees_the_others_only_through_the_fusion(place: str, cross: bool, alone: bool) -> None:
    visual, inputs = tiny_glm4v().model.visual, pictures([(8, 8)])
    fusion = CrossTileAttention(32 if place == "late" else 16, 2) if cross else Concat()
    disturb(fusion)
    module = FusedTower(Plan(Tiles(2, 2), place, middle_block=1), fusion)  # type: ignore[arg-type]
    changed = inputs["pixel_values"].clone()
    changed[:4] += 1  # the first image token: in the top left tile
    with torch.no_grad():
        before = module(visual, *inputs.values())[0].tokens.reshape(4, 4, 32)
        after = module(visual, changed, inputs["image_grid_thw"])[0].tokens.reshape(4, 4, 32)
    assert not torch.equal(before[:2, :2], after[:2, :2])
    assert torch.equal(before[2:, 2:], after[2:, 2:]) == alone


def test_a_half_size_pass_sees_what_the_small_picture_shows() -> None:
    visual, inputs = tiny_glm4v().model.visual, pictures([(8, 12)])
    fusion = LearnedWeights(2)
    with torch.no_grad():
        fusion.logits.copy_(torch.tensor([-50.0, 50.0]))  # the small picture alone
        fused = FusedTower(Plan(Scales((0.5,))), fusion)(visual, *inputs.values())[0]
        small = layout.resize_patches(inputs["pixel_values"], (8, 12), (4, 6), layout.PatchShape(3, 2, 7), 2)
        alone = visual(small, torch.tensor([[1, 4, 6]])).pooler_output
    image = functional.interpolate(layout.rows_to_map(alone, 2, 3), size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.allclose(fused.tokens, layout.map_to_rows(image), atol=1e-5)


def test_films_and_early_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="still pictures"):
        FusedTower(Plan())(tiny_glm4v().model.visual, torch.zeros(8, PATCH), torch.tensor([[2, 2, 2]]))
    with pytest.raises(ValueError, match="late"):
        FusedTower(Plan(place="early"), GatedQueries(16, 2, 2))


# Crops and counts


def test_a_crop_holds_the_bright_part_and_its_margin_and_not_a_lonely_sink() -> None:
    attention = torch.full((20, 10), 0.01)
    attention[12:17, 4:8] = 1.0
    attention[0, 0] = 1.2
    crop = crop_by_attention(attention, CropRule(threshold=0.5, margin=1))
    assert (crop.box.top, crop.box.bottom, crop.box.left, crop.box.right) == (11, 18, 3, 9)
    assert crop.saving == TokenSaving(200, 42)
    assert crop.cells()[:2] == [113, 114]


@pytest.mark.parametrize("limit", [0.1, 0.38, 0.63])
def test_the_threshold_rises_until_the_crop_is_small_enough(limit: float) -> None:
    slope = torch.linspace(0.5, 1, 30).unsqueeze(1) * torch.linspace(0.5, 1, 20)
    loose = crop_by_attention(slope, CropRule(threshold=0.0, max_share=1.0))
    tight = crop_by_attention(slope, CropRule(threshold=0.0, max_share=limit))
    assert loose.saving.share == 0
    assert 1 - limit <= tight.saving.share < 1
    assert tight.box.contains(19, 29), "the brightest corner is kept"


def test_a_map_that_points_nowhere_keeps_the_whole_picture() -> None:
    assert crop_by_attention(torch.ones(4, 6), CropRule()).saving.share == 0


def test_savings_add_up() -> None:
    assert total_saving([TokenSaving(100, 40), TokenSaving(50, 50)]) == TokenSaving(150, 90)
    assert TokenSaving(150, 90).share == pytest.approx(0.4)


def test_a_deformable_convolution_counts_as_a_plain_one() -> None:
    alignment, image = Deformable(C), torch.randn(1, C, 5, 4)
    offsets = count_flops(lambda: alignment.offsets(torch.cat((image, image), 1)))
    plain = count_flops(lambda: functional.conv2d(image, alignment.weight, padding=1, groups=C))
    assert count_flops(lambda: alignment(image, image)) == offsets + plain
    assert plain == 2 * C * 20 * 9
