"""The vision decisions on real pixels: nothing is lost in a round trip, and changes are found where they are."""

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from transformers import Glm4vImageProcessor
from transformers.models.glm4v.image_processing_glm4v import smart_resize

from autoglm_serving.vision.boxes import Box, bounding
from autoglm_serving.vision.pixels.content import content_tiles, detail_regions
from autoglm_serving.vision.pixels.flow import changed_regions
from autoglm_serving.vision.pixels.prefetch import prefetched
from autoglm_serving.vision.pixels.prepare import Preparer, UnreadablePicture, decoded
from autoglm_serving.vision.pixels.resize import (
    CLIP_MEAN,
    CLIP_STD,
    Picture,
    enlarged,
    normalised,
    resize_with_pad,
    shrunk,
)
from autoglm_serving.vision.pixels.stitch import CannotStitch, stitch
from autoglm_serving.vision.pixels.tiles import cut, merge
from autoglm_serving.vision.sizing import MAX_PIXELS, fitted
from autoglm_serving.vision.tiling import by_long_edge, by_shape, of_regions

DEADLINE_S = 180


def scene(width: int, height: int, seed: int = 0, marks: int = 120) -> Picture:
    """Words and boxes on white, as on a screen."""
    dice = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 255, np.uint8)
    for index in range(marks):
        x, y = int(dice.integers(0, width)), int(dice.integers(0, height))
        colour = tuple(int(value) for value in dice.integers(0, 200, 3))
        word = f"w{dice.integers(1000, 9999)}"
        cv2.putText(picture, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, float(dice.uniform(0.4, 1.2)), colour, 1)
        if index % 5 == 0:
            cv2.rectangle(
                picture, (x, y), (x + int(dice.integers(20, 120)), y + int(dice.integers(10, 60))), colour, -1
            )
    return picture


def noisy(picture: Picture, seed: int, strength: float) -> Picture:
    noise = np.random.default_rng(seed).normal(0, strength, picture.shape)
    return np.clip(picture * 0.6 + 40 + noise, 0, 255).astype(np.uint8)


def png(picture: Picture) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize("size", [(300, 700), (701, 299), (40, 40)])
@pytest.mark.parametrize("placement", ["corner", "centre"])
def test_a_dot_is_found_within_one_pixel_through_resize_and_pad(size: tuple[int, int], placement: Any) -> None:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    dot = Box(size[0] // 3, size[1] // 2, size[0] // 3 + 9, size[1] // 2 + 9)
    picture[dot.top : dot.bottom, dot.left : dot.right] = 255
    framed, padding = resize_with_pad(picture, (336, 336), placement)
    assert framed.shape == (336, 336, 3)
    rows, columns = np.nonzero(framed[..., 0] > 127)
    left, top = padding.to_source(columns.min(), rows.min())
    right, bottom = padding.to_source(columns.max() + 1, rows.max() + 1)
    error = np.abs(np.subtract((left, top, right, bottom), (dot.left, dot.top, dot.right, dot.bottom)))
    assert error.max() <= max(1.0, 1 / padding.scale_x)


def test_padding_has_the_fill_and_the_picture_keeps_its_place() -> None:
    framed, padding = resize_with_pad(np.full((50, 100, 3), 200, np.uint8), (100, 100), "centre", fill=7)
    box = padding.content
    assert box == Box(0, 25, 100, 75)
    assert (framed[box.top : box.bottom] == 200).all()
    assert (framed[: box.top] == 7).all()
    assert (framed[box.bottom :] == 7).all()


def test_pictures_shrink_and_grow_to_a_short_side_and_are_else_left_alone() -> None:
    picture = scene(100, 220)
    assert shrunk(picture, 50).shape == (110, 50, 3)
    assert shrunk(picture, 100) is picture
    assert enlarged(picture, 200).shape == (440, 200, 3)
    assert enlarged(picture, 50) is picture


def test_normalised_channels_are_those_of_the_models_processor() -> None:
    processor = Glm4vImageProcessor(do_resize=False, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD))
    picture = scene(56, 56)
    patches = processor(images=[picture], return_tensors="np", input_data_format="channels_last")["pixel_values"]
    # One patch is (3 channels, 2 frames, 14, 14); the first two frames are equal.
    first = np.asarray(patches)[0].reshape(3, 2, 14, 14)
    assert np.allclose(first[:, 0], normalised(picture)[:, :14, :14], atol=1e-5)
    assert np.array_equal(first[:, 0], first[:, 1])


def test_the_size_for_the_model_is_that_of_its_processor() -> None:
    dice = np.random.default_rng(0)
    for _ in range(2000):
        width, height = (int(side) for side in np.exp(dice.uniform(np.log(20), np.log(4000), 2)))
        if max(width, height) > 190 * min(width, height):
            continue
        limit = int(dice.choice([MAX_PIXELS, 500_000, 2_000_000]))
        expected = smart_resize(2, height, width, max_pixels=2 * limit)
        assert fitted(width, height, limit) == (expected[1], expected[0]), (width, height, limit)


@pytest.mark.parametrize("size", [(400, 300), (700, 500), (1080, 2400), (1025, 77)])
@pytest.mark.parametrize("tiling_of", [by_long_edge, by_shape])
def test_tiles_put_together_are_the_picture(size: tuple[int, int], tiling_of: Any) -> None:
    picture = scene(*size)
    tiling = tiling_of(*size)
    assert np.array_equal(merge(cut(picture, tiling), tiling), picture)


def test_overlapping_tiles_are_averaged_and_what_no_tile_covers_is_zero() -> None:
    tiling = of_regions(4, 1, [Box(0, 0, 2, 1), Box(1, 0, 3, 1)])
    parts = [np.full((1, 2), 1.0), np.full((1, 2), 3.0)]
    assert merge(parts, tiling).tolist() == [[1.0, 2.0, 3.0, 0.0]]


def test_tiles_of_another_picture_are_refused() -> None:
    tiling = by_shape(600, 600)
    with pytest.raises(ValueError, match="600x600"):
        cut(scene(10, 10), tiling)
    with pytest.raises(ValueError, match="3 parts for 4"):
        merge([np.zeros((300, 300))] * 3, tiling)
    with pytest.raises(ValueError, match="tile 0"):
        merge([np.zeros((10, 10))] * 4, tiling)


def test_content_tiles_are_small_on_the_detail_and_cover_the_picture() -> None:
    picture = np.full((1000, 1500, 3), 240, np.uint8)
    detail = Box(100, 200, 600, 420)
    picture[detail.top : detail.bottom, detail.left : detail.right] = scene(detail.width, detail.height, 1, 80)
    found = content_tiles(picture)
    tiles = [tile.box for tile in found.tiling.tiles]
    assert sum(box.pixels for box in tiles) == 1000 * 1500
    assert all(a.intersection(b) is None for i, a in enumerate(tiles) for b in tiles[:i])
    sharp = [box for box, detailed in zip(tiles, found.detailed, strict=True) if detailed]
    assert sharp
    assert all(box.intersection(detail) is not None for box in sharp)
    assert max(box.width for box in sharp) < max(box.width for box in tiles)
    around = bounding(detail_regions(picture))
    assert detail.grown(20).covers(around)
    assert around.pixels > 0.8 * detail.pixels


def test_a_plain_picture_has_no_detail() -> None:
    plain = np.full((600, 1100, 3), 90, np.uint8)
    assert detail_regions(plain) == ()
    assert content_tiles(plain).detailed == (False,) * 6


def test_an_area_that_changed_its_colour_is_found() -> None:
    before = scene(1080, 2400, 3)
    after = before.copy()
    after[500:600, 300:500] = (0, 120, 0)
    change = changed_regions(before, after)
    assert change.reason == "changed"
    assert len(change.regions) == 1
    assert change.regions[0].covers(Box(300, 500, 500, 600))
    assert change.regions[0].pixels < 2 * 200 * 100


def test_a_thing_that_moved_is_found_where_it_was_and_where_it_is() -> None:
    background, thing = scene(640, 480, 5), scene(80, 80, 9, 60)
    before, after = background.copy(), background.copy()
    before[100:180, 100:180] = thing
    after[106:186, 112:192] = thing
    around = bounding(changed_regions(before, after).regions)
    assert around.grown(4).covers(Box(100, 100, 192, 186))
    assert around.pixels < 2.5 * 92 * 86


@pytest.mark.parametrize("strength", [0.0, 8.0, 30.0])
def test_the_threshold_follows_the_noise(strength: float) -> None:
    still = scene(540, 1200, 3)
    moved = still.copy()
    moved[500:600, 300:500] = (0, 120, 0)
    assert changed_regions(noisy(still, 1, strength), noisy(still, 2, strength)).reason == "same"
    change = changed_regions(noisy(still, 1, strength), noisy(moved, 2, strength))
    assert change.reason == "changed"
    assert bounding(change.regions).grown(8).covers(Box(300, 500, 500, 600))


def test_another_scene_or_size_has_no_regions() -> None:
    one, other = scene(640, 480, 5), 255 - scene(640, 480, 6)
    assert (changed_regions(one, other).reason, changed_regions(one, other).regions) == ("another_scene", ())
    assert changed_regions(one, scene(480, 640, 5)).reason == "another_size"


def test_parts_of_a_wide_scene_are_joined_and_points_go_back() -> None:
    wide = scene(1300, 400, 2, 200)
    joined = stitch([wide[:, :600], wide[:, 400:1000], wide[:, 800:]])
    assert joined.picture.shape == wide.shape
    # RANSAC finds the places to a fraction of a pixel: the mean difference is a few grey levels at most.
    assert np.abs(joined.picture.astype(int) - wide).mean() < 3
    assert all(matches >= 12 for matches in joined.matches)
    assert joined.to_source(2, 900, 100) == pytest.approx((100, 100), abs=1)


def test_a_difference_in_brightness_is_blended_without_a_seam() -> None:
    wide = scene(900, 400, 2, 150)
    wide[:20] = 255
    darker = np.clip(wide[:, 300:].astype(int) - 30, 0, 255).astype(np.uint8)
    row = stitch([wide[:, :600], darker]).picture[10, :, 0].astype(int)
    # The step of 30 levels is spread over the overlap of 300 pixels.
    assert row[50] - row[-50] >= 25
    assert np.abs(np.diff(row)).max() <= 3


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no pictures"),
        ([np.full((200, 200, 3), 9, np.uint8)] * 2, "pictures 1 and 2: too little detail"),
        ([scene(400, 400, 1), scene(400, 400, 1), scene(400, 400, 77)], "pictures 2 and 3"),
    ],
    ids=["none", "plain", "strangers"],
)
def test_pictures_that_do_not_belong_together_are_named(pictures: list[Picture], message: str) -> None:
    with pytest.raises(CannotStitch, match=message):
        stitch(pictures)


def test_the_joined_picture_is_bounded() -> None:
    wide = scene(900, 400, 2, 150)
    with pytest.raises(CannotStitch, match="more than 1000"):
        stitch([wide[:, :600], wide[:, 300:]], max_pixels=1000)


def test_one_picture_is_joined_with_nothing() -> None:
    picture = scene(200, 100)
    assert np.array_equal(stitch([picture]).picture, picture)


def test_prefetching_keeps_the_order_and_never_runs_further_ahead_than_told() -> None:
    taken = 0

    def sources() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number

    results = []
    for result in prefetched(sources(), lambda number: number * number, ahead=3):
        results.append(result)
        assert taken <= len(results) + 3
    assert results == [number * number for number in range(20)]


def test_pictures_are_prepared_while_the_last_one_is_in_use() -> None:
    second_started = threading.Event()

    def prepare(number: int) -> int:
        if number == 1:
            second_started.set()
        return number

    running = prefetched([0, 1], prepare, ahead=2, threads=1)
    assert next(running) == 0
    assert second_started.wait(DEADLINE_S)
    assert list(running) == [1]


def test_an_error_comes_out_at_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()

    def prepare(number: int) -> int:
        if number == 2:
            raise UnreadablePicture("number 2")
        return number

    running = prefetched(range(100), prepare, ahead=4)
    assert [next(running), next(running)] == [0, 1]
    with pytest.raises(UnreadablePicture, match="number 2"):
        next(running)
    assert list(running) == []
    assert threading.active_count() == before


def test_closing_early_ends_the_threads() -> None:
    before = threading.active_count()
    running = prefetched(range(100), str, ahead=4)
    assert next(running) == "0"
    running.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(("ahead", "threads"), [(0, 1), (1, 0)])
def test_prefetching_nothing_is_refused_at_once(ahead: int, threads: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        prefetched([], str, ahead, threads)


def test_a_prepared_picture_comes_from_the_cache_for_its_tenant_only() -> None:
    preparer = Preparer((112, 56), cache_bytes=3 * 112 * 56 * 4)
    first = preparer.prepare(png(scene(60, 60)), "a")
    assert first.values.shape == (3, 56, 112)
    assert preparer.prepare(png(scene(60, 60)), "a") is first
    assert preparer.prepare(png(scene(60, 60)), "b") is not first
    figures = preparer.figures
    assert (figures.hits, figures.misses, figures.entries, figures.evictions) == (1, 2, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        first.values[0, 0, 0] = 1


def test_the_cache_lets_go_of_what_it_evicts() -> None:
    preparer = Preparer((56, 56), cache_bytes=3 * 56 * 56 * 4)
    gone = weakref.ref(preparer.prepare(png(scene(60, 60, 1))))
    preparer.prepare(png(scene(60, 60, 2)))
    assert gone() is None


def test_colours_are_read_red_first() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert np.array_equal(decoded(png(red)), red)


@pytest.mark.parametrize("bad", [b"", b"no picture", png(scene(8, 8))[:40]], ids=["empty", "text", "cut"])
def test_what_is_no_picture_is_refused(bad: bytes) -> None:
    with pytest.raises(UnreadablePicture, match=f"{len(bad)} bytes"):
        decoded(bad)
