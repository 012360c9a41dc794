"""The default engine: transformers in this process, in one worker thread."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.base import TextEngine, TokenStep
from autoglm_serving.engines.interface import GenerateRequest
from autoglm_serving.engines.options import TransformersOptions, parse_options
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.step_loop import Job, Runner, StepLoop
from autoglm_serving.model.folder import ModelFolder

if TYPE_CHECKING:
    from autoglm_serving.engines.transformers_runner import Answer


class TransformersEngine(TextEngine):
    """Answers up to `max_concurrency` requests at once, a token of each in turn."""

    def __init__(self, config: AppConfig, cache: Path | None = None) -> None:
        super().__init__(config, cache)
        self._options = parse_options(TransformersOptions, config.engine)
        self._loop: StepLoop[Answer] | None = None

    @override
    async def _start(self, folder: ModelFolder) -> None:
        self._loop = StepLoop(lambda: self._make_runner(folder))
        await asyncio.to_thread(self._loop.start)

    def _make_runner(self, folder: ModelFolder) -> "Runner[Answer]":
        from autoglm_serving.engines.transformers_runner import TransformersRunner

        assert self._images is not None
        return TransformersRunner(folder, self._images, self._options)

    @override
    async def _tokens(self, prompt: Prompt, request: GenerateRequest) -> AsyncGenerator[TokenStep, None]:
        assert self._loop is not None
        steps: asyncio.Queue[TokenStep | Exception] = asyncio.Queue()
        event_loop = asyncio.get_running_loop()
        job: Job[Answer] = Job(prompt, request, emit=lambda item: _deliver(event_loop, steps, item))
        self._loop.submit(job)
        try:
            while True:
                item = await steps.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            job.cancel()

    @override
    async def _stop(self) -> None:
        if self._loop is not None:
            await asyncio.to_thread(self._loop.stop)

    @override
    def _death(self) -> str | None:
        return self._loop.death if self._loop is not None else "the engine was not started"


def _deliver(
    event_loop: asyncio.AbstractEventLoop, steps: "asyncio.Queue[TokenStep | Exception]", item: TokenStep | Exception
) -> None:
    event_loop.call_soon_threadsafe(steps.put_nowait, item)
