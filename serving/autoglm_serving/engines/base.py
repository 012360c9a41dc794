"""What all engines share: admission, prompts, text rules, cancellation, figures. An engine adds the tokens."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.admission import Admission
from autoglm_serving.engines.interface import (
    Delta,
    Engine,
    EngineDead,
    EngineOptionsInvalid,
    EngineStats,
    FinishReason,
    GenerateRequest,
)
from autoglm_serving.engines.prompt import Prompt, PromptBuilder
from autoglm_serving.engines.startup import Startup
from autoglm_serving.engines.text import TextStream
from autoglm_serving.model.folder import ModelFolder, check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, import_libraries
from autoglm_serving.model.locate import locate
from autoglm_serving.vision.cache import CacheFigures


@dataclass(frozen=True)
class TokenStep:
    """Tokens of one answer since the last step. An end token, if any, is counted but not among `ids`.

    `cached`: tokens of the prompt that did not have to be computed; the same in every step of an answer.
    """

    ids: tuple[int, ...]
    count: int
    finish: FinishReason | None
    cached: int = 0


@dataclass
class _Totals:
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class TextEngine(Engine, ABC):
    """Base of the engines. Subclasses load weights and produce TokenSteps."""

    def __init__(self, config: AppConfig, cache: Path | None = None) -> None:
        self.config = config
        self._cache = cache
        self._admission = Admission(config.engine.max_concurrency, config.limits.max_queue)
        self._totals = _Totals()
        self._running_prompts: dict[int, int] = {}
        self._prompts: PromptBuilder | None = None
        self._images: ModelImages | None = None
        self._tokenizer: ModelTokenizer | None = None
        self._startup = Startup()
        self._closed = False

    @abstractmethod
    async def _start(self, folder: ModelFolder) -> None:
        """Load the weights, and tell `_startup` what was reached."""

    @abstractmethod
    def _tokens(self, prompt: Prompt, request: GenerateRequest) -> AsyncGenerator[TokenStep, None]:
        """The answer's tokens; closing the generator must free what the request holds."""

    @abstractmethod
    async def _stop(self) -> None:
        """Free the weights. Idempotent, and right after a failed start too."""

    @abstractmethod
    def _death(self) -> str | None:
        """Why no request can be served again; None while it lives."""

    def _caches(self) -> Mapping[str, CacheFigures]:
        """What the engine's caches hold and did, by name."""
        return {}

    @override
    async def start(self) -> None:
        self._startup = Startup()
        folder = await asyncio.to_thread(self._load_folder)
        await self._start(folder)

    def start_seconds(self) -> Mapping[str, float]:
        """How long each part of the start took, once it is started."""
        return self._startup.seconds

    def _load_folder(self) -> ModelFolder:
        folder = check_folder(locate(self.config.model.uri, self._cache))
        self._startup.reached("fetch")
        import_libraries()
        self._startup.reached("imports")
        length = self.config.engine.max_model_len
        if length > folder.max_positions:
            raise EngineOptionsInvalid(f"maxModelLen {length} is above the model's {folder.max_positions} positions")
        tokenizer, images = ModelTokenizer(folder), ModelImages(folder)
        self._prompts = PromptBuilder(tokenizer, images.tokens, images.size, folder.image_token_id, length)
        self._tokenizer, self._images = tokenizer, images
        self._startup.reached("tokenizer")
        return folder

    @override
    async def check(self) -> None:
        if self._closed:
            raise EngineDead("the engine is closed")
        if self._prompts is None:
            raise EngineDead("the engine was not started")
        if reason := self._death():
            raise EngineDead(reason)

    @override
    async def close(self) -> None:
        self._closed = True
        await self._stop()

    @override
    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        await self.check()
        assert self._prompts is not None
        place = self._admission.reserve()
        try:
            prompt = await asyncio.to_thread(self._prompts.build, request)
            async with place.running(), aclosing(self._answer(prompt, request)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            place.release()

    async def _answer(self, prompt: Prompt, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        assert self._tokenizer is not None
        self._totals.prompt_tokens += prompt.length
        key = id(prompt)
        self._running_prompts[key] = prompt.length
        ended = False
        try:
            stream = TextStream(self._tokenizer.pieces, request.stop)
            completion = 0
            cached = 0
            async with aclosing(self._tokens(prompt, request)) as steps:
                async for step in steps:
                    completion += step.count
                    self._totals.cached_tokens += step.cached - cached
                    cached = step.cached
                    self._totals.completion_tokens += step.count
                    self._running_prompts[key] = prompt.length + completion
                    delta = _delta(stream, step, prompt, completion)
                    if delta.finish_reason is not None:
                        self._totals.finished += 1
                        ended = True
                        yield delta
                        return
                    if delta.text:
                        yield delta
            raise EngineDead("the engine ended an answer without a reason")
        except (GeneratorExit, asyncio.CancelledError):
            self._totals.cancelled += not ended
            raise
        except Exception:
            self._totals.failed += 1
            raise
        finally:
            del self._running_prompts[key]

    @override
    def stats(self) -> EngineStats:
        totals = self._totals
        return EngineStats(
            running=self._admission.running,
            waiting=self._admission.waiting,
            max_running=self._admission.max_running,
            max_waiting=self._admission.max_waiting,
            kv_tokens=sum(self._running_prompts.values()),
            finished_total=totals.finished,
            cancelled_total=totals.cancelled,
            refused_total=self._admission.refused_total,
            failed_total=totals.failed,
            prompt_tokens_total=totals.prompt_tokens,
            completion_tokens_total=totals.completion_tokens,
            cached_tokens_total=totals.cached_tokens,
            caches=self._caches(),
        )


def _delta(stream: TextStream, step: TokenStep, prompt: Prompt, completion: int) -> Delta:
    text = stream.push(step.ids)
    finish: FinishReason | None = "stop" if text.stopped else step.finish
    last = stream.finish() if finish is not None and not text.stopped else ""
    return Delta(text.text + last, finish, prompt.length, completion, sum(prompt.image_tokens), step.cached)
