"""From a step's number to the tensors of its batch: which screens, which windows, which questions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image

from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer
from autoglm_serving.screens.actions import Tap, read_reply
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Element, Screen
from autoglm_serving.training import windows
from autoglm_serving.training.cards import LETTERS, draw_card
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.examples import FRAME_WEIGHT, Asked, Question, Row, pack, questions, token_weights
from autoglm_serving.training.letters import Letter, letters, symbols
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.training.recipe import Recipe, Stage, Step, resolution_weight
from autoglm_serving.training.spelling import Signs, Told, patch_of, patch_signs, place_codes, told
from autoglm_serving.training.symbols import symbols_of
from autoglm_serving.training.windows import Window
from autoglm_serving.vision.sizing import TOKEN_SIDE

_ANY_SIZE = ImageSize(1, 1 << 40)
"""Pictures come in the model's size already."""


@dataclass(frozen=True)
class Batch:
    """`mask` is (rows, 1, length, length), true where attention may look. `targets` are places in the flattened rows."""

    ids: torch.Tensor
    segments: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor
    prefix: torch.Tensor
    """Length of each row's prefix."""
    targets: torch.Tensor
    weights: torch.Tensor
    scales: torch.Tensor
    """The resolution's weight, for each target."""
    asks: tuple[tuple[int, int, tuple[int, ...]], ...]
    """(row, place, cells) of the questions that point."""
    tokens: tuple[int, ...]
    """Image tokens of each picture."""
    codes: torch.Tensor
    """(image tokens, width): where each is in its picture."""
    read: torch.Tensor
    """The image tokens of pictures whose texts are known: cards, and screens that know theirs."""
    told: Told
    """The signs of the letters and symbols whose middle a patch of the batch shows; some patches that show none too."""
    letters: tuple[torch.Tensor, torch.Tensor]
    """(slot of the batch, number of the letter in its middle or NO_LETTER). A patch has SLOTS slots."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if device.type == "cpu":
            return self
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("asks", "tokens")
        }
        moved: dict[str, Any] = {
            name: tuple(each.to(device) for each in value) if isinstance(value, tuple) else value.to(device)
            for name, value in values.items()
        }
        return replace(self, **moved)

    @property
    def image_tokens(self) -> int:
        return sum(self.tokens)


class BatchMaker:
    """Makes the batch of any step; equal steps give equal batches, so a run can go on anywhere."""

    def __init__(self, recipe: Recipe, screens: Screens, tokenizer: ModelTokenizer, images: ModelImages) -> None:
        self._recipe = recipe
        self._screens = screens
        self._tokenizer = tokenizer
        self._images = images
        self._prompts = Prompts(tokenizer)
        self._patch_side, self._width = recipe.network.patch_side, recipe.network.text_width
        self._per_token = recipe.network.patches_per_token

    def batch(self, step: Step, part: int = 0) -> Batch:
        """One of the batches whose gradients a step adds up."""
        rows, pictures, grids, shown, codes, scales = [], [], [], [], [], []
        for number, picture in enumerate(self._pictures(step, part)):
            screen, window = picture.screen, picture.window
            dice = Dice(self._recipe.seed, "questions", step.number, part, number)
            asked = self._questions(step.stage, screen, window, dice)
            scales.append(
                resolution_weight(window.width, window.height, self._recipe.base_side) if step.weighted else 1.0
            )
            seen = 0 if step.stage.name == "telling" else window.tokens
            rows.append(pack(self._prompts.before(seen), [self._asked(each, window) for each in asked]))
            if step.stage.draws:
                pictures.append(picture.drawn or self._screens.picture(screen, window))
            grids.append([1, window.height // self._patch_side, window.width // self._patch_side])
            shown.append(self._shown(picture, dice))
            codes.append(place_codes(window.width // TOKEN_SIDE, window.height // TOKEN_SIDE, self._width))
        pixels = [self._images.pixels(each, _ANY_SIZE)[0] for each in pictures]
        return replace(
            collate(rows, scales, torch.cat([torch.zeros(0), *pixels]), torch.tensor(grids)),
            tokens=tuple(each.tokens for each in shown),
            codes=torch.cat(codes),
            **_known(shown, self._per_token),
        )

    def _questions(self, stage: Stage, screen: Screen, window: Window, dice: Dice) -> list[Question]:
        """What a stage asks about a window: nothing, only for places, or anything."""
        if stage.name in _ONLY_READ:
            return []
        asked = questions(screen, window, self._recipe.questions, dice)
        if stage.name != "telling":
            return asked
        return [each for each in asked if each.box is not None and isinstance(read_reply(each.answer), Tap)]

    def _asked(self, question: Question, window: Window) -> Asked:
        answer = self._tokenizer.encode(question.answer)
        weights = token_weights(question.answer, answer, self._tokenizer.pieces)
        return Asked(
            prompt=tuple(self._prompts.after(question.instruction)),
            answer=(*answer, self._prompts.end_id),
            weights=(*weights, FRAME_WEIGHT),
            cells=window.cells(question.box) if question.box is not None else (),
        )

    def _shown(self, picture: "_Picture", dice: Dice) -> "_Shown":
        """What can be read, and as often as four letters a place that shows none."""
        screen, window = picture.screen, picture.window
        if not screen.texts:
            return _Shown(window.tokens, known=False, letters={}, signs={})
        side, across, count = self._patch_side, window.width // TOKEN_SIDE, window.tokens * self._per_token
        found = letters(screen, window)
        slots = {_slot(letter, side, across): letter.number for letter in found}
        numbers = {slot: number for slot, number in slots.items() if number is not None}
        signs = patch_signs(found, symbols(picture.symbols, window), across, side)
        for _ in range(max(1, len(found) // _LETTERS_TO_NONE)):
            empty = dice.below(count * SLOTS)
            if empty not in slots:
                numbers.setdefault(empty, NO_LETTER)
            signs.setdefault(dice.below(count), [])
        return _Shown(window.tokens, known=True, letters=numbers, signs=signs)

    def _pictures(self, step: Step, part: int) -> "list[_Picture]":
        """As many windows and cards as fit the budget; each screen comes once in a round through all of them."""
        found: list[_Picture] = []
        tokens = 0
        for number in range(self._recipe.batch_limit):
            dice = Dice(self._recipe.seed, "window", step.number, part, number)
            screen, picture = self._screen(step, part, number), None
            if dice.chance(step.stage.cards_percent):
                card = draw_card(dice, step.variety)
                screen, picture = card.screen, card.picture
            shown = symbols_of(screen)
            if picture is not None:
                window = Window((0, 0, screen.width, screen.height), screen.width, screen.height)
            elif step.stage.name in _ONLY_READ:
                window = windows.to_read(screen, shown, step.short_side, dice)
            elif dice.chance(step.stage.whole_percent):
                window = windows.whole(screen, step.short_side)
            else:
                window = windows.choose(screen, step.short_side, step.stage.least_window, dice)
            tokens += window.tokens
            if found and tokens > step.stage.token_budget:
                break
            found.append(_Picture(screen, window, picture, shown))
        return found

    def _screen(self, step: Step, part: int, number: int) -> Screen:
        """Rounds through a shuffled order. A step that takes fewer than the limit skips some, another round has them."""
        recipe = self._recipe
        place = (step.number * recipe.accumulate + part) * recipe.batch_limit + number
        round_number, inside = divmod(place, len(self._screens.items))
        return self._screens.items[_shuffled(inside, len(self._screens.items), recipe.seed, round_number)]


def _slot(letter: Letter, patch_side: int, across: int) -> int:
    """The slot that holds a letter's middle."""
    return patch_of(letter.x, letter.y, across, patch_side) * SLOTS + int(letter.x / patch_side % 1 * SLOTS)


@dataclass(frozen=True)
class _Picture:
    """What one picture of a batch shows: a window of a screen, or a card that is `drawn` already."""

    screen: Screen
    window: Window
    drawn: Image.Image | None
    symbols: tuple[Element, ...]
    """All of the screen's."""


@dataclass(frozen=True)
class _Shown:
    """What is known of one picture's texts: numbers of letters by slot, signs by patch."""

    tokens: int
    known: bool
    letters: dict[int, int]
    signs: dict[int, Signs]


_ONLY_READ = ("reading", "gathering", "sorting")
"""Stages that ask nothing, and have windows of their own."""


SLOTS = 2
"""Places of a patch that can each hold the middle of a letter, side by side."""

NO_LETTER = len(LETTERS)

_LETTERS_TO_NONE = 4


def _shuffled(place: int, count: int, seed: int, round_number: int) -> int:
    """A place of an affine permutation: cheap, the same everywhere, each value once a round."""
    dice = Dice(seed, "order", round_number)
    factor = next(value for value in iter(lambda: 1 + dice.below(count), 0) if _coprime(value, count))
    return (place * factor + dice.below(count)) % count


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def collate(rows: Sequence[Row], scales: Sequence[float], pixels: torch.Tensor, grid: torch.Tensor) -> Batch:
    """Rows of one batch, filled up at the right, with the pictures of all. `scales` are the weights of their resolutions."""
    length = max(len(row.ids) for row in rows)
    segments = _padded([row.segments for row in rows], length, -1)
    weights = torch.tensor([[*row.weights, *[0.0] * (length - len(row.ids))] for row in rows]).flatten()
    targets = weights.nonzero().flatten()
    return Batch(
        ids=_padded([row.ids for row in rows], length, 0),
        segments=segments,
        offsets=_padded([row.offsets for row in rows], length, 0),
        mask=attention_mask(segments),
        pixels=pixels,
        grid=grid,
        prefix=(segments == 0).sum(-1),
        targets=targets,
        weights=weights[targets],
        scales=torch.tensor(scales)[targets // length],
        asks=tuple((number, place, cells) for number, row in enumerate(rows) for place, cells in row.asks),
        tokens=(),
        codes=torch.zeros(0, 0),
        **_known((), 1),
    )


def attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length): each token sees the prefix and its own question up to itself. Padding sees itself."""
    query, key = segments[:, :, None], segments[:, None, :]
    order = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    seen = ((key == 0) | (key == query)) & order & (key >= 0)
    return (seen | torch.eye(segments.shape[1], dtype=torch.bool)).unsqueeze(1)


def _padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])


def _known(pictures: Sequence[_Shown], per_token: int) -> dict[str, Any]:
    """A batch's `read`, `told` and `letters`; an image token has `per_token` patches."""
    begins = starts([each.tokens for each in pictures])
    read = [torch.zeros(0, dtype=torch.long)]
    signs: dict[int, Signs] = {}
    slots: list[int] = []
    numbers: list[int] = []
    for start, each in zip(begins, pictures, strict=False):
        if each.known:
            read.append(torch.arange(start, start + each.tokens))
        signs.update({start * per_token + patch: found for patch, found in each.signs.items()})
        slots += [start * per_token * SLOTS + slot for slot in each.letters]
        numbers += each.letters.values()
    long = torch.long
    return {
        "read": torch.cat(read),
        "told": told(signs),
        "letters": (torch.tensor(slots, dtype=long), torch.tensor(numbers, dtype=long)),
    }


def starts(counts: Sequence[int]) -> list[int]:
    """Where each picture's part of the batch begins, and where the last one ends."""
    return [0, *itertools.accumulate(counts)]
