"""Merger and lower layers learn to find: questions look where their name is, and the place that is told there arrives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.gaze import LOOKING_LAYER, looks
from autoglm_serving.training.grounding.asking import Asker, Lower, lower, merged
from autoglm_serving.training.grounding.kept import View
from autoglm_serving.training.grounding.merging import loss_of, tokens
from autoglm_serving.training.grounding.recipe import Grounding, rate_at
from autoglm_serving.training.grounding.spots import Spot, findable
from autoglm_serving.training.network import Student
from autoglm_serving.training.spelling import place_codes_at, place_directions

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
        self._places = place_directions(width)
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
        features = merged(self._student, view.patches)
        total = loss_of(features, tokens(self._student, view))
        if not asked:
            return Found(total)
        batch = self._asker.batch(view, asked)
        said = lower(self._student, batch, features, LAYERS)
        looked, found = looks(
            self._student.model.model.language_model, said.states[LOOKING_LAYER], said.positions, batch, said.is_image
        )
        total = total + looked + _ARRIVED * self._arrived(said, [place for _, place, _ in batch.asks], asked)
        return Found(total, float(looked.detach()), found)

    def _arrived(self, said: Lower, ends: Sequence[int], asked: Sequence[Spot]) -> torch.Tensor:
        """How far the place that arrives at the end of a question, and at the mark after it, is from the right one."""
        wanted = place_codes_at(torch.tensor([spot.place for spot in asked if spot.cells]))
        left = said.states[-1][0]
        loss = left.sum() * 0
        for before in (1, 0):
            arrived = left[[end - before for end in ends]] @ self._places.T
            loss = loss + (1 - functional.cosine_similarity(arrived, wanted)).mean()
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


_QUESTIONS = 18
"""About one picture."""

_ARRIVED = 2.0
"""How much a place that arrives counts beside the attention."""
