"""What an image token should tell: how the texts that it shows are spelled, and where it is in its picture.

Every letter, and every pair of letters that follow each other, has a direction of its own; a text is the sum of its
directions. Tokens of the vocabulary begin as the sums of their letters, and image tokens learn the sums of the letters that
they show: a word in an instruction and the place that shows it are alike from the start, also words never seen before.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from autoglm_serving.training.letters import Letter
from autoglm_serving.vision.sizing import TOKEN_SIDE

PAIR = 0.6
"""The length of a pair's direction; a letter's is about one."""

PLACE = 1.5
"""The length of a place's code."""

PLACE_WAVES = 16
"""Frequencies of a place's code for each axis, from half a wave a picture to five and a half."""


def spelling(text: str, width: int) -> torch.Tensor:
    """[width]: the sum of the directions of a text's letters and pairs. Capitals are their small letters; gaps are nothing."""
    found = torch.zeros(width)
    for sign, after in zip(text, [*text[1:], ""], strict=True):
        if sign.strip():
            found += spelling_of(sign, after.strip(), width)
    return found


def spelling_of(sign: str, after: str, width: int) -> torch.Tensor:
    """[width]: a letter, and the pair that it begins with the one that follows it; `after` is "" where none does."""
    alone = part_of(sign.lower(), width)
    return alone + part_of(sign.lower() + after.lower(), width) if after else alone


@lru_cache(maxsize=65536)
def part_of(part: str, width: int) -> torch.Tensor:
    """The direction of a letter or a pair: random, the same everywhere, and at right angles to every place's code."""
    seed = int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big")
    length = 1.0 if len(part) == 1 else PAIR
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(seed)) * length / math.sqrt(width)
    places = place_directions(width)
    return drawn - drawn @ places.T @ places


def patch_spelling(shown: Sequence[Letter], across: int, patch_side: int, width: int) -> dict[int, torch.Tensor]:
    """By patch, in the order of the merged patches: [width] of the letters whose middle is there. `across` in image tokens."""
    found: dict[int, torch.Tensor] = {}
    for letter in shown:
        patch = patch_of(letter, across, patch_side)
        spelled = spelling_of(letter.sign, letter.after, width)
        found[patch] = found[patch] + spelled if patch in found else spelled
    return found


def patch_of(letter: Letter, across: int, patch_side: int) -> int:
    """The patch that shows a letter's middle, in the order of the merged patches; `across` image tokens in a row."""
    column, row, side = int(letter.x / patch_side), int(letter.y / patch_side), TOKEN_SIDE // patch_side
    token = row // side * across + column // side
    return token * side * side + row % side * side + column % side


def place_codes(across: int, along: int, width: int) -> torch.Tensor:
    """[image tokens, width]: sines and cosines of where each image token's middle is in the picture, by row."""
    return waves(across, along, PLACE_WAVES) / math.sqrt(2 * PLACE_WAVES) * PLACE @ place_directions(width)


def waves(across: int, along: int, count: int) -> torch.Tensor:
    """[cells, 4 * count]: sines and cosines of x, then of y, of every cell's middle in a grid, by row."""
    rows, columns = torch.meshgrid(
        (torch.arange(along) + 0.5) / along, (torch.arange(across) + 0.5) / across, indexing="ij"
    )
    turns = math.pi * 2.0 ** torch.linspace(-1, 3.5, count)
    angles = [axis.reshape(-1, 1) * turns for axis in (columns, rows)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


def reader(patch_width: int, width: int) -> torch.Tensor:
    """[width, patch_width]: directions at right angles, by which what a patch tells begins as a part of its image token."""
    drawn = torch.randn(max(width, patch_width), patch_width, generator=torch.Generator().manual_seed(12))
    found: torch.Tensor = torch.linalg.qr(drawn)[0][:width].contiguous()
    return found


@lru_cache
def place_directions(width: int) -> torch.Tensor:
    """[4 * PLACE_WAVES, width]: the directions that codes of places use, at right angles to each other."""
    drawn = torch.randn(width, 4 * PLACE_WAVES, generator=torch.Generator().manual_seed(11))
    found: torch.Tensor = torch.linalg.qr(drawn)[0].T.contiguous()
    return found
