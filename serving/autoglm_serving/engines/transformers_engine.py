"""The default engine: transformers in this process, in one worker thread."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.base import TextEngine, TokenStep
from autoglm_serving.engines.gang.leader import Gang, Launcher
from autoglm_serving.engines.gang.processes import ChildRanks
from autoglm_serving.engines.gang.seat import GANG_DEVICES
from autoglm_serving.engines.interface import EngineOptionsInvalid, GenerateRequest
from autoglm_serving.engines.options import TransformersOptions, parse_options
from autoglm_serving.engines.prompt import Prompt, image_name
from autoglm_serving.engines.shards import FIELD
from autoglm_serving.engines.shared_cache import MIB
from autoglm_serving.engines.step_loop import Job, Runner, StepLoop
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.replica_routing.ledger import CacheSizes
from autoglm_serving.vision.cache import CacheFigures

if TYPE_CHECKING:
    import torch

    from autoglm_serving.engines.gang.part import Part
    from autoglm_serving.engines.transformers_pictures import Pictures
    from autoglm_serving.engines.transformers_runner import Answer, TransformersRunner

_LAST_STEP_S = 5.0
"""How long the worker thread of a dead gang is waited for: it may wait for a lost rank."""


class TransformersEngine(TextEngine):
    """Answers up to `max_concurrency` requests at once, a token of each in turn.

    With tensor parallelism it leads a gang, whose other ranks `ranks` starts.
    """

    def __init__(self, config: AppConfig, cache: Path | None = None, ranks: Launcher | None = None) -> None:
        super().__init__(config, cache)
        self._options = parse_options(TransformersOptions, config.engine)
        _check_gang(config.engine.tensor_parallel, self._options)
        self._ranks = ranks
        self._gang: Gang | None = None
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
        self._loop = loop = StepLoop(lambda: self._make_runner(folder))
        if self.config.engine.tensor_parallel > 1:
            self._gang = Gang(
                self.config.engine.tensor_parallel, options.rank_patience_s, self._ranks or ChildRanks(), loop.abandon
            )
        await asyncio.to_thread(self._loop.start)

    def _make_runner(self, folder: ModelFolder) -> "Runner[Answer]":
        from autoglm_serving.engines.transformers_runner import TransformersRunner, whole

        self._startup.reached("imports")
        assert self._pictures is not None
        try:
            part = whole(folder, self._options) if self._gang is None else self._gather(folder, self._gang)
            self._startup.reached("weights")
            self._runner = TransformersRunner(folder, self._pictures, self._options, part)
        except BaseException:
            if self._gang is not None:
                self._gang.close()
            raise
        self._startup.reached("warm_up")
        return self._runner

    def _gather(self, folder: ModelFolder, gang: Gang) -> "Part":
        """Bring the gang together: every rank loads its part at the same time as this one."""
        from autoglm_serving.engines.gang.lead import lead
        from autoglm_serving.engines.gang.part import load_part
        from autoglm_serving.engines.sharded_model import plan_for

        end = time.monotonic() + self._options.gang_start_s
        plan_for(folder, self.config.engine.tensor_parallel)  # before anything is started
        gang.start(folder.path, self._options, self._options.gang_start_s)
        part = load_part(folder, self._options, gang.seat)
        gang.wait_loaded(max(0.0, end - time.monotonic()))
        return lead(part, gang.seat, gang)

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
        dead = self._gang is not None and self._gang.death is not None
        if self._loop is not None:
            await asyncio.to_thread(self._loop.stop, _LAST_STEP_S if dead else None)
        if self._gang is not None:
            await asyncio.to_thread(self._gang.close)

    @override
    def _death(self) -> str | None:
        return self._loop.death if self._loop is not None else "the engine was not started"

    def known_features(self, key: str, width: int, height: int, max_pixels: int | None) -> "torch.Tensor | None":
        """Features that this engine still has of an image; see `TakesFeatures`."""
        if self._pictures is None or self._images is None:
            return None
        try:
            tokens = self._images.tokens(width, height, self._images.size.limited_to(max_pixels))
        except ValueError:  # an impossible shape, which the prompt's builder refuses in words
            return None
        return self._pictures.cached(image_name(key, tokens))

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


def _check_gang(ranks: int, options: TransformersOptions) -> None:
    if ranks == 1:
        return
    beside = f"does not go with {FIELD} {ranks}"
    if options.variant != "none":
        raise EngineOptionsInvalid(
            f"variant {options.variant!r} {beside}, which cannot split such weights: remove it, or set tensor to 1"
        )
    if options.device not in GANG_DEVICES:
        raise EngineOptionsInvalid(
            f"device {options.device!r} {beside}, which takes several: set it to one of {', '.join(GANG_DEVICES)}"
        )
