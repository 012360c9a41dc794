"""The merger learns alone what image tokens shall tell: the letters and symbols that they show, and the place of these.

What is told of a place is that of the letters in an image token, not of its own middle: a token is a twelfth of a phone's
width, and many elements are less high than one. Without the language model behind it a step of hundreds of tokens, drawn
from all pictures, costs what a third of one picture costs with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.grounding.asking import merged
from autoglm_serving.training.grounding.kept import View
from autoglm_serving.training.grounding.recipe import Grounding, rate_at
from autoglm_serving.training.network import Student
from autoglm_serving.training.spelling import letter_directions, place_codes_at, place_directions


@dataclass(frozen=True)
class Tokens:
    """Image tokens: what the merger gets of each, and what it shall make of it."""

    patches: torch.Tensor
    """[tokens, patches of one, width]"""
    letters: torch.Tensor
    """[tokens, directions of letters]: the sum of the codes of what it shows."""
    spots: torch.Tensor
    """[tokens, 2]: the place that it shall tell, 0 to 1."""
    full: torch.Tensor
    """[tokens]: whether it shows anything."""

    def of(self, chosen: torch.Tensor) -> "Tokens":
        """Some of them."""
        return Tokens(*(each[chosen] for each in vars(self).values()))


def tokens(student: Student, view: View) -> Tokens:
    """All image tokens of a view."""
    codes, signs = student.codes.detach(), view.signs
    shows = signs.patches[signs.places] // view.patches.shape[1]
    letters = codes.new_zeros(len(view.patches), codes.shape[1])
    letters.index_add_(0, shows, codes[signs.signs] * signs.loud.unsqueeze(1))
    return Tokens(view.patches, letters, view.spots, view.full)


def loss_of(features: torch.Tensor, wanted: Tokens) -> torch.Tensor:
    """How far image tokens [tokens, width] are from what they shall tell, and how much they tell beside it."""
    among_letters, among_places = letter_directions(features.shape[1]), place_directions(features.shape[1])
    letters, places, full = features @ among_letters.T, features @ among_places.T, wanted.full
    rest = features - letters @ among_letters - places @ among_places
    total = features.square().sum(1).detach() + 1e-3
    quiet = letters.square().sum(1) / total
    loss = _PLACED * _mean(
        1 - functional.cosine_similarity(places, place_codes_at(wanted.spots)), torch.where(full, 1.0, _EMPTY_COUNTS)
    )
    if full.any():
        loss = loss + 2 * (1 - functional.cosine_similarity(letters[full], wanted.letters[full] + 1e-4)).mean()
    if not full.all():
        loss = loss + quiet[~full].mean()
    silent = functional.relu(_LEAST_PLACE - places.square().sum(1) / total).mean()
    return loss + 0.2 * ((rest.square().sum(1) / total).mean() + 4 * silent)


class Merging:
    """Lets a student's merger learn from tokens that are drawn once from views: all full ones, some empty ones."""

    def __init__(self, student: Student, views: Sequence[View], recipe: Grounding) -> None:
        self._student, self._recipe = student, recipe
        drawing = torch.Generator().manual_seed(recipe.seed)
        parts = []
        for view in views:
            everything = tokens(student, view)
            kept = everything.full | (torch.rand(len(everything.full), generator=drawing) < _EMPTY_KEPT)
            parts.append(everything.of(kept.nonzero().flatten()))
        self._tokens = Tokens(
            *(torch.cat(each) for each in zip(*(tuple(vars(part).values()) for part in parts), strict=True))
        )
        visual = student.model.model.visual
        self._parameters = [*visual.downsample.parameters(), *visual.merger.parameters()]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.01, betas=(0.9, 0.98))
        self._length = self._usual_length()

    def step(self, number: int) -> float:
        """Learn from tokens drawn for the step with this number; returns the loss."""
        lesson = self._recipe.merging
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(lesson, number)
        drawing = torch.Generator().manual_seed(Dice(self._recipe.seed, "merging", number).below(1 << 62))
        drawn = self._tokens.of(torch.randint(len(self._tokens.full), (lesson.each,), generator=drawing))
        loss = loss_of(merged(self._student, drawn.patches), drawn)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def settle(self) -> None:
        """Make image tokens as long again as they were: the loss knows directions alone, and attention is used to lengths."""
        last = self._student.model.model.visual.merger.down_proj
        last.weight.mul_(self._length / self._usual_length())

    @torch.no_grad()
    def _usual_length(self) -> float:
        some = self._tokens.of(torch.arange(min(len(self._tokens.full), _MEASURED)))
        return float(merged(self._student, some.patches).norm(dim=1).mean().clamp(min=1e-6))


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum()


_PLACED = 4.0
"""How much a place counts beside the letters."""

_EMPTY_COUNTS = 0.3
"""How much the place of an empty token counts."""

_LEAST_PLACE = 0.25
"""The part of an image token's length that its place must have."""

_EMPTY_KEPT = 0.3
"""Of the image tokens that show nothing."""

_MEASURED = 4096
"""Tokens whose length is measured."""
