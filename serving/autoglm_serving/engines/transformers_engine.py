"""The default engine: transformers in this process, in one worker thread."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.base import TextEngine, TokenStep
from autoglm_serving.engines.interface import GenerateRequest
from autoglm_serving.engines.options import TransformersOptions, parse_options
from autoglm_serving.engines.prompt import Prompt, image_name
from autoglm_serving.engines.shared_cache import MIB
from autoglm_serving.engines.step_loop import Job, Runner, StepLoop
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.replica_routing.ledger import CacheSizes
from autoglm_serving.vision.cache import CacheFigures

if TYPE_CHECKING:
    import torch

    from autoglm_serving.engines.transformers_pictures import Pictures
    from autoglm_serving.engines.transformers_runner import Answer, TransformersRunner


class TransformersEngine(TextEngine):
    """Answers up to `max_concurrency` requests at once, a token of each in turn."""

    def __init__(self, config: AppConfig, cache: Path | None = None) -> None:
        super().__init__(config, cache)
        self._options = parse_options(TransformersOptions, config.engine)
        self._loop: StepLoop[Answer] | None = None
        self._pictures: Pictures | None = None
        self._runner: TransformersRunner | None = None

    @override
    async def _start(self, folder: ModelFolder) -> None:
        from autoglm_serving.engines.transformers_pictures import CacheBounds, Pictures

        assert self._images is not None
        options = self._options
        bounds = CacheBounds(options.pixel_cache_mib * MIB, options.feature_cache_mib * MIB)
        self._pictures = Pictures(self._images, bounds)
        self._loop = StepLoop(lambda: self._make_runner(folder))
        await asyncio.to_thread(self._loop.start)

    def _make_runner(self, folder: ModelFolder) -> "Runner[Answer]":
        from autoglm_serving.engines.transformers_runner import TransformersRunner

        assert self._pictures is not None
        self._runner = TransformersRunner(folder, self._pictures, self._options)
        return self._runner

    @override
    async def _tokens(self, prompt: Prompt, request: GenerateRequest) -> AsyncGenerator[TokenStep, None]:
        assert self._loop is not None
        assert self._pictures is not None
        if prompt.images:  # pixels are made here, while the worker thread computes for others
            prompt = await asyncio.to_thread(self._pictures.prepared, prompt)
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

    def known_features(self, key: str, max_pixels: int | None) -> "torch.Tensor | None":
        """Features that this engine still has of an image; see `TakesFeatures`."""
        if self._pictures is None or self._images is None:
            return None
        return self._pictures.cached(image_name(key, self._images.size.limited_to(max_pixels)))

    def cache_sizes(self) -> CacheSizes:
        """What the caches of features and prefixes hold, in tokens: the replica's router counts on it."""
        if self._runner is None:
            return CacheSizes()
        feature, prefix = self._runner.token_bytes
        options = self._options
        return CacheSizes(options.feature_cache_mib * MIB // feature, options.prefix_cache_mib * MIB // prefix)

    @override
    def _caches(self) -> Mapping[str, CacheFigures]:
        if self._pictures is None or self._runner is None:
            return {}
        return {**self._pictures.figures, **self._runner.figures}


def _deliver(
    event_loop: asyncio.AbstractEventLoop, steps: "asyncio.Queue[TokenStep | Exception]", item: TokenStep | Exception
) -> None:
    event_loop.call_soon_threadsafe(steps.put_nowait, item)
