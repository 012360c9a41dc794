"""The model's greedy answers to all tasks of a screen, the picture computed once.

The pixels, the prompt and the positions are those of the transformers engine, so the answers are the served ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.training.gaze import looking_layer
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.vision.modules.attention.maps import eager

_PADDING = 0


@dataclass(frozen=True)
class Reply:
    """An answer, and the probability that the model gives it: the product over its tokens."""

    text: str
    confidence: float
    image_tokens: int


@dataclass(frozen=True)
class Seen:
    """What the language model gets of one picture."""

    tokens: torch.Tensor
    """[n, width], row by row."""
    grid: torch.Tensor
    """[1, 3]: frames, rows and columns of patches that the positions are counted on."""
    kept: tuple[int, ...] | None = None
    """Which places of the grid the tokens have; None: all of them."""
    looked: int = 0
    """Image tokens that were read before, to find out what to keep."""

    @property
    def image_tokens(self) -> int:
        return len(self.tokens) + self.looked


See = Callable[[torch.Tensor, torch.Tensor], Seen]
"""From a picture's patches and their grid to what the language model gets of it."""


@dataclass(frozen=True)
class _Asked:
    """What rows of prompts bring beside their cache: ids and positions (rows, length), and what may be looked at."""

    cache: DynamicCache
    ids: torch.Tensor
    seen: torch.Tensor
    positions: torch.Tensor

    def followed_by(self, chosen: torch.Tensor) -> "_Asked":
        """One more token (rows) in each row; the cache has what came before."""
        seen = torch.cat([self.seen, torch.ones_like(chosen).unsqueeze(1)], 1)
        return replace(self, ids=chosen.unsqueeze(1), seen=seen, positions=self.positions[:, -1:] + 1)


class Replier:
    """Answers questions about pictures. `see` may replace the model's own way to see, see `model`."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        checked = check_folder(folder)
        self._device = torch.device(device)
        self.model: Any = load_weights(checked, torch.float32, self._device)
        self.see: See = self._whole
        self._images = ModelImages(checked)
        self._tokenizer = ModelTokenizer(checked)
        self._prompts = Prompts(self._tokenizer)
        self._end_ids = torch.tensor(checked.end_ids, device=self._device)

    def tokens(self, image: Image, max_pixels: int | None) -> int:
        """Image tokens of a picture under a pixel limit."""
        return self._images.tokens(image.width, image.height, self._images.size.limited_to(max_pixels))

    @torch.inference_mode()
    def answers(
        self, image: Image, instructions: Sequence[str], max_pixels: int | None = None, max_new_tokens: int = 48
    ) -> list[Reply]:
        """One answer for each instruction."""
        if not instructions:
            return []
        return self.answers_about(self.see(*self.pixels(image, max_pixels)), instructions, max_new_tokens)

    def pixels(self, image: Image, max_pixels: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of a picture under a pixel limit, and their grid."""
        pixels, grid = self._images.pixels(image, self._images.size.limited_to(max_pixels))
        return pixels.to(self._device), grid.to(self._device)

    @torch.inference_mode()
    def answers_about(self, seen: Seen, instructions: Sequence[str], max_new_tokens: int = 48) -> list[Reply]:
        """One answer for each instruction about a picture that is seen already."""
        texts, confidences = self._decode(self._asked(seen, instructions), max_new_tokens)
        return [Reply(text, sure, seen.image_tokens) for text, sure in zip(texts, confidences, strict=True)]

    @torch.inference_mode()
    def looks(self, seen: Seen, instructions: Sequence[str]) -> torch.Tensor:
        """[instructions, image tokens]: the attention that the end of each question gives to the picture.

        It is that of the layer which is taught to look at the element asked for (`gaze`), the mean over its heads.
        """
        asked = self._asked(seen, instructions)
        first = len(self._prompts.before(0))
        text = self.model.model.language_model
        with eager(self.model.config.text_config, text.config):
            attention = self._step(asked, output_attentions=True).attentions[looking_layer(text.layers)]
        found: torch.Tensor = attention[:, :, -1, first : first + len(seen.tokens)].mean(1)
        return found

    def prompt(self, instruction: str, image_tokens: int) -> torch.Tensor:
        """[1, length]: the whole prompt of one question."""
        ids = [*self._prompts.before(image_tokens), *self._prompts.after(instruction)]
        return torch.tensor([ids], device=self._device)

    def tokens_of(self, grid: torch.Tensor) -> int:
        """Image tokens of a grid of patches."""
        return int(grid.prod()) // int(self.model.config.vision_config.spatial_merge_size) ** 2

    def _whole(self, pixels: torch.Tensor, grid: torch.Tensor) -> Seen:
        """As the model itself sees."""
        output = self.model.get_image_features(pixels, grid, return_dict=True)
        return Seen(torch.cat(tuple(output.pooler_output)), grid)

    def _prefix(self, seen: Seen) -> tuple[DynamicCache, int]:
        """The cache of system text and picture, and the position that comes next."""
        ids = torch.tensor([self._prompts.before(self.tokens_of(seen.grid))], device=self._device)
        kinds = (ids == self._prompts.image_id).int()
        positions = self.model.model.get_rope_index(ids, kinds, image_grid_thw=seen.grid)[0]
        following = int(positions.max()) + 1
        if seen.kept is not None:
            columns = _columns(kinds[0], seen.kept)
            ids, positions = ids[:, columns], positions[:, :, columns]
        cache = DynamicCache(config=self.model.config.get_text_config())
        self.model.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=(seen.tokens,))},
            use_cache=True,
        )
        return cache, following

    def _asked(self, seen: Seen, instructions: Sequence[str]) -> _Asked:
        """Questions about one picture, each in a row that follows the same cache."""
        cache, position = self._prefix(seen)
        prompts = [self._prompts.after(instruction) for instruction in instructions]
        cache.batch_repeat_interleave(len(prompts))
        return _Asked(cache, *self._filled(cache, position, prompts))

    def _step(self, asked: _Asked, **more: Any) -> Any:
        """One pass of the language model over what its cache does not have yet."""
        return self.model(
            input_ids=asked.ids,
            position_ids=asked.positions.expand(3, -1, -1),
            attention_mask=asked.seen,
            past_key_values=asked.cache,
            use_cache=True,
            logits_to_keep=1,
            **more,
        )

    def _decode(self, asked: _Asked, max_new_tokens: int) -> tuple[list[str], list[float]]:
        rows = len(asked.ids)
        written: list[torch.Tensor] = []
        ended = torch.zeros(rows, dtype=torch.bool, device=self._device)
        logs = torch.zeros(rows, device=self._device)
        for _ in range(max_new_tokens):
            sure, chosen = self._step(asked).logits[:, -1].float().log_softmax(-1).max(-1)
            logs += sure.masked_fill(ended, 0.0)
            ended = ended | torch.isin(chosen, self._end_ids)
            written.append(chosen.masked_fill(ended, -1))
            if bool(ended.all()):
                break
            asked = asked.followed_by(chosen)
        texts = [self._text(row) for row in torch.stack(written, 1).tolist()]
        return texts, logs.exp().tolist()

    def _filled(
        self, cache: DynamicCache, position: int, prompts: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, what may be looked at, and positions of prompts that follow the cache.

        Shorter prompts are filled up at the left, where nothing looks; their positions are as without it.
        """
        longest = max(map(len, prompts))
        gaps = torch.tensor([longest - len(prompt) for prompt in prompts], device=self._device).unsqueeze(1)
        ids = torch.tensor(
            [[_PADDING] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self._device
        )
        places = torch.arange(longest, device=self._device).unsqueeze(0)
        seen = torch.cat(
            [torch.ones(len(prompts), cache.get_seq_length(), device=self._device).long(), (places >= gaps).long()], 1
        )
        return ids, seen, (position + places - gaps).clamp(min=0)

    def _text(self, ids: Sequence[int]) -> str:
        return b"".join(self._tokenizer.pieces[index] for index in ids if index >= 0).decode(errors="replace")


def _columns(is_image: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """The places of a prompt without the image tokens that are not kept."""
    places = torch.arange(len(is_image), device=is_image.device)
    image = places[is_image.bool()]
    return torch.cat([places[: image[0]], image[list(kept)], places[image[-1] + 1 :]])
