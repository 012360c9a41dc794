"""Types of keys and values in the engines: what a token takes, and whether the answers stay the same.

For each arm an engine with the trained model answers the tasks of some committed test screens, one after the other: vLLM
with `kvCacheDtype`, and the transformers engine, whose keys and values have the `dtype` of its model. What an engine
refuses is told in its row. The first arm of each engine is what the others are compared with. Options: `--engine`,
`--screens`, `--short-side`, `--model`.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, table

from autoglm_serving.config import AppConfig, EngineConfig, EngineName, Limits, ModelConfig, OptionValue
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import (
    Engine,
    EngineOptionsInvalid,
    GenerateRequest,
    ImagePart,
    Message,
    TextPart,
)
from autoglm_serving.images import ImageSize
from autoglm_serving.resolution import pixel_limit
from autoglm_serving.screens.records import Screen, Task
from autoglm_serving.screens.scoring import score
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.examples import SYSTEM
from support.processes import engine_cores, processor_s

SCREENS = Path("data/screens-test")
GIB = 2**30
NEW_TOKENS = 48
ARMS: tuple[tuple[EngineName, dict[str, str]], ...] = (
    ("vllm", {}),
    ("vllm", {"kvCacheDtype": "fp8_e4m3"}),
    ("vllm", {"kvCacheDtype": "fp8_e5m2"}),
    ("vllm", {"dtype": "bfloat16"}),
    ("vllm", {"kvCacheDtype": "float16"}),
    ("vllm", {"kvCacheDtype": "int8_per_token_head"}),
    ("transformers", {}),
    ("transformers", {"dtype": "bfloat16"}),
    ("transformers", {"dtype": "float16"}),
    ("transformers", {"kvCacheDtype": "fp8"}),
)


@dataclass(frozen=True)
class Asked:
    screen: Screen
    task: Task
    request: GenerateRequest


@dataclass(frozen=True)
class Measured:
    """`token_bytes`: keys and values of one token, all layers. `seconds`: processor time of an answer."""

    token_bytes: int
    texts: tuple[str, ...]
    right: int
    seconds: float


def questions(screens: Screens, number: int, short_side: int) -> list[Asked]:
    found = []
    for screen in screens.items[:number]:
        picture = screens.decoded(screen)
        limit = pixel_limit([ImageSize(screen.width, screen.height, "png")], short_side)
        for task in screen.tasks:
            parts = (ImagePart(picture, screen.id), TextPart(task.instruction))
            messages = (Message("system", (TextPart(SYSTEM),)), Message("user", parts))
            found.append(Asked(screen, task, GenerateRequest(task.id, messages, NEW_TOKENS, max_pixels=limit)))
    return found


def config(uri: str, name: EngineName, options: Mapping[str, OptionValue]) -> AppConfig:
    return AppConfig(
        deployment="default/kv",
        uid="uid",
        revision="r1",
        model=ModelConfig(name="autoglm", uri=uri),
        engine=EngineConfig(name=name, max_concurrency=4, max_model_len=4096, options=dict(options)),
        limits=Limits(),
    )


def token_bytes(engine: Any) -> int:
    """By vLLM's own count of what fits into its memory; of transformers by the tensors' type."""
    if hasattr(engine, "_llm"):
        cache: Any = engine._llm.vllm_config.cache_config
        return int(cache.kv_cache_memory_bytes) // int(cache.num_gpu_blocks * cache.block_size)
    return int(engine._runner.token_bytes[1])


async def answers(engine: Engine, asked: list[Asked]) -> Measured:
    await engine.start()
    try:
        begun = _processor_s()
        texts = ["".join([delta.text async for delta in engine.generate(each.request)]) for each in asked]
        used = _processor_s() - begun
        right = sum(score(each.screen, each.task, text).right for each, text in zip(asked, texts, strict=True))
        return Measured(token_bytes(engine), tuple(texts), right, used / len(asked))
    finally:
        await engine.close()


def _processor_s() -> float:
    return time.process_time() + sum(processor_s(pid) for pid in engine_cores(os.getpid()))


def row(name: EngineName, options: dict[str, str], found: Measured | str, base: Measured | None) -> list[str]:
    head = [name, ", ".join(f"{key}: {value}" for key, value in options.items()) or "as it is"]
    if isinstance(found, str) or base is None:
        return [*head, str(found), "", "", "", ""]
    same = sum(one == other for one, other in zip(found.texts, base.texts, strict=True))
    number = len(found.texts)
    return [
        *head,
        f"{found.token_bytes} bytes ({found.token_bytes / base.token_bytes:.2f})",
        f"{GIB // found.token_bytes:,}",
        f"{same} of {number}",
        f"{found.right} of {number}",
        f"{found.seconds / base.seconds:.2f} ({1000 * found.seconds:.0f} ms)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin://autoglm-tiny-grounded", help="URI of the model")
    parser.add_argument("--engine", choices=["vllm", "transformers"], help="only this one")
    parser.add_argument("--screens", type=int, default=4)
    parser.add_argument("--short-side", type=int, default=336)
    wanted = parser.parse_args()
    machine = describe()
    asked = questions(open_screens(SCREENS), wanted.screens, wanted.short_side)
    rows, bases = [], dict[EngineName, Measured]()
    for name, options in ARMS:
        if wanted.engine not in (None, name):
            continue
        found: Measured | str
        try:
            found = asyncio.run(answers(create_engine(config(wanted.model, name, options)), asked))
            bases.setdefault(name, found)
        except EngineOptionsInvalid as error:
            found = f"refused: {error}"
        rows.append(row(name, options, found, bases.get(name)))
        print(" | ".join(rows[-1]), flush=True)
    print(
        f"\n{machine}; {wanted.model}, short side {wanted.short_side}, {len(asked)} tasks of {wanted.screens} screens\n"
    )
    columns = ["engine", "options", "keys and values of a token", "tokens in 1 GiB", "same answer", "right"]
    print(table([*columns, "processor time of an answer"], rows))


if __name__ == "__main__":
    main()
