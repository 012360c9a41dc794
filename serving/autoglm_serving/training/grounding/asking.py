"""Questions about a kept picture as the tensors of a batch, and what the language model's lower layers make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from autoglm_serving.model.load import ModelTokenizer
from autoglm_serving.training.batches import Batch, collate
from autoglm_serving.training.examples import FRAME_WEIGHT, Asked, pack, token_weights
from autoglm_serving.training.grounding.kept import View
from autoglm_serving.training.grounding.spots import Spot
from autoglm_serving.training.network import Student
from autoglm_serving.training.prompts import Prompts


class Asker:
    """Puts questions into the model's own chat template, behind one picture."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._prompts = Prompts(tokenizer)

    def batch(self, view: View, asked: Sequence[Spot]) -> Batch:
        """One row: the picture, and all that is asked about it."""
        row = pack(self._prompts.before(view.window.tokens), [self._asked(spot) for spot in asked])
        return collate([row], [1.0], torch.zeros(0), view.grid)

    def _asked(self, spot: Spot) -> Asked:
        answer = self._tokenizer.encode(spot.answer)
        return Asked(
            prompt=tuple(self._prompts.after(spot.instruction)),
            answer=(*answer, self._prompts.end_id),
            weights=(*token_weights(spot.answer, answer, self._tokenizer.pieces), FRAME_WEIGHT),
            cells=spot.cells,
        )


@dataclass(frozen=True)
class Lower:
    """What the lower layers say. `states` [1, length, width] for each layer, what enters it; the last is what they leave."""

    states: tuple[torch.Tensor, ...]
    positions: torch.Tensor
    is_image: torch.Tensor


def merged(student: Student, patches: torch.Tensor) -> torch.Tensor:
    """[image tokens, width]: what the merger makes of patches [image tokens, patches of one, width of the tower]."""
    visual = student.model.model.visual
    kernel = visual.downsample
    blocks = patches.float().permute(0, 2, 1).flatten(1)
    found: torch.Tensor = visual.merger(functional.linear(blocks, kernel.weight.flatten(1), kernel.bias))
    return found


def lower(student: Student, batch: Batch, features: torch.Tensor, layers: int) -> Lower:
    """The first layers of the language model on a batch whose picture's image tokens are `features`."""
    text_model = student.model.model.language_model
    embedded = student.model.model.get_input_embeddings()(batch.ids)
    is_image = batch.ids == student.model.config.image_token_id
    states = [embedded.masked_scatter(is_image.unsqueeze(-1), features.to(embedded.dtype))]
    positions = student.positions(batch)
    turned = text_model.rotary_emb(states[0], position_ids=positions)
    for layer in text_model.layers[:layers]:
        states.append(layer(states[-1], attention_mask=batch.mask, position_embeddings=turned))
    return Lower(tuple(states), positions, is_image)
