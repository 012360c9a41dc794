"""Upper layers learn to say: from what the lower ones left at the tokens of each question, kept for tens of thousands of them.

A question costs forty tokens instead of a picture's hundreds. Its answer is the very place at which it looks, as the letters
there tell it, not the middle of its element: what can be said is what has arrived. Pictures are moved for it: the codes of all
places turn by the same way, and the answers go along, so that few screens ask for places everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from autoglm_serving.screens.actions import Tap, read_reply, tap
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import RELATIVE
from autoglm_serving.training.batches import Batch
from autoglm_serving.training.dataset import DatasetInvalid
from autoglm_serving.training.gaze import LOOKING_LAYER, attention_logs
from autoglm_serving.training.grounding.asking import Asker, Lower, lower, merged
from autoglm_serving.training.grounding.finding import LAYERS
from autoglm_serving.training.grounding.kept import Shown, View
from autoglm_serving.training.grounding.recipe import Grounding, rate_at
from autoglm_serving.training.grounding.spots import Spot, spots
from autoglm_serving.training.looking import keep_to_words
from autoglm_serving.training.network import COUNTED, Student
from autoglm_serving.training.spelling import moved, place_directions
from autoglm_serving.vision.sizing import TOKEN_SIDE


@dataclass(frozen=True)
class Prefix:
    """What stands before every picture: the same for all."""

    states: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True)
class Held:
    """One question as the lower layers left it, and a few image tokens of its picture."""

    states: torch.Tensor
    """[tokens, width] in half precision."""
    ids: torch.Tensor
    weights: torch.Tensor
    begins: int
    """The position of its first token."""
    seen: torch.Tensor
    """[few, width]: image tokens, drawn at random."""
    seen_positions: torch.Tensor
    image_tokens: int
    """How many the picture has: each that is kept stands for so many more."""


@torch.no_grad()
def hold(
    student: Student, asker: Asker, views: Sequence[View], recipe: Grounding, shown: Shown
) -> tuple[Prefix, list[Held]]:
    """So many questions about the views in turn, most of them moved. What was not found teaches little, and is seldom kept."""
    prefix: Prefix | None = None
    found: list[Held] = []
    number = 0
    while len(found) < recipe.questions:
        view, dice = views[number % len(views)], Dice(recipe.seed, "saying", number)
        number += 1
        if number > _EMPTY_ROUNDS * len(views) and not found:
            raise DatasetInvalid("none of the screens' kept pictures shows anything to ask about: make more screens")
        asking = _moved(student, view, dice)
        if not asking.asked:
            continue
        batch, said, missed = _where_it_looks(student, asker, view, asking)
        if prefix is None:
            before = (batch.segments[0] == 0) & ~said.is_image[0]
            prefix = Prefix(said.states[-1][0, before], said.positions[:, 0, before])
        found += _held(batch, said, missed, dice)
        shown(min(len(found), recipe.questions), recipe.questions)
    assert prefix is not None  # nosec: a question was found
    return prefix, found[: recipe.questions]


@dataclass(frozen=True)
class _Asking:
    """A view's image tokens and what is asked, as if all that it shows were moved `by` so much across and along."""

    features: torch.Tensor
    asked: list[Spot]
    by: tuple[float, float] = (0.0, 0.0)


def _moved(student: Student, view: View, dice: Dice) -> _Asking:
    """Three of four views are moved."""
    features, asked = merged(student, view.patches), spots(view.screen, view.window, _QUESTIONS, dice)
    if not dice.chance(_MOVED_PERCENT):
        return _Asking(features, asked)
    by = (_part(dice) * _FARTHEST[0], _part(dice) * _FARTHEST[1])
    directions = place_directions(features.shape[1])
    codes = features @ directions.T
    features = features + (moved(codes, by) - codes) @ directions
    return _Asking(features, [there for spot in asked if (there := _spot_moved(spot, by)) is not None], by)


def _spot_moved(spot: Spot, by: tuple[float, float]) -> Spot | None:
    """What is typed, said or scrolled stays what it is; a tap goes along, and is not asked for beyond the picture."""
    if not isinstance(read_reply(spot.answer), Tap):
        return spot
    x, y = spot.place[0] + by[0], spot.place[1] + by[1]
    inside = _BORDER < x < 1 - _BORDER and _BORDER < y < 1 - _BORDER
    if not spot.points or not inside:
        return None
    return replace(spot, place=(x, y))


def _where_it_looks(student: Student, asker: Asker, view: View, asking: _Asking) -> tuple[Batch, Lower, list[int]]:
    """A batch whose taps go where the questions look, what the lower layers make of it, and which questions look elsewhere.

    Where a question looks does not depend on its answer, which comes later.
    """
    batch = asker.batch(view, asking.asked)
    if not batch.asks:
        return batch, lower(student, batch, asking.features, LAYERS), []
    said = lower(student, batch, asking.features, LAYERS)
    logs = attention_logs(
        student.model.model.language_model,
        said.states[LOOKING_LAYER],
        said.positions,
        batch.mask,
        [end for _, end, _ in batch.asks],
    )
    attention = logs[..., said.is_image[0]].exp().mean(0)
    looked = iter(attention)
    asked = [_answered(spot, view, next(looked), asking.by) if spot.cells else spot for spot in asking.asked]
    batch = asker.batch(view, asked)
    said = lower(student, batch, asking.features, LAYERS)
    highest = attention.argmax(-1).tolist()
    across = view.window.width // TOKEN_SIDE
    missed = [end for (_, end, cells), at in zip(batch.asks, highest, strict=True) if not _near(at, cells, across)]
    return batch, said, missed


def _answered(spot: Spot, view: View, attention: torch.Tensor, by: tuple[float, float]) -> Spot:
    """A tap on what is named goes to the middle of what is looked at there; other answers stay as they are."""
    if not spot.points or not isinstance(read_reply(spot.answer), Tap):
        return spot
    cells = list(spot.cells)
    shares = attention[cells] / attention[cells].sum().clamp(min=1e-9)
    x, y = (shares.unsqueeze(1) * view.spots[cells]).sum(0).tolist()
    return replace(spot, answer=tap((_relative(x + by[0]), _relative(y + by[1]))))


def _relative(part: float) -> int:
    return min(RELATIVE - 1, max(0, round(part * (RELATIVE - 1))))


def _near(at: int, cells: Sequence[int], across: int) -> bool:
    """Whether an image token is one of these, or right beside one in its row."""
    return any(abs(at % across - cell % across) <= 1 and at // across == cell // across for cell in cells)


def _part(dice: Dice) -> float:
    """From -1 to 1."""
    return dice.below(_GRAIN) / (_GRAIN / 2) - 1


def _held(batch: Batch, said: Lower, missed: Sequence[int], dice: Dice) -> list[Held]:
    segments, left = batch.segments[0], said.states[-1][0]
    images = said.is_image[0].nonzero().flatten()
    weights = torch.zeros(len(segments))
    weights[batch.targets] = batch.weights
    found = []
    for number in range(1, int(segments.max()) + 1):
        tokens = (segments == number).nonzero().flatten()
        if any(int(tokens[0]) <= end <= int(tokens[-1]) for end in missed) and not dice.chance(_MISSED_PERCENT):
            continue
        seen = torch.tensor(dice.some(images.tolist(), _SEEN))
        found.append(
            Held(
                left[tokens].half(),
                batch.ids[0, tokens],
                weights[tokens],
                int(said.positions[0, 0, tokens[0]]),
                left[seen].half(),
                said.positions[:, 0, seen],
                len(images),
            )
        )
    return found


class Speaker:
    """Lets a student's upper layers learn from questions that were held."""

    def __init__(self, student: Student, prefix: Prefix, recipe: Grounding) -> None:
        self._student, self._prefix, self._recipe = student, prefix, recipe
        text_model = student.model.model.language_model
        self._layers = text_model.layers[LAYERS:]
        self._fixed = keep_to_words(text_model, LAYERS)
        self._parameters = [
            *(each for layer in self._layers for each in layer.parameters()),
            *text_model.norm.parameters(),
            *student.model.lm_head.parameters(),
        ]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.0, betas=(0.9, 0.98))

    def step(self, held: Sequence[Held], number: int) -> tuple[float, float]:
        """Learn from questions drawn for the step with this number: the loss, and the share of right tokens that count."""
        lesson = self._recipe.saying
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(lesson, number)
        dice = Dice(self._recipe.seed, "said", number)
        drawing = torch.Generator().manual_seed(dice.below(1 << 62))
        loss, right = self.loss([_noisy(dice.pick(held), drawing) for _ in range(lesson.each)])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, rows in self._fixed:
            if weight.grad is not None:
                weight.grad[rows] = 0
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return float(loss.detach()), right

    def loss(self, asked: Sequence[Held]) -> tuple[torch.Tensor, float]:
        """The loss of what the upper layers say, and the share of right tokens among those that the picture decides."""
        packed = _packed(self._prefix, asked)
        text_model = self._student.model.model.language_model
        turned = text_model.rotary_emb(packed.states, position_ids=packed.positions)
        states = packed.states
        for layer in self._layers:
            states = layer(states, attention_mask=packed.mask, position_embeddings=turned)
        logits = self._student.model.lm_head(text_model.norm(states.flatten(0, 1)[packed.before])).float()
        losses = functional.cross_entropy(logits, packed.labels, reduction="none")
        counted = packed.weights >= COUNTED
        right = (logits.argmax(-1) == packed.labels)[counted].float().mean()
        return (losses * packed.weights).sum() / packed.weights.sum(), float(right)


def _noisy(held: Held, drawing: torch.Generator) -> Held:
    """A question with a little beside what it was: else tens of thousands of them are learned by heart."""
    states = held.states.float()
    return replace(held, states=states + _NOISE * states.std() * torch.randn(states.shape, generator=drawing))


@dataclass(frozen=True)
class _Packed:
    """Questions as rows of a few each, behind the prefix, with additive masks; `before` are the flat places that predict."""

    states: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    before: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


def _packed(prefix: Prefix, asked: Sequence[Held]) -> _Packed:
    rows = [asked[start : start + _ROW] for start in range(0, len(asked), _ROW)]
    head = len(prefix.states)
    length = head + max(sum(len(each.seen) + len(each.states) for each in row) for row in rows)
    states = torch.zeros(len(rows), length, prefix.states.shape[1])
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    loud = torch.zeros(len(rows), 1, 1, length)
    before, labels, weights = [], [], []
    for number, row in enumerate(rows):
        states[number, :head], positions[:, number, :head], segments[number, :head] = prefix.states, prefix.positions, 0
        begin = head
        for segment, each in enumerate(row, 1):
            middle, end = begin + len(each.seen), begin + len(each.seen) + len(each.states)
            states[number, begin:middle], states[number, middle:end] = each.seen.float(), each.states.float()
            positions[:, number, begin:middle] = each.seen_positions
            positions[:, number, middle:end] = each.begins + torch.arange(end - middle)
            segments[number, begin:end] = segment
            # As much attention as all of the picture's image tokens would get.
            loud[number, 0, 0, begin:middle] = math.log(each.image_tokens / len(each.seen))
            said = each.weights.nonzero().flatten()
            before.append(number * length + middle + said - 1)
            labels.append(each.ids[said])
            weights.append(each.weights[said])
            begin = end
    seen = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    seen = seen & torch.ones(length, length, dtype=torch.bool).tril() & (segments[:, None, :] >= 0)
    seen = (seen | torch.eye(length, dtype=torch.bool)).unsqueeze(1)
    return _Packed(
        states,
        positions,
        torch.where(seen, loud, torch.tensor(float("-inf"))),
        torch.cat(before),
        torch.cat(labels),
        torch.cat(weights),
    )


_QUESTIONS = 14
"""About one picture."""

_MOVED_PERCENT, _FARTHEST = 75, (0.45, 0.5)
"""How many pictures are moved, and how far at most across and along, as parts of the picture."""

_BORDER = 0.005
"""So near to the border of the picture nothing is asked for."""

_MISSED_PERCENT = 12
"""Of the questions that look elsewhere, these are held."""

_SEEN = 12
"""Image tokens that are kept with a question."""

_NOISE = 0.08
"""The spread of the noise, as a part of that of the states."""

_ROW = 6
"""Questions of a row: the prefix is computed once for them."""

_EMPTY_ROUNDS = 2

_GRAIN = 1 << 20
