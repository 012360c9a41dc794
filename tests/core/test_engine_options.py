"""What `spec.engine.options` may say."""

from typing import Any

import pytest

from autoglm_serving.config import EngineConfig, EngineName, OptionValue, Worker
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import TransformersOptions, decoded_cache_bytes, on_what_it_takes, parse_options
from autoglm_serving.engines.shared_cache import MIB


@pytest.mark.parametrize("name", ["transformers", "vllm"])
@pytest.mark.parametrize(
    ("options", "mib"),
    [
        ({}, 128),
        ({"dtype": "float32", "prefillChunk": 64}, 128),
        ({"decodedCacheMib": 256}, 256),
        ({"decodedCacheMib": "256"}, 256),
        ({"decodedCacheMib": 256.0}, 256),
        ({"decoded_cache_mib": 256}, 256),
        ({"decodedCacheMib": 0}, 0),
    ],
)
def test_the_cache_of_decoded_pictures_has_the_size_that_the_engine_reads(
    name: EngineName, options: dict[str, OptionValue], mib: int
) -> None:
    engine = EngineConfig(name=name, options=options)
    assert decoded_cache_bytes(engine) == mib * MIB
    if name == "transformers":
        assert parse_options(TransformersOptions, engine).decoded_cache_mib == mib


@pytest.mark.parametrize("value", ["much", -1, 0.5, ""])
def test_a_size_that_is_none_is_refused_and_does_not_turn_the_cache_off(value: OptionValue) -> None:
    with pytest.raises(EngineOptionsInvalid, match="decodedCacheMib"):
        decoded_cache_bytes(EngineConfig(options={"decodedCacheMib": value}))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_variant_that_computes_in_integers_asks_for_float32(dtype: str) -> None:
    with pytest.raises(EngineOptionsInvalid, match="set dtype to float32"):
        parse_options(TransformersOptions, EngineConfig(options={"variant": "int8-dynamic", "dtype": dtype}))
    for variant in ("none", "int8-weight", "int4-weight"):
        parse_options(TransformersOptions, EngineConfig(options={"variant": variant, "dtype": dtype}))


@pytest.mark.parametrize("options", [{}, {"visionBatchTokens": 2000}, {"prefillChunk": 128, "prefixBlock": 32}])
def test_such_a_variant_runs_with_caches_chunks_and_batches_of_pictures(options: dict[str, Any]) -> None:
    engine = EngineConfig(options={"variant": "int8-dynamic", **options})
    assert parse_options(TransformersOptions, engine).variant == "int8-dynamic"


@pytest.mark.parametrize(
    ("worker", "options", "device"),
    [
        (Worker(), {}, "cpu"),
        (Worker(), {"device": "auto"}, "cpu"),
        (Worker(), {"device": "cuda:1"}, "cuda:1"),
        (Worker(gpus=0.5), {}, "auto"),
        (Worker(custom={"NPU": 1}), {}, "cpu"),
        (Worker(custom={"accelerator_type/H100": 1}), {}, "auto"),
        (Worker(custom={"shelf": 1}), {"device": "cuda:1"}, "cuda:1"),
        (Worker(gpus=1, custom={"shelf": 1}), {}, "auto"),
    ],
)
def test_a_process_that_takes_no_accelerator_does_not_look_for_one(
    worker: Worker, options: dict[str, OptionValue], device: str
) -> None:
    engine = on_what_it_takes(EngineConfig(options=options), worker)
    assert parse_options(TransformersOptions, engine).device == device


def test_vllm_has_no_device_to_be_told() -> None:
    engine = EngineConfig(name="vllm")
    assert on_what_it_takes(engine, Worker()) == engine


@pytest.mark.parametrize("option", ["kvCacheDtype", "slidingWindow"])
def test_what_the_transformers_engine_does_not_do_with_keys_and_values_is_refused_with_what_it_does(
    option: str,
) -> None:
    with pytest.raises(EngineOptionsInvalid, match=rf"{option}: .*\(options: .*prefixCacheMib"):
        parse_options(TransformersOptions, EngineConfig(options={option: "fp8"}))
