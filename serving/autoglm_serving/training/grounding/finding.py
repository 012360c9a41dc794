"""Merger and lower layers learn to find: image tokens tell what they show and where, questions look where their name is.

What is told of a place is that of the letters in an image token, not of its own middle: a token is a twelfth of a phone's
width, and many elements are less high than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.gaze import LOOKING_LAYER, looks
from autoglm_serving.training.grounding.asking import Asker, Lower, lower, merged
from autoglm_serving.training.grounding.kept import View
from autoglm_serving.training.grounding.recipe import Grounding, rate_at
from autoglm_serving.training.grounding.spots import Spot, findable
from autoglm_serving.training.network import Student
from autoglm_serving.training.spelling import letter_directions, place_codes_at, place_directions

LAYERS = LOOKING_LAYER + 1
"""How many layers are the lower ones."""


@dataclass(frozen=True)
class Found:
    """The loss, and of the questions: -log of the attention that goes where the name is, and how often it is highest there."""

    total: torch.Tensor
    looks: float = 0.0
    found: float = 0.0


class Finder:
    """Lets a student's merger and lower layers learn from kept pictures."""

    def __init__(self, student: Student, asker: Asker, recipe: Grounding) -> None:
        self._student, self._asker, self._recipe = student, asker, recipe
        width = student.recipe.network.text_width
        self._letters, self._places = letter_directions(width), place_directions(width)
        visual = student.model.model.visual
        self._merger = [*visual.downsample.parameters(), *visual.merger.parameters()]
        self._lower = _lower_parameters(student)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": self._merger, "part": 1.0, "weight_decay": 0.01},
                {"params": self._lower, "part": recipe.lower_rate, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
        )

    def step(self, views: Sequence[View], number: int) -> Found:
        """Learn from the views of the step with this number."""
        lesson = self._recipe.finding
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(lesson, number) * group["part"]
        self._optimizer.zero_grad(set_to_none=True)
        learned = []
        for place in range(lesson.each):
            dice = Dice(self._recipe.seed, "finding", number, place)
            view = dice.pick(views)
            one = self.loss(view, findable(view.screen, view.window, _QUESTIONS, dice))
            (one.total / lesson.each).backward()  # type: ignore[no-untyped-call]
            learned.append(one)
        for parameters in (self._merger, self._lower):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimizer.step()
        return Found(
            torch.stack([each.total.detach() for each in learned]).mean(),
            sum(each.looks for each in learned) / len(learned),
            sum(each.found for each in learned) / len(learned),
        )

    def loss(self, view: View, asked: Sequence[Spot]) -> Found:
        """Of one view: what its image tokens tell, and where questions look."""
        features = merged(self._student, view)
        total = self._told(view, features)
        if not asked:
            return Found(total)
        batch = self._asker.batch(view, asked)
        said = lower(self._student, batch, features, LAYERS)
        looked, found = looks(
            self._student.model.model.language_model, said.states[LOOKING_LAYER], said.positions, batch, said.is_image
        )
        total = total + looked + _ARRIVED * self._arrived(said, [place for _, place, _ in batch.asks], asked)
        return Found(total, float(looked.detach()), found)

    def _told(self, view: View, features: torch.Tensor) -> torch.Tensor:
        """How far image tokens are from the letters that they show and their place, and how much they tell beside these."""
        letters, places = features @ self._letters.T, features @ self._places.T
        rest = features - letters @ self._letters - places @ self._places
        total = features.square().sum(1).detach() + 1e-3
        quiet = letters.square().sum(1) / total
        shown, full = self._shown(view), view.full
        loss = _PLACED * _mean(
            1 - functional.cosine_similarity(places, place_codes_at(view.spots)), torch.where(full, 1.0, 0.3)
        )
        if full.any():
            loss = loss + 2 * (1 - functional.cosine_similarity(letters[full], shown[full] + 1e-4)).mean()
        if not full.all():
            loss = loss + quiet[~full].mean()
        silent = functional.relu(_LEAST_PLACE - places.square().sum(1) / total).mean()
        return loss + 0.2 * ((rest.square().sum(1) / total).mean() + 4 * silent)

    def _shown(self, view: View) -> torch.Tensor:
        """[image tokens, directions of letters]: the sums of the codes of what each shows."""
        per_token = view.patches.shape[1]
        codes = self._student.codes.detach()
        signs = view.signs
        tokens = signs.patches[signs.places] // per_token
        return codes.new_zeros(len(view.patches), codes.shape[1]).index_add(
            0, tokens, codes[signs.signs] * signs.loud.unsqueeze(1)
        )

    def _arrived(self, said: Lower, ends: Sequence[int], asked: Sequence[Spot]) -> torch.Tensor:
        """How far the place that arrives at the end of a question, and at the mark after it, is from the right one."""
        wanted = place_codes_at(torch.tensor([spot.place for spot in asked if spot.cells]))
        left = said.states[-1][0]
        loss = left.sum() * 0
        for before in (1, 0):
            arrived = left[[end - before for end in ends]] @ self._places.T
            loss = loss + _PLACED * (1 - functional.cosine_similarity(arrived, wanted)).mean()
        return loss


def _lower_parameters(student: Student) -> list[Any]:
    """What compares and hands on in the lower layers. What tokens are, and how words are spelled, stays."""
    layers, found = student.model.model.language_model.layers, []
    for number in range(LAYERS):
        attention = layers[number].self_attn
        found += [*attention.q_proj.parameters(), *attention.k_proj.parameters()]
        if number == LOOKING_LAYER:
            found += [attention.v_proj.weight, attention.o_proj.weight]
        found.append(layers[number].post_self_attn_layernorm.weight)
    return found


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum()


_QUESTIONS = 18
"""About one picture."""

_PLACED, _ARRIVED = 4.0, 0.5
"""How much a place counts that is told, and one that arrives, beside the attention."""

_LEAST_PLACE = 0.25
"""The part of an image token's length that its place must have."""
