"""The model of one step loop, on transformers and torch: read a prompt, give one token after the other."""

from collections import Counter
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, Glm4vForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from typing_extensions import override

from autoglm_serving.engines.interface import GenerateRequest, GenerationFailed
from autoglm_serving.engines.options import Dtype, TransformersOptions
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.step_loop import Runner
from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.model.load import ModelImages, load_weights


@dataclass
class Answer:
    """The state of one answer: its cache, the last logits, and what sampling needs."""

    request: GenerateRequest
    cache: DynamicCache
    logits: torch.Tensor
    next_position: int
    generator: torch.Generator | None
    last: int | None = None
    counts: Counter[int] = field(default_factory=Counter)


class TransformersRunner(Runner[Answer]):
    """Made and used in one thread: torch keeps its number of threads per thread."""

    def __init__(self, folder: ModelFolder, images: ModelImages, options: TransformersOptions) -> None:
        torch.set_num_threads(options.threads)
        self._device = _device(options.device)
        self._model: Glm4vForConditionalGeneration = load_weights(
            folder, _dtype(options.dtype, self._device), self._device
        )
        self._images = images
        self._end_ids = frozenset(folder.end_ids)
        try:
            self.self_check()
        except RuntimeError as error:
            raise ModelInvalid(f"{folder.path} was loaded but cannot compute: {error}") from error

    @property
    @override
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    @override
    @torch.inference_mode()
    def start(self, prompt: Prompt, request: GenerateRequest) -> Answer:
        ids = torch.tensor([prompt.expanded()], device=self._device)
        features, grid = self._encode(prompt)
        positions = self._positions(ids, prompt, grid)
        cache = DynamicCache(config=self._model.config.get_text_config())
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            mm_encoder_outputs={"image": features} if features is not None else None,
            use_cache=True,
            logits_to_keep=1,
        )
        return Answer(
            request=request,
            cache=cache,
            logits=output.logits[0, -1],
            next_position=int(positions.max()) + 1,
            generator=_generator(request),
        )

    @override
    @torch.inference_mode()
    def next_token(self, state: Answer) -> int:
        if state.last is not None:
            position = torch.full((3, 1, 1), state.next_position, device=self._device)
            output = self._model(
                input_ids=torch.tensor([[state.last]], device=self._device),
                position_ids=position,
                past_key_values=state.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            state.logits = output.logits[0, -1]
            state.next_position += 1
        state.last = choose(state.logits, state.request, state.counts, state.generator)
        state.counts[state.last] += 1
        return state.last

    @override
    @torch.inference_mode()
    def self_check(self) -> None:
        ids = torch.tensor([[min(self._end_ids)]], device=self._device)
        if not bool(torch.isfinite(self._model(input_ids=ids, use_cache=False).logits).all()):
            raise RuntimeError("the model answers with numbers that are not finite")

    def _encode(self, prompt: Prompt) -> tuple[BaseModelOutputWithPooling | None, torch.Tensor | None]:
        """The vision tower's output, one image after the other: memory is that of the largest image."""
        if not prompt.images:
            return None, None
        features: list[torch.Tensor] = []
        grids: list[torch.Tensor] = []
        for image in prompt.images:
            pixels, grid = self._images.pixels(image, prompt.image_size)
            output = self._model.get_image_features(pixels.to(self._device), grid.to(self._device), return_dict=True)
            features.extend(output.pooler_output)
            grids.append(grid)
        return BaseModelOutputWithPooling(pooler_output=tuple(features)), torch.cat(grids)

    def _positions(self, ids: torch.Tensor, prompt: Prompt, grid: torch.Tensor | None) -> torch.Tensor:
        """(3, 1, length): an image takes as many positions as its longer side has tokens.

        They are passed explicitly, because the model would otherwise keep the offset of the last prompt as its own state
        and use it for another request's tokens.
        """
        kinds = (ids == prompt.image_token_id).int()
        positions: torch.Tensor = self._model.model.get_rope_index(ids, kinds, image_grid_thw=grid)[0]
        return positions


def choose(
    logits: torch.Tensor, request: GenerateRequest, counts: Counter[int], generator: torch.Generator | None
) -> int:
    """The next token. The frequency penalty counts the answer's own tokens, as OpenAI and vLLM define it."""
    scores = logits.float().cpu()
    if not bool(torch.isfinite(scores).all()):
        raise GenerationFailed("the model gave numbers that are not finite")
    if request.frequency_penalty and counts:
        ids = torch.tensor(list(counts))
        scores = scores.index_add(0, ids, torch.tensor([-request.frequency_penalty * n for n in counts.values()]))
    if request.temperature <= 0:
        return int(scores.argmax())
    probabilities = torch.softmax(scores / request.temperature, dim=-1)
    if request.top_p < 1:
        probabilities = _nucleus(probabilities, request.top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the most likely tokens that together reach `top_p`, at least one."""
    ordered, order = probabilities.sort(descending=True)
    ordered[ordered.cumsum(0) - ordered >= max(top_p, 1e-9)] = 0
    return torch.zeros_like(probabilities).scatter(0, order, ordered)


def _generator(request: GenerateRequest) -> torch.Generator | None:
    if request.temperature <= 0:
        return None
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed % 2**63)
    return generator


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(name: Dtype, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen: torch.dtype = getattr(torch, name)
    return chosen
