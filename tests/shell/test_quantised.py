"""Variants with smaller weights: near enough, smaller, and refused where they cannot run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from autoglm_serving.config import EngineConfig
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import TransformersOptions, Variant, VllmOptions, parse_options
from autoglm_serving.engines.quantised import VARIANTS, quantise, weight_bytes
from autoglm_serving.engines.transformers_engine import TransformersEngine
from autoglm_serving.model.tiny import build
from support.models import answer, engine_config, request, screenshot

QUANTISED: tuple[Variant, ...] = ("int8-dynamic", "int8-weight", "int4-weight")
LARGEST_ERROR = {"int8-dynamic": 0.05, "int8-weight": 0.02, "int4-weight": 0.15}
"""Against the largest output. An error in packing, scale or offset gives 0.5 and more."""


class Small(nn.Module):
    """An embedding, linear layers of several shapes, and a head that shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(64, 96)
        self.wide = nn.Linear(96, 160)
        self.odd = nn.Linear(160, 44)
        self.narrow = nn.Linear(44, 96, bias=False)
        self.norm = nn.LayerNorm(96)
        self.head = nn.Linear(96, 64, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.norm(self.narrow(self.odd(torch.relu(self.wide(self.embedding(ids)))))))
        return found


@pytest.mark.parametrize("variant", QUANTISED)
@pytest.mark.parametrize("shape", [(1, 1), (2, 7)])
@torch.inference_mode()
def test_a_variant_gives_nearly_the_same_numbers_with_fewer_bytes(variant: Variant, shape: tuple[int, int]) -> None:
    model, exact = Small().eval(), Small().eval()
    before = weight_bytes(model)
    quantise(model, variant)
    ids = torch.arange(shape[0] * shape[1]).reshape(shape) % 64
    wanted = exact(ids)
    error = (model(ids) - wanted).abs().max() / wanted.abs().max()
    assert 0 < error < LARGEST_ERROR[variant]
    linear = 4 * (96 * 160 + 160 * 44 + 44 * 96)
    assert weight_bytes(model) < before - 0.6 * linear


def test_embeddings_norms_and_a_shared_head_stay_as_they_are() -> None:
    for variant in QUANTISED:
        model = Small()
        quantise(model, variant)
        assert type(model.head) is nn.Linear
        assert model.head.weight is model.embedding.weight
        assert type(model.wide) is not nn.Linear


def test_no_variant_is_no_change() -> None:
    model = Small()
    before = weight_bytes(model)
    quantise(model, "none")
    assert type(model.wide) is nn.Linear
    assert weight_bytes(model) == before


@pytest.mark.parametrize("variant", ["int8-dynamic", "int4-weight"])
def test_a_variant_that_cannot_run_on_the_device_is_refused_by_its_name(variant: Variant) -> None:
    with pytest.raises(EngineOptionsInvalid, match=f"variant '{variant}'.*int8-weight"):
        quantise(Small().to("meta"), variant)


def test_an_unknown_variant_is_refused_with_the_field_and_the_names_that_there_are() -> None:
    engine = EngineConfig(options={"variant": "int2"})
    with pytest.raises(EngineOptionsInvalid, match="variant") as caught:
        parse_options(TransformersOptions, engine)
    assert all(name in str(caught.value) for name in VARIANTS)


def test_vllm_is_told_the_name_of_its_own_quantisation() -> None:
    assert parse_options(VllmOptions, EngineConfig(name="vllm", options={"quantization": "fp8"})).quantization == "fp8"
    with pytest.raises(EngineOptionsInvalid, match="quantization"):
        parse_options(VllmOptions, EngineConfig(name="vllm", options={"quantization": "no such thing!"}))


@pytest.mark.parametrize("variant", QUANTISED)
async def test_the_engine_answers_about_a_picture_with_each_variant(tmp_path: Path, variant: Variant) -> None:
    build(tmp_path)
    engine = TransformersEngine(engine_config(tmp_path, variant=variant, prefillChunk=64))
    try:
        await engine.start()
        _, deltas = await answer(engine, request(image=screenshot(), max_new_tokens=4))
        sizes = engine.cache_sizes()
    finally:
        await engine.close()
    assert deltas[-1].completion_tokens >= 1
    assert min(sizes.image_tokens, sizes.prefix_tokens) > 10_000
