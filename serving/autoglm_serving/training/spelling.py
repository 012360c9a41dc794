"""What an image token should tell: how the texts that it shows are spelled, and where it is in its picture.

Every letter has a direction of its own; a text is the sum of its letters' directions. Tokens of the vocabulary begin as the
sums of their letters, and image tokens learn the sums of the letters that they show: a word in an instruction and the place
that shows it are alike from the start, also words never seen before.

All letters share 64 directions and all places 64 others, because a patch tells both with 96 numbers. What is left is free.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from autoglm_serving.screens.words import in_other_language
from autoglm_serving.training.letters import Letter, Symbol
from autoglm_serving.training.signs import SIGNS, USUAL, number_of, numbers_of
from autoglm_serving.vision.sizing import TOKEN_SIDE

LETTER_DIRECTIONS = 64
"""Numbers that tell letters; as many as an attention's head can compare."""

SYMBOL = 0.8
"""The length of each of the names that a symbol has."""

PLACE = 1.5
"""The length of a place's code."""

PLACE_WAVES = 16
"""Frequencies of a place's code for each axis, from half a wave a picture to five and a half."""


def spelling(text: str, width: int, codes: torch.Tensor | None = None) -> torch.Tensor:
    """[width]: the sum of the directions of a text's letters. Capitals are their small letters; gaps are nothing.

    `codes` are those of SIGNS where they are not the start's; signs that are not among them keep their directions.
    """
    found = torch.zeros(width)
    for sign in text:
        number = number_of(sign) if codes is not None else None
        if codes is not None and number is not None:
            found += codes[number] @ letter_directions(width)
        elif sign.strip():
            found += direction_of(sign.lower(), width)
    return found


def start_codes(width: int) -> torch.Tensor:
    """[signs, directions]: the codes of SIGNS before a tower has any of its own."""
    return torch.stack([direction_of(sign, width) for sign in SIGNS]) @ letter_directions(width).T


Signs = list[tuple[int, float]]
"""Numbers of signs, and how loud each is told."""


def symbol_signs(name: str) -> Signs:
    """What a symbol tells, which is its name in both languages: nothing on the screen says which one is asked for."""
    other = in_other_language(name)
    found: Signs = []
    for each in (name,) if other in (None, name) else (name, other):
        counted = Counter(numbers_of(str(each)))
        length = math.sqrt(sum(count * count for count in counted.values()))
        found += [(number, SYMBOL * count / length) for number, count in counted.items()]
    return found


@lru_cache(maxsize=65536)
def direction_of(sign: str, width: int) -> torch.Tensor:
    """The direction of a sign, of length 1: the same everywhere, and at right angles to every place's code."""
    among = letter_directions(width)
    if sign in USUAL and len(among) == LETTER_DIRECTIONS:
        return _usual_codes()[USUAL.index(sign)] @ among
    seed = int.from_bytes(hashlib.sha256(sign.encode()).digest()[:7], "big")
    drawn = torch.randn(len(among), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=0) @ among


def patch_signs(letters: Sequence[Letter], symbols: Sequence[Symbol], across: int, patch_side: int) -> dict[int, Signs]:
    """By patch, in the order of the merged patches: the signs of all whose middle is there. `across` in image tokens."""
    found: dict[int, Signs] = {}
    for each in letters:
        number = number_of(each.sign)
        if number is not None:
            found.setdefault(patch_of(each.x, each.y, across, patch_side), []).append((number, 1.0))
    for symbol in symbols:
        found.setdefault(patch_of(symbol.x, symbol.y, across, patch_side), []).extend(symbol_signs(symbol.name))
    return found


@dataclass(frozen=True)
class Told:
    """What patches should tell: `patches` of a batch, of which the one at `places` shows a sign, so loud."""

    patches: torch.Tensor
    places: torch.Tensor
    signs: torch.Tensor
    loud: torch.Tensor

    def to(self, device: torch.device) -> "Told":
        """The same on another device."""
        return Told(*(each.to(device) for each in vars(self).values()))

    def spelled(self, codes: torch.Tensor) -> torch.Tensor:
        """[patches, directions]: the sums of the codes of their signs."""
        nothing = codes.new_zeros(len(self.patches), codes.shape[1])
        return nothing.index_add(0, self.places, codes[self.signs] * self.loud.unsqueeze(1))


def told(signs: Mapping[int, Signs]) -> Told:
    """From signs by patch."""
    flat = [(place, number, loud) for place, each in enumerate(signs.values()) for number, loud in each]
    return Told(
        patches=torch.tensor(list(signs), dtype=torch.long),
        places=torch.tensor([place for place, _, _ in flat], dtype=torch.long),
        signs=torch.tensor([number for _, number, _ in flat], dtype=torch.long),
        loud=torch.tensor([loud for _, _, loud in flat], dtype=torch.float),
    )


def patch_of(x: float, y: float, across: int, patch_side: int) -> int:
    """The patch that shows a place, in the order of the merged patches; `across` image tokens in a row."""
    column, row, side = int(x / patch_side), int(y / patch_side), TOKEN_SIDE // patch_side
    token = row // side * across + column // side
    return token * side * side + row % side * side + column % side


def place_codes(across: int, along: int, width: int) -> torch.Tensor:
    """[image tokens, width]: sines and cosines of where each image token's middle is in the picture, by row."""
    return waves(across, along, PLACE_WAVES) / math.sqrt(2 * PLACE_WAVES) * PLACE @ place_directions(width)


def waves(across: int, along: int, count: int) -> torch.Tensor:
    """[cells, 4 * count]: sines and cosines of x, then of y, of every cell's middle in a grid, by row."""
    return waves_at(middles(across, along), count)


def middles(across: int, along: int) -> torch.Tensor:
    """[cells, 2]: x and y, from 0 to 1, of every cell's middle in a grid, by row."""
    rows, columns = torch.meshgrid(
        (torch.arange(along) + 0.5) / along, (torch.arange(across) + 0.5) / across, indexing="ij"
    )
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def waves_at(places: torch.Tensor, count: int) -> torch.Tensor:
    """[places, 4 * count]: the same of any places [places, 2], x and y from 0 to 1."""
    angles = [axis.reshape(-1, 1) * _turns(count) for axis in places.unbind(1)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


def place_codes_at(places: torch.Tensor) -> torch.Tensor:
    """[places, 4 * PLACE_WAVES]: the codes of any places, among the directions of places."""
    return waves_at(places, PLACE_WAVES) / math.sqrt(2 * PLACE_WAVES) * PLACE


def moved(codes: torch.Tensor, by: tuple[float, float]) -> torch.Tensor:
    """Codes of places, among their directions, as if each place were moved so far: every wave turns by its angle."""
    found = []
    for number, step in enumerate(by):
        begin, turned = 2 * PLACE_WAVES * number, step * _turns(PLACE_WAVES)
        sines, cosines = codes[:, begin : begin + PLACE_WAVES], codes[:, begin + PLACE_WAVES : begin + 2 * PLACE_WAVES]
        found += [sines * turned.cos() + cosines * turned.sin(), cosines * turned.cos() - sines * turned.sin()]
    return torch.cat(found, 1)


def _turns(count: int) -> torch.Tensor:
    return math.pi * 2.0 ** torch.linspace(-1, 3.5, count)


def reader(patch_width: int, width: int) -> torch.Tensor:
    """[width, patch_width]: directions at right angles, by which what a patch tells begins as a part of its image token.

    They lie among those of letters and places: what a patch says elsewhere would mean nothing.
    """
    used = torch.cat([letter_directions(width), place_directions(width)])
    drawn = torch.randn(max(len(used), patch_width), patch_width, generator=torch.Generator().manual_seed(12))
    found: torch.Tensor = used.T @ torch.linalg.qr(drawn)[0][: len(used)]
    return found.contiguous()


@lru_cache
def place_directions(width: int) -> torch.Tensor:
    """[4 * PLACE_WAVES, width]: the directions that codes of places use, at right angles to each other."""
    drawn = torch.randn(width, 4 * PLACE_WAVES, generator=torch.Generator().manual_seed(11))
    found: torch.Tensor = torch.linalg.qr(drawn)[0].T.contiguous()
    return found


def letter_directions(width: int) -> torch.Tensor:
    """[LETTER_DIRECTIONS or what is left, width]: the directions that letters use, at right angles to those of places."""
    return _beside_places(width)[:LETTER_DIRECTIONS]


def free_directions(width: int) -> torch.Tensor:
    """[what is left, width]: the directions that neither letters nor places use."""
    return _beside_places(width)[LETTER_DIRECTIONS:]


@lru_cache
def _beside_places(width: int) -> torch.Tensor:
    places = place_directions(width)
    drawn = torch.randn(width, width - len(places), generator=torch.Generator().manual_seed(5))
    found: torch.Tensor = torch.linalg.qr(torch.cat([places.T, drawn], 1))[0][:, len(places) :].T.contiguous()
    return found


@lru_cache
def _usual_codes() -> torch.Tensor:
    drawn = torch.randn(LETTER_DIRECTIONS, LETTER_DIRECTIONS, generator=torch.Generator().manual_seed(4))
    found: torch.Tensor = torch.linalg.qr(drawn)[0]
    return found
