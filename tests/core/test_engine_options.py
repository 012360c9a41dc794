"""What `spec.engine.options` may say."""

from typing import Any

import pytest

from autoglm_serving.config import EngineConfig, EngineName, OptionValue
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import TransformersOptions, decoded_cache_bytes, parse_options
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "set prefillChunk to prefixBlock .64., or prefixCacheMib to 0"),
        ({"prefillChunk": 128, "prefixBlock": 32}, "set prefillChunk to prefixBlock .32."),
        ({"prefixCacheMib": 0, "visionBatchTokens": 2000}, "set visionBatchTokens to 0"),
        ({"prefixCacheMib": 0, "dtype": "bfloat16"}, "set dtype to float32"),
        ({"prefixCacheMib": 0, "dtype": "float16"}, "set dtype to float32"),
    ],
)
def test_a_variant_whose_numbers_depend_on_their_neighbours_keeps_nothing_of_them(
    options: dict[str, OptionValue], said: str
) -> None:
    with pytest.raises(EngineOptionsInvalid, match=said):
        parse_options(TransformersOptions, EngineConfig(options={"variant": "int8-dynamic", **options}))
    for variant in ("none", "int8-weight", "int4-weight"):
        parse_options(TransformersOptions, EngineConfig(options={"variant": variant, **options}))


@pytest.mark.parametrize(
    "options",
    [
        {"prefixCacheMib": 0},
        {"prefixCacheMib": 0, "dtype": "float32"},
        {"prefillChunk": 64},
        {"prefillChunk": 512, "prefixBlock": 512},
    ],
)
def test_such_a_variant_runs_where_each_call_has_one_requests_tokens(options: dict[str, Any]) -> None:
    engine = EngineConfig(options={"variant": "int8-dynamic", **options})
    assert parse_options(TransformersOptions, engine).variant == "int8-dynamic"
