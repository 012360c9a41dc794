"""Padding, tiles and crops lose no place: every point comes back, every pixel is in a tile."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoglm_serving.vision.boxes import Box, bounding, whole
from autoglm_serving.vision.padding import fit
from autoglm_serving.vision.regions import Crop, attention_box, cells_to_pixels, crop, merged
from autoglm_serving.vision.tiling import Tiling, by_long_edge, by_shape, grid, of_regions

SIDES = st.integers(1, 6000)
SHARES = st.floats(0, 1)
draws_boxes = settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws them slowly


@st.composite
def boxes(draw: st.DrawFn, side: int = 1000) -> Box:
    left, top = draw(st.integers(0, side - 2)), draw(st.integers(0, side - 2))
    return Box(left, top, draw(st.integers(left + 1, side)), draw(st.integers(top + 1, side)))


@given(SIDES, SIDES, SIDES, SIDES, SHARES, SHARES, st.sampled_from(["corner", "centre"]))
def test_every_point_of_a_padded_picture_comes_back(
    width: int, height: int, frame_width: int, frame_height: int, x: float, y: float, placement: str
) -> None:
    padding = fit((width, height), (frame_width, frame_height), placement)  # type: ignore[arg-type]
    point = (x * width, y * height)
    framed = padding.to_frame(*point)
    assert 0 <= framed[0] <= frame_width
    assert 0 <= framed[1] <= frame_height
    assert padding.to_source(*framed) == pytest.approx(point, abs=1e-6)


@given(SIDES, SIDES, SIDES, SIDES, SHARES, SHARES)
def test_a_whole_pixel_of_the_frame_comes_back_within_one_pixel(
    width: int, height: int, frame_width: int, frame_height: int, x: float, y: float
) -> None:
    padding = fit((width, height), (frame_width, frame_height))
    pixel = int(x * (padding.content.width - 1)), int(y * (padding.content.height - 1))
    source = padding.to_source(*pixel)
    back = padding.to_frame(*source)
    assert max(abs(back[0] - pixel[0]), abs(back[1] - pixel[1])) <= 1


@given(st.integers(100, 4000), st.integers(100, 4000), st.integers(100, 4000), st.integers(100, 4000))
def test_the_picture_keeps_its_shape_and_fills_one_side_of_its_frame(
    width: int, height: int, frame_width: int, frame_height: int
) -> None:
    assume(max(width / height, height / width) < 10)
    padding = fit((width, height), (frame_width, frame_height), "centre")
    assert padding.content.width == frame_width or padding.content.height == frame_height
    assert whole(frame_width, frame_height).covers(padding.content)
    # Each side is a whole number of pixels: half a pixel either way, on a short side of at least 10.
    off = 0.5 / min(padding.content.width, padding.content.height)
    assert padding.scale_x / padding.scale_y == pytest.approx(1, abs=2.5 * off)


def test_a_point_on_the_padding_goes_to_the_nearest_edge() -> None:
    padding = fit((100, 200), (100, 100))
    assert padding.content == Box(0, 0, 50, 100)
    assert padding.padded_share == 0.5
    assert padding.to_source(99, 50) == (100, 100)


def test_a_frame_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        fit((10, 10), (0, 10))


def covered_once(tiling: Tiling) -> bool:
    """Tiles are apart from each other and have as many pixels as the picture: so they are the picture."""
    listed = [tile.box for tile in tiling.tiles]
    apart = all(a.intersection(b) is None for i, a in enumerate(listed) for b in listed[:i])
    inside = all(whole(tiling.width, tiling.height).covers(box) for box in listed)
    return apart and inside and sum(box.pixels for box in listed) == tiling.width * tiling.height


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_tiles_by_the_long_edge_are_the_picture(width: int, height: int) -> None:
    tiling = by_long_edge(width, height)
    assert covered_once(tiling)
    largest = 512 if max(width, height) > 1024 else 384 if max(width, height) > 512 else 512
    assert all(max(tile.box.width, tile.box.height) <= largest for tile in tiling.tiles)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_tiles_by_shape_are_the_picture(width: int, height: int) -> None:
    tiling = by_shape(width, height)
    assert covered_once(tiling)
    assert len(tiling.tiles) <= 16


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 9), st.integers(1, 9))
def test_a_grid_keeps_the_places_of_its_tiles(width: int, height: int, rows: int, columns: int) -> None:
    tiling = grid(width, height, rows, columns)
    assert covered_once(tiling)
    for tile in tiling.tiles:
        assert tile.index == tile.row * tiling.columns + tile.column
        assert tiling.at(*tile.to_source(0, 0)) is tile


@pytest.mark.parametrize(
    ("size", "shape", "reason"),
    [
        ((512, 300), (1, 1), "whole"),
        ((513, 300), (1, 2), "medium_edge"),
        ((1024, 1024), (3, 3), "medium_edge"),
        ((1025, 512), (1, 3), "large_edge"),
        ((1080, 2400), (5, 3), "large_edge"),
    ],
)
def test_the_articles_thresholds(size: tuple[int, int], shape: tuple[int, int], reason: str) -> None:
    tiling = by_long_edge(*size)
    assert ((tiling.rows, tiling.columns), tiling.reason) == (shape, reason)


@pytest.mark.parametrize(
    ("size", "shape", "reason"),
    [
        ((500, 400), (1, 1), "whole"),
        ((1000, 900), (2, 2), "near_square"),
        ((1400, 1300), (3, 3), "near_square"),
        ((1080, 2400), (2, 1), "long"),
        ((5000, 1000), (1, 5), "long"),
        ((100_000, 100), (1, 16), "long"),
    ],
)
def test_the_shape_decides_the_grid(size: tuple[int, int], shape: tuple[int, int], reason: str) -> None:
    tiling = by_shape(*size)
    assert ((tiling.rows, tiling.columns), tiling.reason) == (shape, reason)


def test_regions_become_tiles_in_reading_order() -> None:
    tiling = of_regions(100, 100, [Box(50, 0, 100, 100), Box(0, 0, 50, 100)])
    assert [tile.box.left for tile in tiling.tiles] == [0, 50]
    assert tiling.at(60, 60) is tiling.tiles[1]
    assert of_regions(100, 100, [Box(0, 0, 10, 10)]).at(60, 60) is None


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="is empty"):
        Box(5, 5, 5, 9)
    with pytest.raises(ValueError, match="no box"):
        bounding([])


@draws_boxes
@given(st.lists(boxes(), max_size=8))
def test_a_crop_covers_all_regions_and_stays_in_the_picture(regions: list[Box]) -> None:
    chosen = crop((1000, 1000), regions)
    assert whole(1000, 1000).covers(chosen.box)
    assert all(chosen.box.covers(region) for region in regions)
    assert 0 <= chosen.tokens_saved < 1
    assert (chosen.reason == "nothing_found") == (not regions)


@draws_boxes
@given(boxes(), SHARES, SHARES)
def test_an_answer_about_a_crop_names_the_same_place_of_the_picture(box: Box, x: float, y: float) -> None:
    chosen = Crop(1000, 1000, box, "region")
    relative = (x * 999, y * 999)
    assert chosen.to_crop(*chosen.to_picture(*relative)) == pytest.approx(relative, abs=1e-6)
    assert box.left <= chosen.to_picture(*relative)[0] <= box.right


def test_a_crop_that_saves_little_is_not_made() -> None:
    assert crop((1000, 1000), [Box(0, 0, 1000, 900)]).reason == "almost_everything"
    assert crop((1000, 1000), [Box(2000, 0, 3000, 900)]).reason == "nothing_found"
    part = crop((1080, 2400), [Box(0, 0, 1080, 1200)])
    assert part.reason == "region"
    assert part.tokens_saved == pytest.approx(0.49, abs=0.02)


def test_the_attention_map_gives_the_smallest_box_of_what_it_looks_at() -> None:
    weights = [[0.0, 0.1, 0.0, 0.0], [0.0, 0.9, 1.0, 0.0], [0.0, 0.2, 0.6, 0.0]]
    assert attention_box(weights, 0.5) == Box(1, 1, 3, 3)
    assert attention_box(weights, 0.95) == Box(2, 1, 3, 2)
    assert attention_box(weights, 0.0) == Box(0, 0, 4, 3)
    assert attention_box([[0.2, 0.2], [0.2, 0.2]]) is None


def test_cells_become_pixels_that_cover_them() -> None:
    assert cells_to_pixels(Box(1, 1, 3, 3), (4, 3), (100, 100)) == Box(25, 33, 75, 100)


@draws_boxes
@given(st.lists(boxes(60), max_size=10), st.integers(0, 5))
def test_merged_boxes_lie_apart_and_cover_the_old_ones(given_boxes: list[Box], gap: int) -> None:
    result = merged(given_boxes, gap)
    assert all(any(box.covers(old) for box in result) for old in given_boxes)
    assert all(a.grown(gap).intersection(b) is None for i, a in enumerate(result) for b in result[:i])
