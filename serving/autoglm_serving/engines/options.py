"""The engines' options: what `spec.engine.options` may say, with defaults."""

import importlib
import importlib.util
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from autoglm_serving.config import EngineConfig, Frozen, Worker
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.shared_cache import MIB

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Variant = Literal["none", "int8-dynamic", "int8-weight", "int4-weight"]
KvCacheDtype = Literal["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head"]


class CacheOptions(Frozen):
    """What every engine has. `decoded_cache_mib`: pictures kept as pixels, so that one sent again is not decoded again."""

    decoded_cache_mib: int = Field(default=128, ge=0, le=1 << 20)


class TransformersOptions(CacheOptions):
    """`dtype` auto: float32 on a CPU, bfloat16 elsewhere. `device` auto: the first GPU or NPU, if there is one, and the CPU
    in processes on Ray that take no accelerator.

    `variant`: which form of the weights is made when they are loaded (`quantised`).
    Caches (in MiB, 0 is off): `pixel_cache_mib` in memory; `feature_cache_mib` and `prefix_cache_mib` where the model lies.
    A prompt is read `prefill_chunk` tokens at a time, and what is known of it is reused in blocks of `prefix_block`.
    `vision_batch_tokens`: waiting images of one size go through the vision tower together, up to so many tokens.
    With tensor parallelism, a gang is dead when a rank says nothing for `rank_patience_s`, or makes the others wait that
    long inside one step; its ranks have `gang_start_s` to start and load.
    """

    threads: int = Field(default=1, ge=1, le=1024)
    dtype: Dtype = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|npu(:\d+)?|mps)$")
    variant: Variant = "none"
    pixel_cache_mib: int = Field(default=128, ge=0, le=1 << 20)
    feature_cache_mib: int = Field(default=256, ge=0, le=1 << 20)
    prefix_cache_mib: int = Field(default=512, ge=0, le=1 << 20)
    prefix_block: int = Field(default=64, ge=1, le=4096)
    prefill_chunk: int = Field(default=512, ge=1, le=1 << 16)
    vision_batch_tokens: int = Field(default=0, ge=0, le=1 << 20)
    rank_patience_s: float = Field(default=60.0, gt=0, le=3600)
    gang_start_s: float = Field(default=900.0, gt=0, le=86400)

    @model_validator(mode="after")
    def _chunks_hold_whole_blocks(self) -> Self:
        if self.prefill_chunk % self.prefix_block:
            raise ValueError(f"prefillChunk {self.prefill_chunk} must be a multiple of prefixBlock {self.prefix_block}")
        return self

    @model_validator(mode="after")
    def _integers_need_float32(self) -> Self:
        if self.variant == "int8-dynamic" and self.dtype not in ("auto", "float32"):
            raise ValueError(f"dtype {self.dtype} does not go with variant int8-dynamic: set dtype to float32")
        return self


class VllmOptions(CacheOptions):
    """`kv_cache_gib` counts on a CPU, `gpu_memory_utilization` (a share of the card) on a GPU.

    `prefix_caching` reuses what that memory still holds of earlier prompts, `processor_cache_gib` (0 is off) the pixels of
    earlier images. `kv_cache_dtype` stores keys and values with fewer bits, where vLLM can on this device. `quantization` is
    vLLM's own flag of that name; empty: what the model folder says. A prompt is read `prefill_chunk` tokens at a time; 0 is
    vLLM's own choice.
    """

    dtype: Dtype = "auto"
    enforce_eager: bool = True
    kv_cache_gib: int = Field(default=1, ge=1, le=4096)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    prefix_caching: bool = True
    processor_cache_gib: float = Field(default=0.25, ge=0, le=1024)
    kv_cache_dtype: KvCacheDtype = "auto"
    quantization: str = Field(default="", pattern=r"^[a-z0-9_-]{0,32}$")
    sliding_window: int = Field(default=0, ge=0)
    prefill_chunk: int = Field(default=0, ge=0, le=1 << 20)


Options = TypeVar("Options", CacheOptions, TransformersOptions, VllmOptions)


def parse_options(kind: type[Options], engine: EngineConfig) -> Options:
    """Raises EngineOptionsInvalid with each wrong option and what is there instead."""
    try:
        return kind.model_validate(engine.options)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        known = ", ".join(str(field.alias) for field in kind.model_fields.values())
        raise EngineOptionsInvalid(f"engine {engine.name!r}: {problems} (options: {known})") from error


def on_what_it_takes(engine: EngineConfig, worker: Worker) -> EngineConfig:
    """The engine of a process on Ray: on the CPU, where neither its resources nor its options speak of an accelerator.

    Ray hides the GPUs of a node only from processes that take some, so `auto` would find one that others were given. What Ray
    calls `NPU` is one, if torch has it, and else the CPU. A resource of another name is an accelerator that only the cluster's
    owner knows: `auto` looks for it.
    """
    if engine.name != "transformers" or worker.gpus or engine.options.get("device", "auto") != "auto":
        return engine
    takes_npus = bool(worker.custom.get("NPU"))
    if worker.custom and not takes_npus:
        return engine
    kind = "npu" if takes_npus and npu() else "cpu"
    return engine.model_copy(update={"options": {**engine.options, "device": kind}})


def npu() -> bool:
    """Whether torch has an NPU here, by the package torch_npu."""
    if importlib.util.find_spec("torch_npu") is None:
        return False
    importlib.import_module("torch_npu")  # gives torch the module `npu`
    return bool(importlib.import_module("torch").npu.is_available())


def decoded_cache_bytes(engine: EngineConfig) -> int:
    """How much a replica keeps of decoded pictures; what else the options say is the engine's business.

    Raises EngineOptionsInvalid, as the engine does for its own options.
    """
    names = {name for key, field in CacheOptions.model_fields.items() for name in (key, field.alias)}
    own = {name: value for name, value in engine.options.items() if name in names}
    return parse_options(CacheOptions, engine.model_copy(update={"options": own})).decoded_cache_mib * MIB
