"""The transformers engine on a real, tiny model."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from PIL import Image
from transformers import AutoProcessor

from autoglm_serving.app.engine_replica import TellsStart
from autoglm_serving.config import AppConfig
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import (
    Engine,
    EngineDead,
    EngineOptionsInvalid,
    EngineOverloaded,
    GenerateRequest,
    PromptRefused,
    PromptTooLong,
)
from autoglm_serving.engines.text import TextStream
from autoglm_serving.engines.transformers_runner import choose
from autoglm_serving.model.errors import ModelInvalid, ModelNotFound
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelTokenizer, load_weights
from support.models import SYSTEM, answer, engine_config, request, screenshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 120


@dataclass(frozen=True)
class Reference:
    """The model as transformers itself runs it: its processor, its `generate`."""

    folder: Path
    processor: Any
    model: Any
    tokenizer: ModelTokenizer

    def ids(self, text: str, image: Image.Image | None, max_new_tokens: int) -> list[int]:
        """The greedy answer, up to and with an end token."""
        placeholder = "<|begin_of_image|><|image|><|end_of_image|>\n" if image is not None else ""
        prompt = self.processor.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": placeholder + text}],
            add_generation_prompt=True,
            tokenize=False,
        )
        images = {"images": [image]} if image is not None else {}
        inputs = self.processor(text=[prompt], return_tensors="pt", **images)
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        ids: list[int] = output[0, inputs.input_ids.shape[1] :].tolist()
        return ids

    def text(self, ids: list[int]) -> str:
        stream = TextStream(self.tokenizer.pieces)
        return stream.push(ids).text + stream.finish()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    torch.set_num_threads(1)  # more threads than free cores wait for each other
    checked = check_folder(folder)
    model = load_weights(checked, torch.float32, torch.device("cpu"))
    return Reference(folder, AutoProcessor.from_pretrained(folder), model, ModelTokenizer(checked))


@asynccontextmanager
async def running(config: AppConfig) -> AsyncIterator[Engine]:
    engine = create_engine(config)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[Engine]:
    async with running(engine_config(folder)) as started:
        yield started


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread brings about."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_start_is_told_by_its_parts(folder: Path) -> None:
    begun = time.monotonic()
    async with running(engine_config(folder)) as started:
        took = time.monotonic() - begun
        assert isinstance(started, TellsStart)
        parts = started.start_seconds()
    assert list(parts) == ["fetch", "imports", "tokenizer", "weights", "warm_up"]
    assert min(parts["weights"], parts["warm_up"]) > 0
    assert took / 2 < sum(parts.values()) <= took


@pytest.mark.parametrize("image", [None, screenshot(), screenshot(300, 500, seed=7)], ids=["text", "image", "larger"])
async def test_greedy_answers_are_the_tokens_of_generate(
    engine: Engine, reference: Reference, image: Image.Image | None
) -> None:
    expected = reference.ids("打开设置 open settings", image, 32)
    text, deltas = await answer(engine, request("打开设置 open settings", image, 32))
    assert len(expected) > 4, "the reference is too short to tell anything"
    assert text == reference.text(expected)
    assert deltas[-1].completion_tokens == len(expected)


async def test_the_answer_depends_on_the_image(engine: Engine) -> None:
    one, _ = await answer(engine, request(image=screenshot()))
    other, _ = await answer(engine, request(image=Image.new("RGB", (196, 392), "blue")))
    assert one != other


async def test_an_answer_comes_in_pieces_and_only_the_last_has_a_finish_reason(engine: Engine) -> None:
    text, deltas = await answer(engine, request(image=screenshot(), max_new_tokens=32))
    assert len(deltas) > 5
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason in ("stop", "length")
    assert {delta.prompt_tokens for delta in deltas} == {deltas[-1].prompt_tokens}
    assert deltas[-1].image_tokens == 98 < deltas[-1].prompt_tokens
    assert "<|" not in text


async def test_two_answers_at_once_are_the_same_as_each_alone(engine: Engine) -> None:
    wanted = [request("打开设置", screenshot(), 40), request("Swipe down, then tap (12,345)", None, 40)]
    alone = [(await answer(engine, one))[0] for one in wanted]
    together = await asyncio.gather(*(answer(engine, one) for one in wanted))
    assert [text for text, _ in together] == alone


async def test_answers_at_once_take_turns(engine: Engine) -> None:
    order: list[int] = []

    async def follow(number: int) -> None:
        async for _ in engine.generate(request(f"number {number}", None, 60)):
            order.append(number)  # noqa: PERF401 - when each is appended is what the test is about

    await asyncio.gather(follow(0), follow(1))
    assert min(Counter(order).values()) > 5
    first_end = min(len(order) - 1 - order[::-1].index(number) for number in (0, 1))
    assert set(order[:first_end]) == {0, 1}, "one answer was finished before the other began"


async def test_closing_the_stream_frees_the_slot_and_the_engine_goes_on(folder: Path) -> None:
    async with running(engine_config(folder, concurrency=1)) as engine:
        stream = engine.generate(_endless())
        await anext(stream)
        assert engine.stats().running == 1
        await stream.aclose()
        stats = engine.stats()
        assert (stats.running, stats.kv_tokens, stats.cancelled_total) == (0, 0, 1)
        _, deltas = await answer(engine, request(max_new_tokens=3))
        assert deltas[-1].finish_reason is not None


async def test_cancelling_the_task_that_reads_frees_the_slot_too(folder: Path) -> None:
    async with running(engine_config(folder, concurrency=1)) as engine:
        reader = asyncio.create_task(answer(engine, _endless()))
        await until(lambda: engine.stats().completion_tokens_total > 2)
        waiter = asyncio.create_task(answer(engine, request(max_new_tokens=3)))
        await until(lambda: engine.stats().waiting == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await waiter
        assert engine.stats().cancelled_total == 1


async def test_one_request_too_many_is_refused_while_the_others_go_on(folder: Path) -> None:
    async with running(engine_config(folder, concurrency=1, queue=1)) as engine:
        first = engine.generate(_endless())
        await anext(first)
        second = asyncio.create_task(answer(engine, request(max_new_tokens=3)))
        await until(lambda: engine.stats().waiting == 1)
        with pytest.raises(EngineOverloaded):
            await answer(engine, request())
        assert engine.stats().refused_total == 1
        await first.aclose()
        _, deltas = await second
        assert deltas[-1].finish_reason is not None


async def test_a_prompt_that_is_too_long_is_refused_before_it_is_read(folder: Path) -> None:
    async with running(engine_config(folder, max_model_len=64)) as engine:
        with pytest.raises(PromptTooLong) as refused:
            await answer(engine, request(image=screenshot()))
        assert refused.value.limit == 64
        assert engine.stats().prompt_tokens_total == 0
        _, deltas = await answer(engine, request("x", max_new_tokens=4096))
        assert deltas[-1].prompt_tokens + deltas[-1].completion_tokens <= 64


async def test_the_pixel_limit_of_a_request_makes_its_image_smaller(engine: Engine) -> None:
    wanted = request(image=screenshot(560, 1120), max_new_tokens=2)
    _, full = await answer(engine, wanted)
    _, limited = await answer(engine, replace(wanted, max_pixels=560 * 1120 // 4))
    assert full[-1].image_tokens == 800
    assert limited[-1].image_tokens == 200


async def test_an_image_of_an_impossible_shape_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptRefused, match="5 x 1200"):
        await answer(engine, request(image=Image.new("RGB", (5, 1200))))


async def test_a_stop_string_ends_the_answer_before_it_and_is_not_shown(engine: Engine) -> None:
    text, _ = await answer(engine, request(image=screenshot(), max_new_tokens=32))
    stop = text[6:9]
    cut, deltas = await answer(engine, replace(request(image=screenshot(), max_new_tokens=32), stop=(stop,)))
    assert cut == text[: text.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert engine.stats().running == 0


async def test_an_end_token_of_the_folder_ends_the_answer_unseen(reference: Reference, tmp_path: Path) -> None:
    ids = reference.ids("打开设置", screenshot(), 16)
    end = next(index for position, index in enumerate(ids) if position >= 3 and index not in ids[:position])
    copy = shutil.copytree(reference.folder, tmp_path / "model")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    async with running(engine_config(copy)) as engine:
        text, deltas = await answer(engine, request(image=screenshot(), max_new_tokens=16))
    kept = ids[: ids.index(end)]
    assert text == reference.text(kept)
    assert (deltas[-1].finish_reason, deltas[-1].completion_tokens) == ("stop", len(kept) + 1)


async def test_sampling_with_a_seed_repeats_and_without_one_does_not(engine: Engine) -> None:
    sampled = replace(request(max_new_tokens=24), temperature=1.0, top_p=0.9, seed=5)
    first, _ = await answer(engine, sampled)
    again, _ = await answer(engine, sampled)
    other, _ = await answer(engine, replace(sampled, seed=6))
    free = {(await answer(engine, replace(sampled, seed=None)))[0] for _ in range(3)}
    assert first == again != other
    assert len(free) == 3


async def test_the_frequency_penalty_lowers_tokens_by_how_often_they_came(engine: Engine) -> None:
    logits = torch.tensor([1.0, 2.0, 1.9])
    wanted = replace(request(), frequency_penalty=0.05)
    assert choose(logits, wanted, Counter(), None) == 1
    assert choose(logits, wanted, Counter({1: 1}), None) == 1
    assert choose(logits, wanted, Counter({1: 3}), None) == 2


async def test_top_p_keeps_the_most_likely_tokens_only(engine: Engine) -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    wanted = replace(request(), temperature=1.0, top_p=0.7)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(choose(logits, wanted, Counter(), generator) for _ in range(300))
    assert set(drawn) == {0, 1}
    only = replace(wanted, top_p=0.0)
    assert {choose(logits, only, Counter(), generator) for _ in range(50)} == {0}


async def test_a_closed_engine_is_dead_and_its_open_answers_end(folder: Path) -> None:
    async with running(engine_config(folder)) as engine:
        await engine.check()
        reader = asyncio.create_task(answer(engine, _endless()))
        await until(lambda: engine.stats().completion_tokens_total > 2)
        await engine.close()
        with pytest.raises(EngineDead):
            await reader
        with pytest.raises(EngineDead, match="closed"):
            await engine.check()
        with pytest.raises(EngineDead):
            await answer(engine, request())


async def test_an_engine_that_was_not_started_is_dead(folder: Path) -> None:
    engine = create_engine(engine_config(folder))
    with pytest.raises(EngineDead, match="not started"):
        await engine.check()
    await engine.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": {"thread": 2}}, r"thread: .*\(options: .*threads, dtype, device"),
        ({"options": {"threads": 0}}, "threads"),
        ({"options": {"device": "toaster"}}, "device"),
        ({"tensor_parallel": 5}, r"spec\.engine\.parallelism\.tensor 5 does not divide .* set it to one of 1, 2, 4"),
        ({"max_model_len": 40_000}, "32768 positions"),
    ],
)
async def test_a_configuration_the_engine_cannot_follow_is_refused_with_the_reason(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    config = engine_config(folder)
    config = config.model_copy(update={"engine": config.engine.model_copy(update=change)})
    with pytest.raises(EngineOptionsInvalid, match=reason):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(running(config))


async def test_a_missing_model_and_a_broken_one_say_so_at_start(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        await create_engine(engine_config(tmp_path / "nothing")).start()
    copy = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    engine = create_engine(engine_config(copy))
    with pytest.raises(ModelInvalid, match="do not fit the architecture"):
        await engine.start()
    await engine.close()


def _endless() -> GenerateRequest:
    """An answer that is still going when the test looks at it: no end token is likely under a high temperature's noise."""
    return replace(request("tell me everything", max_new_tokens=4000), temperature=2.0, seed=1)
