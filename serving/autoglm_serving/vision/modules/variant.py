"""A `glm4v` model with another way to see: what every variant of an ablation can be asked."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoglm_serving.vision.modules.crop import CropRule, TokenSaving
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.modules.fused_tower import FusedTower, still_grids
from autoglm_serving.vision.modules.look import Glance, Look
from autoglm_serving.vision.modules.pictures import Model, with_crops, with_features, with_masks, with_pictures
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


class Variant(nn.Module):
    """The model as it is. Takes what the model takes (`image_grid_thw`, ... from the processor) and gives what it gives."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        """The model's output. With fewer image tokens the sequence is shorter: see `prepare` for the labels that fit."""
        return self.model(**self.prepare(**inputs))

    def prepare(self, **inputs: Any) -> Inputs:
        """The inputs as the model is called with: pictures encoded, prompts and labels rewritten to fit."""
        return inputs

    def generate(self, *, generation: dict[str, Any], **inputs: Any) -> Tensor:
        """The new tokens only, [B, new]. `generation` holds the arguments of transformers' generate."""
        prepared = self.prepare(**{name: value for name, value in inputs.items() if name != "labels"})
        out: Tensor = self.model.generate(**prepared, **generation)
        return out[:, prepared["input_ids"].shape[1] :]

    def image_tokens(self, **inputs: Any) -> list[int]:
        """Image tokens that the language model reads for each picture, all passes together."""
        side = self.model.model.visual.spatial_merge_size
        return [height * width // side**2 for height, width in still_grids(inputs["image_grid_thw"])]

    def flops(self, **inputs: Any) -> Flops:
        """Counted by running it: see `count_flops`."""
        found: list[Inputs] = []
        vision = count_flops(lambda: found.append(self._encoded(**inputs)))
        return Flops(vision, count_flops(lambda: self.model(**found[0])))

    def _encoded(self, **inputs: Any) -> Inputs:
        """As `prepare`, always with the pictures encoded."""
        features = self.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        return with_features(inputs, features.pooler_output)


class FusedVariant(Variant):
    """The model with a `FusedTower` between its vision tower and its language model."""

    def __init__(self, model: Model, tower: FusedTower) -> None:
        super().__init__(model)
        self.tower = tower

    def prepare(self, **inputs: Any) -> Inputs:
        if inputs.get("pixel_values") is None:
            return inputs
        encoded = self.tower(self.model.model.visual, inputs["pixel_values"], inputs["image_grid_thw"])
        return with_pictures(self.model, inputs, encoded)

    def image_tokens(self, **inputs: Any) -> list[int]:
        side = self.model.model.visual.spatial_merge_size
        return [rows * columns for rows, columns in self.tower.grids(inputs["image_grid_thw"], side)]

    def _encoded(self, **inputs: Any) -> Inputs:
        return self.prepare(**inputs)


class CroppedVariant(Variant):
    """The model with only the image tokens of the part of the screen that attention points to.

    The tokens keep the positions they have in the whole screen, so answers stay in screen coordinates. No new parameters. The
    article on compression and scaling, section 2.2: an attention map, a threshold, the smallest box, 37 % less to compute.
    """

    def __init__(self, model: Model, look: Look, rule: CropRule) -> None:
        super().__init__(model)
        self.look = look
        self.rule = rule

    def prepare(self, **inputs: Any) -> Inputs:
        if inputs.get("pixel_values") is None:
            return inputs
        glance = self.glance(**inputs)
        return with_crops(self.model, inputs, glance.crops, glance.tokens)

    def glance(self, **inputs: Any) -> Glance:
        """What the crop decides on, as data: a box for each picture and the tokens in it."""
        return self.look(self.model, with_masks(self.model, inputs), self.rule)

    def savings(self, **inputs: Any) -> list[TokenSaving]:
        """Image tokens of each picture without and with the crop, the tokens of a first look counted in."""
        with torch.no_grad():
            glance = self.glance(**inputs)
        pairs = zip(glance.crops, glance.looked, strict=True)
        return [TokenSaving(crop.saving.before, crop.saving.after + looked) for crop, looked in pairs]

    def image_tokens(self, **inputs: Any) -> list[int]:
        return [saving.after for saving in self.savings(**inputs)]

    def _encoded(self, **inputs: Any) -> Inputs:
        return self.prepare(**inputs)
