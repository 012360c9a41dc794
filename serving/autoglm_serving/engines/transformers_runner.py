"""The model of one step loop, on transformers and torch: read a prompt in slices, give one token after the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, Glm4vForConditionalGeneration
from typing_extensions import override

from autoglm_serving.engines.gang.part import Part
from autoglm_serving.engines.interface import GenerateRequest, GenerationFailed
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.engines.prefix_cache import ImageSpan, block_names
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.quantised import quantise
from autoglm_serving.engines.shared_cache import MIB
from autoglm_serving.engines.step_loop import Runner
from autoglm_serving.engines.transformers_pictures import Pictures
from autoglm_serving.engines.transformers_prefixes import Prefixes
from autoglm_serving.engines.vision_tower import device, dtype
from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.model.load import load_weights
from autoglm_serving.vision.cache import CacheFigures


@dataclass
class Answer:
    """The state of one answer: what of its prompt is read, its keys and values, and what sampling needs."""

    prompt: Prompt
    request: GenerateRequest
    ids: list[int]
    images: tuple[ImageSpan, ...]
    blocks: tuple[str, ...]
    positions: torch.Tensor
    cache: DynamicCache
    generator: torch.Generator | None
    read: int = 0
    """Tokens of the prompt whose keys and values are in `cache`."""
    reused: int = 0
    """Those of them that came from the prefix cache."""
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    """Features of the images that are being read, by their number."""
    logits: torch.Tensor | None = None
    next_position: int = 0
    last: int | None = None
    counts: Counter[int] = field(default_factory=Counter)


class TransformersRunner(Runner[Answer]):
    """Made and used in one thread: torch keeps its number of threads per thread.

    With a `part` it leads a gang (`gang.lead`): whatever it asks of that part's model, all ranks compute.
    """

    def __init__(
        self, folder: ModelFolder, pictures: Pictures, options: TransformersOptions, part: Part | None = None
    ) -> None:
        part = part or whole(folder, options)
        self._options = options
        self._device = part.device
        self._model = part.model
        self._key_value_heads = part.key_value_heads
        self._prefixes = part.prefixes
        self._pictures = pictures
        self._end_ids = frozenset(folder.end_ids)
        try:
            self.self_check()
        except RuntimeError as error:
            raise ModelInvalid(f"{folder.path} was loaded but cannot compute: {error}") from error

    @property
    @override
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    @property
    def token_bytes(self) -> tuple[int, int]:
        """Bytes of one token here: as a feature of an image, and as keys and values."""
        text = self._model.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        size = int(self._model.dtype.itemsize)
        return text.hidden_size * size, 2 * text.num_hidden_layers * self._key_value_heads * head * size

    @property
    def figures(self) -> Mapping[str, CacheFigures]:
        """What the prefix cache holds and did, counted in blocks; any thread may ask."""
        return {"prefix": self._prefixes.figures}

    @override
    @torch.inference_mode()
    def start(self, prompt: Prompt, request: GenerateRequest) -> Answer:
        ids = prompt.expanded()
        images = _spans(prompt, ids)
        return Answer(
            prompt=prompt,
            request=request,
            ids=ids,
            images=images,
            blocks=self._block_names(prompt, ids, images),
            positions=self._positions(ids, prompt),
            cache=DynamicCache(config=self._model.config.get_text_config()),
            generator=_generator(request),
        )

    @override
    @torch.inference_mode()
    def read(self, state: Answer, others: Sequence[Answer]) -> bool:
        self._reuse(state)
        end = self._chunk_end(state)
        image = self._unseen_image(state, end)
        if image is not None:
            self._see(state, image, others)
            return False
        self._read_chunk(state, end)
        return state.logits is not None

    @override
    def reused(self, state: Answer) -> int:
        return state.reused

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
        assert state.logits is not None
        state.last = choose(state.logits, state.request, state.counts, state.generator)
        state.counts[state.last] += 1
        return state.last

    @override
    @torch.inference_mode()
    def self_check(self) -> None:
        ids = torch.tensor([[min(self._end_ids)]], device=self._device)
        if not bool(torch.isfinite(self._model(input_ids=ids, use_cache=False).logits).all()):
            raise RuntimeError("the model answers with numbers that are not finite")

    def _block_names(self, prompt: Prompt, ids: list[int], images: tuple[ImageSpan, ...]) -> tuple[str, ...]:
        if self._options.prefix_cache_mib == 0:
            return ()
        return block_names(ids, images, prompt.tenant, self._options.prefix_block)

    def _positions(self, ids: list[int], prompt: Prompt) -> torch.Tensor:
        """(3, 1, length): an image takes as many positions as its longer side has tokens.

        They are passed explicitly, because the model would otherwise keep the offset of the last prompt as its own state
        and use it for another request's tokens.
        """
        row = torch.tensor([ids])
        kinds = (row == prompt.image_token_id).int()
        grids = [self._pictures.grid(prompt, index) for index in range(len(prompt.images))]
        grid = torch.tensor(grids) if grids else None
        positions: torch.Tensor = self._model.model.get_rope_index(row, kinds, image_grid_thw=grid)[0]
        return positions.to(self._device)

    def _reuse(self, state: Answer) -> None:
        """Take over the blocks that are known, from where the prompt is read to; at least one token stays to be read."""
        block = self._options.prefix_block
        if state.read % block:
            return
        first, last = state.read // block, (len(state.ids) - 1) // block
        if first >= min(last, len(state.blocks)):
            return
        taken = self._prefixes.reuse(state.cache, state.blocks[first:last])
        state.read += block * taken
        state.reused += block * taken

    def _chunk_end(self, state: Answer) -> int:
        """Chunks end at multiples of their size, so that a prompt is cut at the same places whatever of it is known."""
        chunk = self._options.prefill_chunk
        return min(len(state.ids), (state.read // chunk + 1) * chunk)

    def _unseen_image(self, state: Answer, end: int) -> int | None:
        """The first image with tokens before `end` whose features have to be computed."""
        for index, span in enumerate(state.images):
            if span.end <= state.read:
                state.features.pop(index, None)
            elif span.start < end and index not in state.features:
                known = self._pictures.known(state.prompt, index)
                if known is None:
                    return index
                state.features[index] = known
        return None

    def _see(self, state: Answer, image: int, others: Sequence[Answer]) -> None:
        """Compute the features of one image, and in the same call those of waiting images of its size."""
        group = [(state, image)]
        grid = self._pictures.grid(state.prompt, image)
        room = self._options.vision_batch_tokens - state.images[image].length
        for other in others:
            for index, span in enumerate(other.images):
                fits = span.end > other.read and index not in other.features and span.length <= room
                lacks = fits and self._pictures.lacks(other.prompt, index)
                if lacks and self._pictures.grid(other.prompt, index) == grid:
                    group.append((other, index))
                    room -= span.length
        features = self._pictures.encode(self._model, [(answer.prompt, index) for answer, index in group])
        for answer, index in group:
            answer.features[index] = features[answer.prompt.image_names[index]]

    def _read_chunk(self, state: Answer, end: int) -> None:
        start = state.read
        output = self._model(
            inputs_embeds=self._embedded(state, start, end),
            position_ids=state.positions[:, :, start:end],
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        state.read = end
        self._keep(state, start, end)
        if end == len(state.ids):
            state.logits = output.logits[0, -1]
            state.next_position = int(state.positions.max()) + 1
            state.features.clear()
            state.prompt.pixels.clear()

    def _embedded(self, state: Answer, start: int, end: int) -> torch.Tensor:
        """(1, tokens, width): the tokens' embeddings, an image's features in the place of its tokens."""
        embeddings = self._model.get_input_embeddings()
        vectors: torch.Tensor = embeddings(torch.tensor([state.ids[start:end]], device=self._device))
        for index, span in enumerate(state.images):
            first, last = max(span.start, start), min(span.end, end)
            if first < last:
                part = state.features[index][first - span.start : last - span.start]
                vectors[0, first - start : last - start] = part.to(vectors.device, vectors.dtype)
        return vectors

    def _keep(self, state: Answer, start: int, end: int) -> None:
        """Put the blocks that are whole now into the prefix cache."""
        block = self._options.prefix_block
        names = state.blocks[: end // block]
        if start // block < len(names):
            self._prefixes.keep(state.cache, names, start // block)


def whole(folder: ModelFolder, options: TransformersOptions) -> Part:
    """The model with all its weights in this process."""
    torch.set_num_threads(options.threads)
    chosen = device(options.device)
    model: Glm4vForConditionalGeneration = load_weights(folder, dtype(options.dtype, chosen), chosen)
    quantise(model, options.variant)
    heads = int(model.config.get_text_config().num_key_value_heads)
    return Part(model, chosen, heads, Prefixes(options.prefix_cache_mib * MIB, options.prefix_block))


def _spans(prompt: Prompt, ids: Sequence[int]) -> tuple[ImageSpan, ...]:
    spans: list[ImageSpan] = []
    after = 0
    for length, name in zip(prompt.image_tokens, prompt.image_names, strict=True):
        start = ids.index(prompt.image_token_id, after)
        spans.append(ImageSpan(start, length, name))
        after = start + length
    return tuple(spans)


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
