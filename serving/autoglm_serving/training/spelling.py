"""What an image token should tell: how the texts that it shows are spelled, and where it is in its picture.

Every letter, and every pair of letters that follow each other, has a direction of its own; a text is the sum of its
directions. Tokens of the vocabulary begin as the sums of their letters, and image tokens learn the sums of the letters that
they show: a word in an instruction and the place that shows it are alike from the start, also words never seen before.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache

import torch

from autoglm_serving.training.cards import Card
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
    for place in range(len(text)):
        for part in parts_at(text, place):
            found += part_of(part, width)
    return found


def parts_at(text: str, place: int) -> tuple[str, ...]:
    """The letter at a place, and with the one that follows it if there is no gap between them; nothing at a gap."""
    sign, after = text[place].lower(), text[place + 1 : place + 2].lower()
    if sign.isspace():
        return ()
    return (sign, sign + after) if after.strip() else (sign,)


@lru_cache(maxsize=65536)
def part_of(part: str, width: int) -> torch.Tensor:
    """The direction of a letter or a pair: random, the same everywhere."""
    seed = int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big")
    length = 1.0 if len(part) == 1 else PAIR
    return torch.randn(width, generator=torch.Generator().manual_seed(seed)) * length / math.sqrt(width)


def card_spelling(card: Card, width: int) -> torch.Tensor:
    """[image tokens, width]: the letters whose middle each of a card's image tokens shows, with the pairs that they begin."""
    across, along = card.screen.width // TOKEN_SIDE, card.screen.height // TOKEN_SIDE
    found = torch.zeros(along * across, width)
    for line in card.lines:
        row = int(line.y // TOKEN_SIDE)
        if not 0 <= row < along:
            continue
        for place in range(len(line.text)):
            column = int((line.ends[place] + line.ends[place + 1]) / 2 // TOKEN_SIDE)
            if 0 <= column < across:
                for part in parts_at(line.text, place):
                    found[row * across + column] += part_of(part, width)
    return found


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


@lru_cache
def place_directions(width: int) -> torch.Tensor:
    """[4 * PLACE_WAVES, width]: the directions that codes of places use, at right angles to each other."""
    drawn = torch.randn(width, 4 * PLACE_WAVES, generator=torch.Generator().manual_seed(11))
    found: torch.Tensor = torch.linalg.qr(drawn)[0].T.contiguous()
    return found


@torch.no_grad()
def start_embeddings(embeddings: torch.Tensor, pieces: Mapping[int, bytes]) -> None:
    """Let every token that is a text begin as its spelling, half as long as on a picture. `pieces`: the bytes of each."""
    for index, content in pieces.items():
        text = content.decode(errors="ignore").strip()
        if text and index < len(embeddings):
            embeddings[index] = _EMBEDDED * spelling(text, embeddings.shape[1]) + 0.01 * torch.randn(
                embeddings.shape[1]
            )


_EMBEDDED = 0.5
