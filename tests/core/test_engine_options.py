"""What `spec.engine.options` may say."""

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
