"""AutoGLM-Tiny while it learns: its start, and the losses of a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.model.tiny import build
from autoglm_serving.training import telling
from autoglm_serving.training.batches import Batch
from autoglm_serving.training.gaze import looking_layer, looks
from autoglm_serving.training.read import LetterReader, Read, nothing_read
from autoglm_serving.training.recipe import Network, Recipe
from autoglm_serving.training.spelling import letter_directions, reader, start_codes


@dataclass(frozen=True)
class Losses:
    """`total` is what is minimised; the others are for the log.

    `looks` is how far attention is from the elements asked for, `found` how often it is highest at one, `places` how far what
    then arrives is from their places, `right` the share of right tokens among those that the picture decides.
    """

    total: torch.Tensor
    letters: float
    spelling: float
    tokens: float
    answer: float = 0.0
    looks: float = 0.0
    found: float = 0.0
    places: float = 0.0
    right: float = 0.0


def write_start(folder: Path, network: Network, seed: int) -> None:
    """Write a model folder with fresh weights of these sizes."""
    text_head = network.text_width // network.text_heads
    pairs = ROTATED // 2
    time = pairs // 4
    height = (pairs - time) // 2
    build(
        folder,
        seed,
        text={
            "hidden_size": network.text_width,
            "intermediate_size": network.text_mlp_width,
            "num_hidden_layers": network.text_layers,
            "num_attention_heads": network.text_heads,
            "num_key_value_heads": network.text_heads,
            "initializer_range": network.weight_std,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,  # positions turn by rows and columns of a picture, not by pages of text
                "partial_rotary_factor": ROTATED / text_head,
                "mrope_section": [pairs - 2 * height, height, height],
            },
        },
        vision={
            "patch_size": network.patch_side,
            "spatial_merge_size": network.merged_side,
            "depth": network.vision_layers,
            "hidden_size": network.vision_width,
            "num_heads": network.vision_heads,
            "intermediate_size": network.merger_width,
            "out_hidden_size": network.text_width,
            "initializer_range": network.weight_std,
        },
    )


def compute_as_products(model: Glm4vForConditionalGeneration, seen: dict[str, torch.Tensor]) -> None:
    """Let the tower's two convolutions, whose kernels never overlap, run as matrix products: the same numbers, sooner.

    `seen` gets what the patches tell before they are merged: [patches, width] as "patches".
    """
    tower = model.model.visual

    def embed(patches: torch.Tensor) -> torch.Tensor:
        kernel = tower.patch_embed.proj
        return functional.linear(patches.to(kernel.weight.dtype), kernel.weight.flatten(1), kernel.bias)

    def merge(blocks: torch.Tensor) -> torch.Tensor:
        kernel = tower.downsample
        seen["patches"] = blocks.permute(0, 2, 3, 1).flatten(0, 2)
        return functional.linear(blocks.flatten(1), kernel.weight.flatten(1), kernel.bias)

    tower.patch_embed.forward = embed
    tower.downsample.forward = merge


class Student(nn.Module):
    """The model, what is asked of its parts, and helpers that only training has: which letters and texts are here.

    They say with every picture what the answers' few digits say only late: the end of a question shall look at the element
    that it asks for; where texts are known, each patch is asked for the letters in it and for their spelling, and each image
    token for the spelling of all that it shows and for its place.
    """

    def __init__(self, model: Glm4vForConditionalGeneration, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.network.text_width
        self.model = model
        self.recipe = recipe
        self._per_token = recipe.network.patches_per_token
        self.letters = LetterReader(recipe.network.vision_width)
        self.spelling = nn.Linear(recipe.network.vision_width, width)
        with torch.no_grad():
            self.spelling.weight.copy_(reader(recipe.network.vision_width, width))
            self.codes = nn.Parameter(start_codes(width))
        self._directions = letter_directions(width)
        self._seen: dict[str, torch.Tensor] = {}
        compute_as_products(model, self._seen)

    def forward(self, batch: Batch, tower: bool = True, perfect: bool = False) -> Losses:
        """The losses of a batch. Without `tower` only the language model learns.

        With `perfect` it learns from what a reader of the known texts would see, and the tower does not look at all.
        """
        model = self.model.model
        if perfect:
            features = self._perfect(batch)
            read = nothing_read(features)
        else:
            with torch.set_grad_enabled(tower):
                features = torch.cat(model.get_image_features(batch.pixels, batch.grid, return_dict=True).pooler_output)
                read = self._read(batch, features)
        if not len(batch.targets):  # nothing is asked: the language model has nothing to learn here
            return Losses(read.total(self.recipe), **read.figures())
        embedded = model.get_input_embeddings()(batch.ids)
        is_image = batch.ids == model.config.image_token_id
        embedded = embedded.masked_scatter(is_image.unsqueeze(-1), features.to(embedded.dtype))
        positions = self.positions(batch)
        output = model.language_model(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=batch.mask,
            use_cache=False,
            output_hidden_states=True,
        )
        answer, right = self._answers(batch, output.last_hidden_state)
        looking = looking_layer(model.language_model.layers)
        looked, found = looks(model.language_model, output.hidden_states[looking], positions, batch, is_image)
        places = self._arrived(batch, output.hidden_states, looking)
        learned = answer + self.recipe.looks_weight * looked + self.recipe.places_weight * places
        return Losses(
            total=learned + read.total(self.recipe),
            **read.figures(),
            answer=float(answer.detach()),
            looks=float(looked.detach()),
            found=found,
            places=float(places.detach()),
            right=right,
        )

    def _arrived(self, batch: Batch, states: tuple[torch.Tensor, ...], looking: int) -> torch.Tensor:
        """Nothing where the looking layer is the last one: what that says is normed, and the answer's already."""
        if looking + 2 >= len(states) or not len(batch.codes):
            return states[0].sum() * 0
        return telling.arrived(states[looking + 1], batch)

    def tell(self, batch: Batch) -> Losses:
        """The losses of a batch without pictures, of which only the layers after the looking one learn."""
        model = self.model.model.language_model
        added = telling.places(batch)
        nothing = nothing_read(added)
        if not len(batch.targets):
            return Losses(nothing.total(self.recipe), **nothing.figures())
        with telling.given(model.layers[looking_layer(model.layers)], added):
            output = model(
                inputs_embeds=model.embed_tokens(batch.ids),
                position_ids=telling.positions(batch, self.recipe.network.merged_side),
                attention_mask=batch.mask,
                use_cache=False,
            )
        answer, right = self._answers(batch, output.last_hidden_state)
        return Losses(answer, **nothing.figures(), answer=float(answer.detach()), right=right)

    def _spelled(self, batch: Batch) -> torch.Tensor:
        """[patches, width]: how what each patch of `batch.told` shows is spelled. The codes learn in their own stage only."""
        return batch.told.spelled(self.codes.detach()) @ self._directions.to(self.codes.device)

    def _read(self, batch: Batch, features: torch.Tensor) -> Read:
        if not len(batch.read):
            return nothing_read(features)
        patches, spelled = batch.told.patches, self._spelled(batch)
        # A patch owes its part of its image token's code too: the merger begins as the sum of its patches.
        beside = spelled + batch.codes[patches // self._per_token] / self._per_token
        told = self.spelling(self._seen["patches"][patches]).float()
        return Read(
            letters=self._letters(batch, features),
            spelling=(told - beside).square().sum(1).mean(),
            tokens=self._tokens(batch, features.float(), spelled),
        )

    def _perfect(self, batch: Batch) -> torch.Tensor:
        """[image tokens, width]: spellings and codes of places, with slips: letters taken for others, and noise."""
        patches, spelled = batch.told.patches, self._spelled(batch)
        # Drawn where a checkpoint keeps the generator's state: on the CPU.
        slips = torch.rand(len(spelled)) < _SLIPS * torch.rand(1)
        others = spelled[torch.randperm(len(spelled)).to(spelled.device)]
        said = torch.where(slips.unsqueeze(1).to(spelled.device), others, spelled)
        whole = torch.zeros_like(batch.codes).index_add(0, patches // self._per_token, said)
        return whole + batch.codes + _NOISE * torch.randn(whole.shape).to(whole.device)

    def _tokens(self, batch: Batch, features: torch.Tensor, spelled: torch.Tensor) -> torch.Tensor:
        """How far image tokens are from the sums of their patches' spellings and their places' codes, and in direction."""
        tokens = batch.told.patches // self._per_token
        whole = torch.zeros_like(features).index_add(0, tokens, spelled)[batch.read]
        beside = features[batch.read] - batch.codes[batch.read]
        loss = (beside - whole).square().sum(1).mean() / _USUAL_SPELLING
        full = whole.norm(dim=1) > _SAYS_SOMETHING
        if full.any():
            loss = loss + 1 - functional.cosine_similarity(beside[full], whole[full]).mean()
        return loss

    def positions(self, batch: Batch) -> torch.Tensor:
        """As the model itself counts them; every question begins at the position after the picture."""
        kinds = (batch.ids == self.model.config.image_token_id).int()
        inside = (batch.segments == 0).long()
        positions: torch.Tensor = self.model.model.get_rope_index(
            batch.ids, kinds, image_grid_thw=batch.grid, attention_mask=inside
        )[0]
        after = positions.masked_fill(inside.unsqueeze(0) == 0, -1).amax(dim=(0, 2)) + 1
        return torch.where(inside.bool(), positions, (after.unsqueeze(1) + batch.offsets).unsqueeze(0))

    def _answers(self, batch: Batch, states: torch.Tensor) -> tuple[torch.Tensor, float]:
        before = states.flatten(0, 1)[batch.targets - 1]
        labels = batch.ids.flatten()[batch.targets]
        logits = self.model.lm_head(before).float()
        losses = functional.cross_entropy(logits, labels, reduction="none")
        counted = batch.weights >= COUNTED
        right = (logits.argmax(-1) == labels)[counted].float().mean()
        return (losses * batch.weights * batch.scales).sum() / batch.weights.sum().clamp(min=1e-6), float(right)

    def _letters(self, batch: Batch, features: torch.Tensor) -> torch.Tensor:
        slots, numbers = batch.letters
        if len(slots) == 0:
            return features.sum() * 0
        return functional.cross_entropy(self.letters(self._seen["patches"], slots).float(), numbers)


_USUAL_SPELLING = 4.0
"""About the squared length of the spelling of an image token full of letters."""

_SAYS_SOMETHING = 0.5
"""Image tokens with shorter spellings have no direction."""

_SLIPS, _NOISE = 0.3, 0.05
"""Of a reader's letters, at most so many taken for others; the spread of each number of its image tokens."""

ROTATED = 32
"""Dimensions of a head that positions turn, whatever its size: the others compare what is said, and cannot be enough."""

COUNTED = 0.5
"""Accuracy counts the tokens that the picture decides."""


def parameters_of(student: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay, norms, biases and embeddings do not."""
    named = [(name, each) for name, each in student.named_parameters() if each.requires_grad]
    decays = [each for name, each in named if each.ndim > 1 and "embed" not in name]
    others = [each for name, each in named if each.ndim <= 1 or "embed" in name]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
