"""Sizes and tokens are those of the model's own processor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.vision.sizing import MAX_PIXELS, TokenGrid, at_short_side, fitted, image_tokens, token_grid

# Source size -> tokens under `longest_edge` 9.63e6, 5e6, 2.5e6, 1e6, 5e5, as transformers' smart_resize gives them.
LONGEST_EDGES = (9_633_792, 5_000_000, 2_500_000, 1_000_000, 500_000)
TOKENS = {
    (1080, 2400): (3354, 3108, 1534, 592, 286),
    (1080, 2340): (3276, 3154, 1566, 629, 312),
    (1179, 2556): (3822, 3154, 1566, 629, 312),
    (1284, 2778): (4554, 3154, 1566, 629, 312),
    (1440, 3200): (5814, 3108, 1534, 592, 286),
    (1080, 1920): (2691, 2691, 1537, 594, 299),
    (720, 1600): (1482, 1482, 1482, 592, 286),
    (540, 1200): (817, 817, 817, 592, 286),
    (360, 800): (377, 377, 377, 377, 286),
}


@pytest.mark.parametrize(("size", "expected"), TOKENS.items())
def test_tokens_are_those_of_the_models_processor(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    for longest_edge, tokens in zip(LONGEST_EDGES, expected, strict=True):
        assert image_tokens(*size, longest_edge // 2) == tokens
        assert image_tokens(size[1], size[0], longest_edge // 2) == tokens


def test_small_images_are_enlarged_to_the_processors_floor() -> None:
    assert image_tokens(112, 112, 1_000_000) == 16
    width, height = fitted(10, 10, 1_000_000)
    assert width * height >= 112 * 112 // 2


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(28 * 28 * 210, 50_000_000))
def test_the_pixel_limit_is_kept(width: int, height: int, limit: int) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    fit_width, fit_height = fitted(width, height, limit)
    assert fit_width % 28 == fit_height % 28 == 0
    assert fit_width * fit_height <= max(limit, 28 * max(fit_width, fit_height))


def test_without_a_limit_the_models_own_holds() -> None:
    assert image_tokens(1440, 3200) == TOKENS[(1440, 3200)][0]
    assert image_tokens(20_000, 20_000) <= 6144 == MAX_PIXELS // 28**2


def test_a_picture_uses_positions_by_its_longer_side_not_by_its_tokens() -> None:
    grid = token_grid(1080, 2400)
    assert grid == TokenGrid(86, 39)
    assert (grid.tokens, grid.positions) == (3354, 86)


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(28, 4000))
def test_the_short_side_comes_down_and_the_shape_is_kept(width: int, height: int, short_side: int) -> None:
    new_width, new_height = at_short_side(width, height, short_side)
    if min(width, height) <= short_side:
        assert (new_width, new_height) == (width, height)
    else:
        assert min(new_width, new_height) == short_side
        assert new_width / new_height == pytest.approx(width / height, rel=1 / short_side)
