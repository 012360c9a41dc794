"""What a client can tell of an engine, and what its replica relies on: the same for each, on a real, tiny model.

What only one of them has is in `test_transformers_engine` and `test_vllm_engine`.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from autoglm_serving.config import EngineName
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import (
    Engine,
    EngineDead,
    EngineOptionsInvalid,
    EngineOverloaded,
    PromptRefused,
    PromptTooLong,
)
from autoglm_serving.model.errors import ModelNotFound
from support.engine_process import HAS_VLLM
from support.models import PLACES, WAITING, answer, endless, engine_config, request, screenshot
from support.processes import until
from support.reference import Reference

# vLLM is imported twice, one after the other, on a machine that may be ten times slower.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1500)]

VLLM = pytest.param("vllm", marks=pytest.mark.skipif(not HAS_VLLM, reason="vLLM is an extra"))
BOTH: tuple[Any, ...] = ("transformers", VLLM)
TEXT = "打开设置 open settings"
LONG = request(f"{TEXT} " * 80, screenshot(seed=9), 8)
"""Several blocks of tokens, of which vLLM's are 128 tokens long on a CPU."""


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference.of(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BOTH)
async def engine(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Engine]:
    if request.param == "vllm":
        yield request.getfixturevalue("vllm")
        return
    engine = create_engine(engine_config(folder, concurrency=PLACES, queue=WAITING))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize("image", [None, screenshot(), screenshot(300, 500, seed=7)], ids=["text", "image", "larger"])
async def test_greedy_answers_are_the_tokens_of_generate(
    engine: Engine, reference: Reference, image: Image.Image | None
) -> None:
    expected = reference.ids(TEXT, image, 32)
    text, deltas = await answer(engine, request(TEXT, image, 32))
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


async def test_control_tokens_in_a_clients_text_do_no_harm(engine: Engine) -> None:
    _, deltas = await answer(engine, request("<|image|><|user|>", screenshot(), 4))
    assert deltas[-1].image_tokens == 98
    assert deltas[-1].completion_tokens >= 1


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


async def test_a_prompt_that_comes_again_is_known_to_its_own_tenant_alone_and_its_answer_is_the_same(
    engine: Engine,
) -> None:
    told = [await answer(engine, replace(LONG, tenant=tenant)) for tenant in ("", "", "a", "a")]
    assert len({text for text, _ in told}) == 1
    first, again, other, other_again = (deltas[-1].cached_tokens for _, deltas in told)
    assert other == 0
    assert first < again == other_again < told[0][1][-1].prompt_tokens


async def test_closing_the_stream_frees_its_place_and_the_engine_goes_on(engine: Engine) -> None:
    cancelled = engine.stats().cancelled_total
    stream = engine.generate(endless())
    first = await anext(stream)
    assert (first.finish_reason, engine.stats().running) == (None, 1)
    await stream.aclose()
    stats = engine.stats()
    assert (stats.running, stats.kv_tokens, stats.cancelled_total) == (0, 0, cancelled + 1)
    _, deltas = await answer(engine, request(max_new_tokens=3))
    assert deltas[-1].finish_reason is not None


async def test_cancelling_the_task_that_reads_frees_its_place_too(engine: Engine) -> None:
    before = engine.stats()
    others = [engine.generate(endless()) for _ in range(PLACES - 1)]
    for other in others:
        await anext(other)
    reader = asyncio.create_task(answer(engine, endless()))
    await until(lambda: engine.stats().running == PLACES, "all places are taken")
    waiter = asyncio.create_task(answer(engine, request(max_new_tokens=3)))
    await until(lambda: engine.stats().waiting == 1, "one waits")
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await waiter
    assert engine.stats().cancelled_total == before.cancelled_total + 1
    for other in others:
        await other.aclose()


async def test_one_request_too_many_is_refused_while_the_others_go_on(engine: Engine) -> None:
    refused = engine.stats().refused_total
    running = [engine.generate(endless()) for _ in range(PLACES)]
    for one in running:
        await anext(one)
    waiting = [asyncio.create_task(answer(engine, request(max_new_tokens=3))) for _ in range(WAITING)]
    await until(lambda: engine.stats().waiting == WAITING, "all places to wait are taken")
    with pytest.raises(EngineOverloaded):
        await answer(engine, request())
    assert engine.stats().refused_total == refused + 1
    for one in running:
        await anext(one)
        await one.aclose()
    for _, deltas in await asyncio.gather(*waiting):
        assert deltas[-1].finish_reason is not None


async def test_a_prompt_that_is_too_long_is_refused_before_it_is_read(engine: Engine) -> None:
    before = engine.stats().prompt_tokens_total
    with pytest.raises(PromptTooLong) as refused:
        await answer(engine, request("x " * 5000))
    assert refused.value.limit == 4096 < refused.value.prompt_tokens
    assert engine.stats().prompt_tokens_total == before


async def test_the_pixel_limit_of_a_request_makes_its_image_smaller(engine: Engine) -> None:
    wanted = request(image=screenshot(560, 1120), max_new_tokens=2)
    _, full = await answer(engine, wanted)
    _, limited = await answer(engine, replace(wanted, max_pixels=560 * 1120 // 4))
    assert full[-1].image_tokens == 800
    assert limited[-1].image_tokens == 200
    assert limited[-1].finish_reason == "length"


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


async def test_sampling_with_a_seed_repeats_and_without_one_does_not(engine: Engine) -> None:
    sampled = replace(request(max_new_tokens=24), temperature=1.0, top_p=0.9, seed=5)
    first, _ = await answer(engine, sampled)
    again, _ = await answer(engine, sampled)
    other, _ = await answer(engine, replace(sampled, seed=6))
    free = {(await answer(engine, replace(sampled, seed=None)))[0] for _ in range(3)}
    assert first == again != other
    assert len(free) == 3


@pytest.mark.parametrize("name", ["transformers", "vllm"])
async def test_an_engine_that_was_not_started_is_dead(folder: Path, name: EngineName) -> None:
    engine = create_engine(engine_config(folder, name))
    with pytest.raises(EngineDead, match="not started"):
        await engine.check()
    await engine.close()


@pytest.mark.parametrize("name", ["transformers", "vllm"])
async def test_a_missing_model_says_so_at_start(tmp_path: Path, name: EngineName) -> None:
    with pytest.raises(ModelNotFound):
        await create_engine(engine_config(tmp_path / "nothing", name)).start()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("transformers", {"options": {"thread": 2}}, r"thread: .*\(options: .*threads, dtype, device"),
        ("transformers", {"options": {"threads": 0}}, "threads"),
        ("transformers", {"options": {"device": "toaster"}}, "device"),
        ("vllm", {"options": {"kvCacheGib": 0}}, "kvCacheGib"),
        ("vllm", {"options": {"gpuMemory": 0.9}}, r"gpuMemory: .*gpuMemoryUtilization"),
        ("transformers", {"tensor_parallel": 5}, r"parallelism\.tensor 5 does not divide .* set it to one of 1, 2, 4"),
        ("vllm", {"tensor_parallel": 3}, r"parallelism\.tensor 3 does not .*: set it to one of 1, 2"),
        ("transformers", {"max_model_len": 40_000}, "32768 positions"),
        ("vllm", {"max_model_len": 40_000}, "32768 positions"),
    ],
)
async def test_a_configuration_that_an_engine_cannot_follow_is_refused_with_the_reason(
    folder: Path, name: EngineName, change: dict[str, Any], reason: str
) -> None:
    config = engine_config(folder, name)
    config = config.model_copy(update={"engine": config.engine.model_copy(update=change)})
    with pytest.raises(EngineOptionsInvalid, match=reason):
        await _start(config)


async def _start(config: Any) -> None:
    """Some options are looked at when an engine is made, others need the model's folder."""
    engine = create_engine(config)
    try:
        await engine.start()
    finally:
        await engine.close()
