"""What size the model makes of a picture, and what that costs in tokens.

The rule is transformers' `glm4v` smart_resize for a still picture, which the processor counts as two equal frames (T = 2):
its areas, `shortest_edge` and `longest_edge`, are twice the pixels of one frame. A patch has 14 x 14 pixels in both frames,
and 2 x 2 patches make a token.
"""

import math
from dataclasses import dataclass

TOKEN_SIDE = 28
"""One image token covers 28 x 28 pixels: patches of 14, merged 2 x 2."""

FRAMES = 2
"""A still picture is a film of two equal frames."""

MIN_PIXELS = 112 * 112 // FRAMES
"""Smaller pictures are enlarged."""

MAX_PIXELS = 9_633_792 // FRAMES
"""GLM-4.1V's own limit: 6,144 tokens."""


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one picture, by rows and columns of 28 pixels."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def positions(self) -> int:
        """Text positions that the picture uses up: its longer side, not its tokens (M-RoPE)."""
        return max(self.rows, self.columns)


def fitted(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height that the model's processor makes of a picture under a pixel limit."""
    if min(width, height) < TOKEN_SIDE:
        scale = TOKEN_SIDE / min(width, height)
        width, height = int(width * scale), int(height * scale)
    fit_width = round(width / TOKEN_SIDE) * TOKEN_SIDE
    fit_height = round(height / TOKEN_SIDE) * TOKEN_SIDE
    if fit_width * fit_height > max_pixels:
        beta = math.sqrt(width * height / max_pixels)
        fit_width = max(TOKEN_SIDE, math.floor(width / beta / TOKEN_SIDE) * TOKEN_SIDE)
        fit_height = max(TOKEN_SIDE, math.floor(height / beta / TOKEN_SIDE) * TOKEN_SIDE)
    elif fit_width * fit_height < MIN_PIXELS:
        beta = math.sqrt(MIN_PIXELS / (width * height))
        fit_width = math.ceil(width * beta / TOKEN_SIDE) * TOKEN_SIDE
        fit_height = math.ceil(height * beta / TOKEN_SIDE) * TOKEN_SIDE
    return fit_width, fit_height


def token_grid(width: int, height: int, max_pixels: int = MAX_PIXELS) -> TokenGrid:
    """The tokens that a picture becomes under a pixel limit."""
    fit_width, fit_height = fitted(width, height, max_pixels)
    return TokenGrid(fit_height // TOKEN_SIDE, fit_width // TOKEN_SIDE)


def image_tokens(width: int, height: int, max_pixels: int = MAX_PIXELS) -> int:
    """Tokens that one picture costs in the prompt under a pixel limit."""
    return token_grid(width, height, max_pixels).tokens


def at_short_side(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the short side brought down to `short_side`, the shape kept; smaller pictures as they are."""
    shortest = min(width, height)
    if shortest <= short_side:
        return width, height
    return max(1, round(width * short_side / shortest)), max(1, round(height * short_side / shortest))
