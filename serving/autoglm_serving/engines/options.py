"""The engines' options: what `spec.engine.options` may say, with defaults."""

from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from autoglm_serving.config import EngineConfig, Frozen
from autoglm_serving.engines.interface import EngineOptionsInvalid

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class TransformersOptions(Frozen):
    """`dtype` auto: float32 on a CPU, bfloat16 elsewhere. `device` auto: the first GPU, if there is one."""

    threads: int = Field(default=1, ge=1, le=1024)
    dtype: Dtype = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|npu(:\d+)?|mps)$")


class VllmOptions(Frozen):
    """`kv_cache_gib` counts on a CPU, `gpu_memory_utilization` (a share of the card) on a GPU."""

    dtype: Dtype = "auto"
    enforce_eager: bool = True
    kv_cache_gib: int = Field(default=1, ge=1, le=4096)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    seed: int = Field(default=0, ge=0)


Options = TypeVar("Options", TransformersOptions, VllmOptions)


def parse_options(kind: type[Options], engine: EngineConfig) -> Options:
    """Raises EngineOptionsInvalid with each wrong option and what is there instead."""
    try:
        return kind.model_validate(engine.options)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        known = ", ".join(str(field.alias) for field in kind.model_fields.values())
        raise EngineOptionsInvalid(f"engine {engine.name!r}: {problems} (options: {known})") from error
