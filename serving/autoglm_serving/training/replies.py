"""The model's greedy answers to all tasks of a screen, the picture computed once.

The pixels, the prompt and the positions are those of the transformers engine, so the answers are the served ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from transformers import DynamicCache

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.training.prompts import Prompts

_PADDING = 0


@dataclass(frozen=True)
class Reply:
    """An answer, and the probability that the model gives it: the product over its tokens."""

    text: str
    confidence: float
    image_tokens: int


class Replier:
    """Answers questions about pictures."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        checked = check_folder(folder)
        self._device = torch.device(device)
        self._model = load_weights(checked, torch.float32, self._device)
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
        pixels, grid = self._images.pixels(image, self._images.size.limited_to(max_pixels))
        image_tokens = int(grid.prod()) // 4
        cache, position = self._prefix(pixels.to(self._device), grid.to(self._device), image_tokens)
        prompts = [self._prompts.after(instruction) for instruction in instructions]
        cache.batch_repeat_interleave(len(prompts))
        texts, confidences = self._decode(cache, position, prompts, max_new_tokens)
        return [Reply(text, sure, image_tokens) for text, sure in zip(texts, confidences, strict=True)]

    def _prefix(self, pixels: torch.Tensor, grid: torch.Tensor, image_tokens: int) -> tuple[DynamicCache, int]:
        """The cache of system text and picture, and the position that comes next."""
        ids = torch.tensor([self._prompts.before(image_tokens)], device=self._device)
        features = self._model.get_image_features(pixels, grid, return_dict=True)
        kinds = (ids == self._prompts.image_id).int()
        positions = self._model.model.get_rope_index(ids, kinds, image_grid_thw=grid)[0]
        cache = DynamicCache(config=self._model.config.get_text_config())
        self._model.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            mm_encoder_outputs={"image": features},
            use_cache=True,
        )
        return cache, int(positions.max()) + 1

    def _decode(
        self, cache: DynamicCache, position: int, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> tuple[list[str], list[float]]:
        """Shorter prompts are filled up at the left, where nothing looks; their positions are as without it."""
        longest = max(map(len, prompts))
        gaps = torch.tensor([longest - len(prompt) for prompt in prompts], device=self._device).unsqueeze(1)
        ids = torch.tensor(
            [[_PADDING] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self._device
        )
        places = torch.arange(longest, device=self._device).unsqueeze(0)
        seen = torch.cat(
            [torch.ones(len(prompts), cache.get_seq_length(), device=self._device).long(), (places >= gaps).long()], 1
        )
        positions = (position + places - gaps).clamp(min=0)
        written: list[torch.Tensor] = []
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=self._device)
        logs = torch.zeros(len(prompts), device=self._device)
        for _ in range(max_new_tokens):
            output = self._model(
                input_ids=ids,
                position_ids=positions.expand(3, -1, -1),
                attention_mask=seen,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            sure, chosen = output.logits[:, -1].float().log_softmax(-1).max(-1)
            logs += sure.masked_fill(ended, 0.0)
            ended = ended | torch.isin(chosen, self._end_ids)
            written.append(chosen.masked_fill(ended, -1))
            if bool(ended.all()):
                break
            ids = chosen.unsqueeze(1)
            positions = positions[:, -1:] + 1
            seen = torch.cat([seen, torch.ones(len(prompts), 1, device=self._device).long()], 1)
        texts = [self._text(row) for row in torch.stack(written, 1).tolist()]
        return texts, logs.exp().tolist()

    def _text(self, ids: Sequence[int]) -> str:
        return b"".join(self._tokenizer.pieces[index] for index in ids if index >= 0).decode(errors="replace")
