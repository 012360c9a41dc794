"""A `glm4v` model with another way to see: what every variant of an ablation can be asked."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoglm_serving.vision.modules.crop import CropRule, TokenSaving
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.modules.fused_tower import Encoded, FusedTower, Plan
from autoglm_serving.vision.modules.look import Glance, Look
from autoglm_serving.vision.modules.pictures import Model, with_crops, with_masks, with_pictures
from autoglm_serving.vision.modules.rewriting import Inputs


@dataclass(frozen=True)
class Flops:
    """Of one forward pass over a batch, a multiply-add as two."""

    vision: int
    """Until the image tokens are there."""
    language: int

    @property
    def total(self) -> int:
        """Both."""
        return self.vision + self.language


class Variant(nn.Module, ABC):
    """Takes what the model takes (`input_ids`, `pixel_values`, `image_grid_thw`, ...) and gives what it gives."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def encode(self, inputs: Inputs) -> Inputs:
        """The inputs with image tokens in place of pixels; prompts, positions and labels rewritten to fit their number."""

    @abstractmethod
    def image_tokens(self, inputs: Inputs) -> list[int]:
        """Image tokens that the language model reads for each picture, all passes together."""

    def prepare(self, inputs: Inputs) -> Inputs:
        """The keyword arguments that the model is called with."""
        return inputs if inputs.get("pixel_values") is None else self.encode(inputs)

    def forward(self, **inputs: Any) -> Any:
        """The model's output. With fewer image tokens the rows are shorter: `prepare` gives the labels that fit."""
        return self.model(**self.prepare(inputs))

    @torch.no_grad()
    def generate(self, inputs: Inputs, **generation: Any) -> Tensor:
        """The new tokens only, [B, new]. `generation` holds the arguments of transformers' generate."""
        prepared = self.prepare({name: value for name, value in inputs.items() if name != "labels"})
        out: Tensor = self.model.generate(**prepared, **generation)
        return out[:, prepared["input_ids"].shape[1] :]

    def flops(self, inputs: Inputs) -> Flops:
        """Counted by running it, see `count_flops`."""
        found: list[Inputs] = []
        vision = count_flops(lambda: found.append(self.encode(inputs)))
        return Flops(vision, count_flops(lambda: self.model(**found[0])))


class FusedVariant(Variant):
    """The model with a `FusedTower` between its vision tower and its language model."""

    def __init__(self, model: Model, tower: FusedTower) -> None:
        super().__init__(model)
        self.tower = tower

    def pictures(self, pixel_values: Tensor, grid_thw: Tensor) -> Sequence[Encoded]:
        """Image tokens alone, for a caller that builds its own sequences."""
        encoded: Sequence[Encoded] = self.tower(self.model.model.visual, pixel_values, grid_thw)
        return encoded

    def encode(self, inputs: Inputs) -> Inputs:
        return with_pictures(self.model, inputs, self.pictures(inputs["pixel_values"], inputs["image_grid_thw"]))

    def image_tokens(self, inputs: Inputs) -> list[int]:
        side = self.model.model.visual.spatial_merge_size
        return [rows * columns for rows, columns in self.tower.grids(inputs["image_grid_thw"], side)]


class Baseline(FusedVariant):
    """The model as it is: called with the inputs as they are. Only what is counted goes through the tower's steps."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, FusedTower(Plan()))

    def prepare(self, inputs: Inputs) -> Inputs:
        return inputs


class CroppedVariant(Variant):
    """The model with only the image tokens of the part of the screen that attention points to.

    The tokens keep the positions they have in the whole screen, so answers stay in screen coordinates. No new parameters. The
    article on compression and scaling, section 2.2: an attention map, a threshold, the smallest box, 37 % less to compute.
    """

    def __init__(self, model: Model, look: Look, rule: CropRule) -> None:
        super().__init__(model)
        self.look = look
        self.rule = rule

    def glance(self, inputs: Inputs) -> Glance:
        """What the crop decides, as data: a box for each picture and the tokens in it."""
        return self.look(self.model, with_masks(self.model, inputs), self.rule)

    def encode(self, inputs: Inputs) -> Inputs:
        glance = self.glance(inputs)
        return with_crops(self.model, inputs, glance.crops, glance.tokens)

    @torch.no_grad()
    def savings(self, inputs: Inputs) -> list[TokenSaving]:
        """Image tokens of each picture without and with the crop, the tokens of a first look counted in."""
        glance = self.glance(inputs)
        pairs = zip(glance.crops, glance.looked, strict=True)
        return [TokenSaving(crop.saving.before, crop.saving.after + looked) for crop, looked in pairs]

    def image_tokens(self, inputs: Inputs) -> list[int]:
        return [saving.after for saving in self.savings(inputs)]
