"""AutoGLM-Tiny and requests to it, for tests of real engines."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from autoglm_serving.config import AppConfig, EngineConfig, EngineName, Limits, ModelConfig
from autoglm_serving.engines.interface import (
    Delta,
    Engine,
    GenerateRequest,
    ImagePart,
    Message,
    Part,
    TextPart,
)

PLACES, WAITING = 2, 1
"""Requests that an engine of tests runs and lets wait, where that matters."""
SYSTEM = "今天的日期是2026年1月1日。你是一个智能手机操作助手。"


def engine_config(
    folder: Path,
    name: EngineName = "transformers",
    *,
    concurrency: int = 4,
    queue: int = 8,
    max_model_len: int = 4096,
    **options: str | float,
) -> AppConfig:
    """A configuration that loads the model in `folder`."""
    return AppConfig(
        deployment="default/tiny",
        uid="uid",
        revision="r1",
        model=ModelConfig(name="autoglm-tiny", uri=folder.as_uri()),
        engine=EngineConfig(name=name, max_concurrency=concurrency, max_model_len=max_model_len, options=options),
        limits=Limits(max_queue=queue),
    )


def screenshot(width: int = 196, height: int = 392, seed: int = 1) -> Image.Image:
    """A small picture with structure, the same on every machine: 98 tokens at its default size."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * seed % 256, (x + y) * 3 % 256, y * 5 % 256) for y in range(height) for x in range(width)])
    return image


def conversation(text: str, image: Image.Image | None = None) -> tuple[Message, ...]:
    """A system prompt and one user turn."""
    parts: tuple[Part, ...] = (TextPart(text),)
    if image is not None:
        parts = (ImagePart(image), *parts)
    return Message("system", (TextPart(SYSTEM),)), Message("user", parts)


def request(text: str = "打开设置", image: Image.Image | None = None, max_new_tokens: int = 24) -> GenerateRequest:
    """A greedy request."""
    return GenerateRequest("request-1", conversation(text, image), max_new_tokens)


def endless() -> GenerateRequest:
    """An answer that is still going when the test looks at it: no end token is likely under a high temperature's noise."""
    return replace(request("tell me everything", max_new_tokens=3000), temperature=2.0, seed=1)


async def answer(engine: Engine, wanted: GenerateRequest) -> tuple[str, list[Delta]]:
    """The whole text, and the deltas it came in."""
    deltas = [delta async for delta in engine.generate(wanted)]
    return "".join(delta.text for delta in deltas), deltas
