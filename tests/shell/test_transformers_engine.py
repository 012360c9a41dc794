"""What the transformers engine alone has, on a real, tiny model; what every engine does is in `test_vllm_and_transformers`."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoglm_serving.app.engine_replica import TellsStart
from autoglm_serving.config import AppConfig
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import Engine, EngineDead, PromptTooLong
from autoglm_serving.engines.transformers_runner import choose
from autoglm_serving.model.errors import ModelInvalid
from support.models import answer, endless, engine_config, request, screenshot
from support.processes import until
from support.reference import Reference


@asynccontextmanager
async def running(config: AppConfig) -> AsyncIterator[Engine]:
    engine = create_engine(config)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


async def test_the_start_is_told_by_its_parts(folder: Path) -> None:
    begun = time.monotonic()
    async with running(engine_config(folder)) as started:
        took = time.monotonic() - begun
        assert isinstance(started, TellsStart)
        parts = started.start_seconds()
    assert list(parts) == ["fetch", "imports", "tokenizer", "weights", "warm_up"]
    assert min(parts["weights"], parts["warm_up"]) > 0
    assert took / 2 < sum(parts.values()) <= took


async def test_an_answer_ends_where_prompt_and_answer_are_as_long_as_is_allowed(folder: Path) -> None:
    async with running(engine_config(folder, max_model_len=64)) as engine:
        with pytest.raises(PromptTooLong):
            await answer(engine, request(image=screenshot()))
        _, deltas = await answer(engine, request("x", max_new_tokens=4096))
        assert deltas[-1].prompt_tokens + deltas[-1].completion_tokens <= 64


async def test_an_end_token_of_the_folder_ends_the_answer_unseen(folder: Path, tmp_path: Path) -> None:
    reference = Reference.of(folder)
    ids = reference.ids("打开设置", screenshot(), 16)
    end = next(index for position, index in enumerate(ids) if position >= 3 and index not in ids[:position])
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    async with running(engine_config(copy)) as engine:
        text, deltas = await answer(engine, request(image=screenshot(), max_new_tokens=16))
    kept = ids[: ids.index(end)]
    assert text == reference.text(kept)
    assert (deltas[-1].finish_reason, deltas[-1].completion_tokens) == ("stop", len(kept) + 1)


def test_the_frequency_penalty_lowers_tokens_by_how_often_they_came() -> None:
    logits = torch.tensor([1.0, 2.0, 1.9])
    wanted = replace(request(), frequency_penalty=0.05)
    assert choose(logits, wanted, Counter(), None) == 1
    assert choose(logits, wanted, Counter({1: 1}), None) == 1
    assert choose(logits, wanted, Counter({1: 3}), None) == 2


def test_top_p_keeps_the_most_likely_tokens_only() -> None:
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
        reader = asyncio.create_task(answer(engine, endless()))
        await until(lambda: engine.stats().completion_tokens_total > 2, "it is answering")
        await engine.close()
        with pytest.raises(EngineDead):
            await reader
        with pytest.raises(EngineDead, match="closed"):
            await engine.check()
        with pytest.raises(EngineDead):
            await answer(engine, request())


async def test_a_broken_model_says_so_at_start(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    engine = create_engine(engine_config(copy))
    with pytest.raises(ModelInvalid, match="do not fit the architecture"):
        await engine.start()
    await engine.close()
