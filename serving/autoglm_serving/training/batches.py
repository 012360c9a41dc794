"""From a step's number to the tensors of its batch: which screens, which windows, which questions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Screen
from autoglm_serving.training import windows
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.examples import FRAME_WEIGHT, Asked, Question, Row, pack, questions, token_weights
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.training.recipe import Recipe, Step, resolution_weight
from autoglm_serving.training.windows import Window

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
    words: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """(image token of the batch, token of a text that it shows, weight): what can be read where."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        if device.type == "cpu":
            return self
        moved = {
            field.name: getattr(self, field.name).to(device) for field in fields(self) if field.name not in _TUPLES
        }
        first, second, third = (each.to(device) for each in self.words)
        return replace(self, **moved, words=(first, second, third))

    @property
    def image_tokens(self) -> int:
        return int(self.grid.prod(-1).sum()) // 4


_TUPLES = ("asks", "words")


class BatchMaker:
    """Makes the batch of any step; equal steps give equal batches, so a run can go on anywhere."""

    def __init__(self, recipe: Recipe, screens: Screens, tokenizer: ModelTokenizer, images: ModelImages) -> None:
        self._recipe = recipe
        self._screens = screens
        self._tokenizer = tokenizer
        self._images = images
        self._prompts = Prompts(tokenizer)

    def batch(self, step: Step, part: int = 0) -> Batch:
        """One of the batches whose gradients a step adds up."""
        seen = self._windows(step, part)
        rows, pictures, words, scales = [], [], [], []
        for number, (screen, window) in enumerate(seen):
            dice = Dice(self._recipe.seed, "questions", step.number, part, number)
            asked = questions(screen, window, self._recipe.questions, dice)
            scales.append(
                resolution_weight(window.width, window.height, self._recipe.base_side) if step.weighted else 1.0
            )
            rows.append(pack(self._prompts.before(window.tokens), [self._asked(each, window) for each in asked]))
            pictures.append(self._screens.picture(screen, window))
            words.append(self._words(screen, window))
        pixels, grids = zip(*(self._images.pixels(each, _ANY_SIZE) for each in pictures), strict=True)
        return collate(rows, scales, torch.cat(pixels), torch.cat(grids), _triplets(words, torch.cat(grids)))

    def _asked(self, question: Question, window: Window) -> Asked:
        answer = self._tokenizer.encode(question.answer)
        weights = token_weights(question.answer, answer, self._tokenizer.pieces)
        return Asked(
            prompt=tuple(self._prompts.after(question.instruction)),
            answer=(*answer, self._prompts.end_id),
            weights=(*weights, FRAME_WEIGHT),
            cells=window.cells(question.box) if question.box is not None else (),
        )

    def _words(self, screen: Screen, window: Window) -> dict[int, list[int]]:
        """By image token: the text tokens of the elements that it shows."""
        seen: dict[int, list[int]] = {}
        for element in screen.elements:
            text = element.text.strip()
            if not text or len(text) > _LONGEST_SEEN or not window.holds(element.box):
                continue
            ids = self._tokenizer.encode(text, literal=True)
            for cell in window.cells(element.box):
                seen.setdefault(cell, []).extend(ids)
        return seen

    def _windows(self, step: Step, part: int) -> list[tuple[Screen, Window]]:
        """As many windows as fit the budget; each screen comes once in a round through all of them."""
        found: list[tuple[Screen, Window]] = []
        tokens = 0
        for number in range(self._recipe.batch_limit):
            screen = self._screen(step, part, number)
            dice = Dice(self._recipe.seed, "window", step.number, part, number)
            if dice.chance(step.stage.whole_percent):
                window = windows.whole(screen, step.short_side)
            else:
                window = windows.choose(screen, step.short_side, step.stage.least_window, dice)
            tokens += window.tokens
            if found and tokens > self._recipe.token_budget:
                break
            found.append((screen, window))
        return found

    def _screen(self, step: Step, part: int, number: int) -> Screen:
        """Rounds through a shuffled order. A step that takes fewer than the limit skips some, another round has them."""
        recipe = self._recipe
        place = (step.number * recipe.accumulate + part) * recipe.batch_limit + number
        round_number, inside = divmod(place, len(self._screens.items))
        return self._screens.items[_shuffled(inside, len(self._screens.items), recipe.seed, round_number)]


_LONGEST_SEEN = 40
"""Texts of more characters fill many tokens, and no token shows them all."""


def _shuffled(place: int, count: int, seed: int, round_number: int) -> int:
    """A place of an affine permutation: cheap, the same everywhere, each value once a round."""
    dice = Dice(seed, "order", round_number)
    factor = next(value for value in iter(lambda: 1 + dice.below(count), 0) if _coprime(value, count))
    return (place * factor + dice.below(count)) % count


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def collate(
    rows: Sequence[Row], scales: Sequence[float], pixels: torch.Tensor, grid: torch.Tensor, words: Triplets
) -> Batch:
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
        words=words,
    )


def attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length): each token sees the prefix and its own question up to itself. Padding sees itself."""
    query, key = segments[:, :, None], segments[:, None, :]
    order = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    seen = ((key == 0) | (key == query)) & order & (key >= 0)
    return (seen | torch.eye(segments.shape[1], dtype=torch.bool)).unsqueeze(1)


def _padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])


def _triplets(words: Sequence[dict[int, list[int]]], grid: torch.Tensor) -> Triplets:
    starts = [0, *(grid.prod(-1) // 4).cumsum(0).tolist()]
    found = [
        (start + cell, index, 1 / len(ids))
        for start, seen in zip(starts, words, strict=False)
        for cell, ids in seen.items()
        for index in ids
    ]
    cells, ids, weights = zip(*found, strict=True) if found else ((), (), ())
    return torch.tensor(cells, dtype=torch.long), torch.tensor(ids, dtype=torch.long), torch.tensor(weights)
