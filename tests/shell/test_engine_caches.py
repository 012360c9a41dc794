"""The caches of the transformers engine on a real, tiny model: the same tokens with and without, bounded, apart by tenant."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import EncodedPicture, GenerateRequest, ImagePart, Message, Part, TextPart
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.engines.prompt import Prompt, PromptBuilder
from autoglm_serving.engines.shared_cache import MIB
from autoglm_serving.engines.transformers_pictures import CacheBounds, Pictures
from autoglm_serving.engines.transformers_runner import Answer, TransformersRunner
from autoglm_serving.images import ImageSize
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer
from autoglm_serving.resolution import Conditions, choose, pixel_limit
from autoglm_serving.routing_table import ResolutionPolicy
from autoglm_serving.vision.cache import CacheFigures
from support.models import SYSTEM, answer, engine_config, request, screenshot

TOKENS = 4
BLOCK = 16
PICTURES = tuple(screenshot(width, 112, seed) for width, seed in ((56, 1), (56, 2), (84, 3)))


@dataclass
class Model:
    """A runner without its thread: requests in, token ids out."""

    runner: TransformersRunner
    pictures: Pictures
    prompts: PromptBuilder

    def begin(self, wanted: GenerateRequest) -> Answer:
        return self.runner.start(self.pictures.prepared(self.prompts.build(wanted)), wanted)

    def finish(self, state: Answer, others: Sequence[Answer] = ()) -> list[int]:
        while not self.runner.read(state, others):
            pass
        return [self.runner.next_token(state) for _ in range(TOKENS)]

    def ids(self, wanted: GenerateRequest) -> list[int]:
        return self.finish(self.begin(wanted))


def model(folder: Path, bounds: CacheBounds | None = None, **options: int) -> Model:
    checked = check_folder(folder)
    images, tokenizer = ModelImages(checked), ModelTokenizer(checked)
    pictures = Pictures(images, bounds or CacheBounds())
    sizes = {"prefix_block": BLOCK, "prefill_chunk": BLOCK, **options}
    runner = TransformersRunner(checked, pictures, TransformersOptions.model_validate(sizes))
    prompts = PromptBuilder(tokenizer, images.tokens, images.size, checked.image_token_id, 4096)
    return Model(runner, pictures, prompts)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Model:
    return model(folder, CacheBounds(0, 0), prefix_cache_mib=0)


@pytest.fixture(scope="module")
def caching(folder: Path) -> Model:
    return model(folder)


@pytest.fixture(scope="module")
def processor(folder: Path) -> ModelImages:
    return ModelImages(check_folder(folder))


def turn(role: str, text: str, picture: int | None = None) -> Message:
    parts: tuple[Part, ...] = (TextPart(text),)
    if picture is not None:
        parts = (ImagePart(PICTURES[picture]), *parts)
    return Message("user" if role == "user" else "assistant", parts)


def asked(turns: Sequence[Message], tenant: str = "") -> GenerateRequest:
    return GenerateRequest("r", (Message("system", (TextPart(SYSTEM),)), *turns), TOKENS, tenant=tenant)


TURNS = st.lists(st.tuples(st.sampled_from(["点击", "swipe up", "** Screen Info **"]), st.sampled_from([None, 0, 1, 2])),
                 min_size=1, max_size=4)  # fmt: skip


@settings(max_examples=6)
@given(TURNS, st.booleans(), st.integers(0, 12), st.sampled_from(["", "a", "b"]))
def test_every_turn_of_a_conversation_gets_the_same_tokens_with_caches_and_without(
    plain: Model, caching: Model, turns: list[tuple[str, int | None]], keeps_images: bool, slices: int, tenant: str
) -> None:
    """Bit for bit: chunks end at the same places, so the same sums are computed. A cancelled request goes before each."""
    history: list[Message] = []
    for text, picture in turns:
        wanted = asked([*history, turn("user", text, picture)], tenant)
        cancelled = caching.begin(wanted)
        for _ in range(slices):
            if caching.runner.read(cancelled, ()):
                break
        assert caching.ids(wanted) == plain.ids(wanted)
        history += [turn("user", text, picture if keeps_images else None), turn("assistant", "<answer>Tap</answer>")]


@settings(max_examples=4)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=3), st.booleans())
def test_prompts_that_are_read_at_once_get_the_tokens_of_each_alone(
    folder: Path, plain: Model, caching: Model, pictures: list[int], batched: bool
) -> None:
    wanted = [asked([turn("user", f"request {number}", picture)]) for number, picture in enumerate(pictures)]
    states = [caching.begin(one) for one in wanted]
    ready = [False] * len(states)
    while not all(ready):
        for number, state in enumerate(states):
            others = [other for other, done in zip(states, ready, strict=True) if other is not state and not done]
            ready[number] = ready[number] or caching.runner.read(state, others if batched else ())
    answers = [[caching.runner.next_token(state) for _ in range(TOKENS)] for state in states]
    assert answers == [plain.ids(one) for one in wanted]


def test_a_conversation_that_goes_on_reads_only_what_is_new(caching: Model) -> None:
    first = asked([turn("user", "a conversation of its own " * 4, 0)])
    more = asked([*first.messages[1:], turn("assistant", "Tap"), turn("user", "and then", 1)])
    caching.ids(first)
    state = caching.begin(more)
    caching.finish(state)
    known = (len(caching.prompts.build(first).expanded()) - 4) // BLOCK  # all but the opening of the answer
    assert state.reused >= known * BLOCK > 0


def test_a_prompt_that_is_known_to_its_end_still_reads_one_token(caching: Model) -> None:
    wanted = asked([turn("user", "the same again", 2)])
    assert caching.ids(wanted) == caching.ids(wanted)
    state = caching.begin(wanted)
    caching.finish(state)
    assert len(state.ids) - BLOCK <= state.reused < len(state.ids)


def test_an_image_that_is_inside_a_known_prefix_is_not_looked_at_again(folder: Path) -> None:
    fresh = model(folder)
    wanted = asked([turn("user", "look at this, and then tell me at some length what it is", 0)])
    fresh.ids(wanted)
    lookups = fresh.pictures.figures["features"].hits + fresh.pictures.figures["features"].misses
    fresh.ids(wanted)
    figures = fresh.pictures.figures["features"]
    assert figures.hits + figures.misses == lookups


def test_an_image_in_another_conversation_is_encoded_once(folder: Path) -> None:
    fresh = model(folder)
    fresh.ids(asked([turn("user", "one", 0)]))
    fresh.ids(asked([turn("user", "quite another thing before it"), turn("user", "two", 0)]))
    assert fresh.pictures.figures["features"].hits == 1
    assert fresh.pictures.figures["pixels"].misses == 1


def test_the_pixels_of_a_prompt_are_gone_when_it_is_read(plain: Model) -> None:
    """They are many times larger than the features, and an answer's tokens need neither."""
    state = plain.begin(asked([turn("user", "look", 0), turn("assistant", "ok"), turn("user", "look", 1)]))
    prepared = [weakref.ref(each) for each in state.prompt.pixels.values()]
    assert len(prepared) == 2
    plain.finish(state)
    assert [each() for each in prepared] == [None, None]


def test_a_tenant_finds_nothing_of_what_another_has_sent(folder: Path) -> None:
    fresh = model(folder)
    turns = [turn("user", "the same question of both tenants", 0)]
    tokens = fresh.ids(asked(turns, "a"))
    before = {**fresh.runner.figures, **fresh.pictures.figures}
    other = fresh.begin(asked(turns, "b"))
    assert fresh.finish(other) == tokens
    assert other.reused == 0
    after = {**fresh.runner.figures, **fresh.pictures.figures}
    assert {name: figures.hits for name, figures in after.items()} == {
        name: figures.hits for name, figures in before.items()
    }


def test_an_image_limited_to_fewer_pixels_is_another_image(folder: Path) -> None:
    fresh = model(folder)
    large = replace(request("x", screenshot(224, 448), TOKENS), tenant="t")
    small = replace(large, max_pixels=112 * 224)
    alone = fresh.ids(small)
    fresh.ids(large)
    assert fresh.ids(small) == alone
    assert fresh.pictures.figures["features"].entries == 2


def test_no_cache_ever_holds_more_bytes_than_it_may(folder: Path) -> None:
    bounds = CacheBounds(pixels=MIB // 2, features=MIB // 8)
    small = model(folder, bounds, prefix_cache_mib=1)
    figures: Mapping[str, CacheFigures] = {}
    for seed in range(12):
        small.ids(
            asked([turn("user", f"request {seed} " * 20), Message("user", (ImagePart(screenshot(84, 168, seed + 1)),))])
        )
        figures = {**small.runner.figures, **small.pictures.figures}
        assert figures["pixels"].held_bytes <= MIB // 2
        assert figures["features"].held_bytes <= MIB // 8
        assert figures["prefix"].held_bytes <= MIB
    assert all(each.evictions > 0 for each in figures.values()), figures


def test_images_of_one_size_that_wait_go_through_the_tower_together(folder: Path) -> None:
    batching = model(folder, vision_batch_tokens=64)
    states = [batching.begin(asked([turn("user", f"number {number}", number)])) for number in range(3)]
    while not states[0].features:
        assert not batching.runner.read(states[0], states[1:])
    assert 0 in states[1].features, "the second image has the same size"
    assert not states[2].features, "the third has not"


def test_an_image_whose_features_came_with_it_or_are_known_waits_for_no_tower(folder: Path) -> None:
    batching = model(folder, vision_batch_tokens=64)
    begun = batching.begin(asked([turn("user", "known", 0)]))
    while not begun.features:
        batching.runner.read(begun, ())
    (features,) = begun.features.values()
    encoded = ImagePart(EncodedPicture(PICTURES[0].width, PICTURES[0].height, features), "elsewhere")
    waiting = [
        batching.begin(asked([Message("user", (encoded,))])),
        batching.begin(asked([turn("user", "known", 0)])),
    ]
    state = batching.begin(asked([turn("user", "new", 1)]))
    while not state.features:
        assert not batching.runner.read(state, waiting)
    assert not any(each.features for each in waiting)
    assert batching.finish(state, waiting)


def test_a_small_bound_keeps_batches_small(folder: Path) -> None:
    batching = model(folder, vision_batch_tokens=1)
    states = [batching.begin(asked([turn("user", f"number {number}", number)])) for number in range(2)]
    while not states[0].features:
        batching.runner.read(states[0], states[1:])
    assert not states[1].features


def test_a_long_prompt_is_read_in_many_slices(plain: Model) -> None:
    state = plain.begin(asked([turn("user", "a long text " * 60)]))
    slices = 1
    while not plain.runner.read(state, ()):
        slices += 1
    assert slices == -(-len(state.ids) // BLOCK)


def test_large_chunks_give_the_same_numbers_up_to_rounding(folder: Path, plain: Model) -> None:
    large = model(folder, prefill_chunk=1024)
    wanted = asked([turn("user", "some text " * 20, 1)])
    one, other = plain.begin(wanted), large.begin(wanted)
    for each, state in ((plain, one), (large, other)):
        while not each.runner.read(state, ()):
            pass
    assert one.logits is not None
    assert other.logits is not None
    assert (one.logits - other.logits).abs().max() < 1e-3 * other.logits.abs().max()


async def test_the_engine_tells_what_its_caches_did(folder: Path) -> None:
    engine = create_engine(engine_config(folder, prefixBlock=16, prefillChunk=64))
    wanted = request("a question that is asked twice", PICTURES[0], TOKENS)
    try:
        await engine.start()
        first, deltas = await answer(engine, wanted)
        again, known = await answer(engine, wanted)
        stats = engine.stats()
    finally:
        await engine.close()
    assert first == again
    assert {delta.cached_tokens for delta in deltas} == {0}
    (cached,) = {delta.cached_tokens for delta in known}
    assert 0 < cached < known[-1].prompt_tokens
    assert stats.cached_tokens_total == cached
    assert set(stats.caches) == {"pixels", "features", "prefix"}
    assert stats.caches["prefix"].hits == cached // 16


def test_a_resolution_that_moves_by_pixels_finds_the_same_features_as_long_as_the_grid_stays(
    plain: Model, processor: ModelImages
) -> None:
    """The real controller under a load that rises slowly: its limit moves with every request, the grid a few times."""
    policy = ResolutionPolicy(mode="dynamic", min_short_side=112, max_short_side=336)
    screen = ImageSize(336, 672, "png")
    picture = Image.new("RGB", (screen.width, screen.height))
    side: int | None = None
    limits: set[int | None] = set()
    pixels: dict[str, tuple[torch.Tensor, tuple[int, int, int]]] = {}
    for turn in range(120):
        found = choose(policy, Conditions(1.0, turn / 240), side)
        side = found.smoothed
        limit = pixel_limit([screen], found.short_side)
        wanted = replace(asked([Message("user", (ImagePart(picture, "k"),))]), max_pixels=limit)
        prompt = plain.prompts.build(wanted)
        (name,) = prompt.image_names
        read, _ = processor.pixels(picture, prompt.image_size)
        grid = processor.grid(*picture.size, prompt.image_size)
        before = pixels.setdefault(name, (read, grid))
        assert before[1] == grid
        assert torch.equal(before[0], read), "an equal name has to mean equal pixels"
        limits.add(limit)
    assert len(limits) > 4 * len(pixels), "most requests with a new limit find what an earlier one computed"
    assert len(pixels) == len({grid for _, grid in pixels.values()}) > 1, "another grid is another picture"


@pytest.mark.parametrize("shape", [(1080, 2400), (2400, 1080), (333, 777), (56, 56), (60, 9000), (29, 31)])
def test_for_one_picture_as_many_tokens_are_the_same_grid(processor: ModelImages, shape: tuple[int, int]) -> None:
    grids: dict[int, set[tuple[int, int, int]]] = {}
    for limit in [*range(3_000, 60_000, 101), *range(60_000, 4_000_000, 9_973)]:
        size = processor.size.limited_to(limit)
        grids.setdefault(processor.tokens(*shape, size), set()).add(processor.grid(*shape, size))
    assert {len(found) for found in grids.values()} == {1}


def test_a_key_from_the_decoder_is_taken_instead_of_hashing_pixels(plain: Model) -> None:
    def prompt(key: str, picture: Image.Image) -> Prompt:
        return plain.prompts.build(asked([Message("user", (ImagePart(picture, key),))]))

    assert prompt("k", PICTURES[0]).image_names == prompt("k", PICTURES[1]).image_names
    assert prompt("", PICTURES[0]).image_names != prompt("", PICTURES[1]).image_names
