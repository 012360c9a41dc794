"""Variants with smaller weights: near enough, smaller, and refused where they cannot run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from benchmarks.variants import manifest
from torch import nn

from autoglm_operator.api import parse_deployment
from autoglm_operator.variants import policy_of
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


def test_what_the_benchmark_prints_is_a_good_part_of_a_manifest() -> None:
    measured = {"none": [True, True, False], "int8-weight": [True, False, False], "int4-weight": [False] * 3}
    model = yaml.safe_load(manifest(measured))["spec"]["model"]
    spec = parse_deployment(
        {
            "apiVersion": "serving.autoglm.dev/v1alpha1",
            "kind": "AutoGLMDeployment",
            "metadata": {"name": "phones", "namespace": "team"},
            "spec": {"model": {"name": "m", "uri": "builtin://autoglm-tiny", "qualityFloor": 0.5, **model}},
        }
    ).spec.model
    policy = policy_of(spec)
    assert policy is not None
    assert (policy.share("int8-weight"), policy.share("int4-weight")) == (0.5, 0.0)
    assert not policy.shortfall("int8-weight")
    assert "none of the 3 tasks" in manifest({"none": [False] * 3})


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


@torch.inference_mode()
def test_what_a_token_gives_does_not_depend_on_the_tokens_beside_it() -> None:
    """Else a cached block would hold something of another request, and of where its prompt was cut."""
    torch.manual_seed(5)
    layer = nn.Sequential(nn.Linear(96, 160))
    quantise(layer, "int8-dynamic")
    tokens = torch.randn(70, 96)
    tokens[::7] *= 50  # a loud neighbour: one range for all would leave the others no digits
    together = layer(tokens)
    assert torch.equal(together, torch.cat([layer(token[None]) for token in tokens]))
    assert torch.equal(together, torch.cat([layer(part) for part in (tokens[:1], tokens[1:32], tokens[32:])]))
    assert torch.equal(together.reshape(2, 35, 160), layer(tokens.reshape(2, 35, 96)))


@torch.inference_mode()
def test_no_sum_of_products_overflows() -> None:
    """Kernels for CPUs without VNNI add two products in 16 bits."""
    layer = nn.Linear(64, 16, bias=False)
    layer.weight.copy_(torch.ones(16, 64))
    small = nn.Sequential(layer)
    quantise(small, "int8-dynamic")
    for tokens in (torch.ones(3, 64), -torch.ones(3, 64)):
        assert torch.allclose(small(tokens), tokens.sum(dim=1, keepdim=True).expand(3, 16), rtol=0.01)


@torch.inference_mode()
def test_a_token_of_nothing_but_zeros_gives_the_bias() -> None:
    layer = nn.Linear(32, 16)
    bias = layer.bias.detach().clone()
    small = nn.Sequential(layer)
    quantise(small, "int8-dynamic")
    assert torch.allclose(small(torch.zeros(2, 32)), bias.expand(2, 16), atol=1e-6)


async def test_the_integer_variant_answers_the_same_with_caches_and_without(tmp_path: Path) -> None:
    """A second question after the same beginning is cut elsewhere, reads cached blocks, and shares the tower's call."""
    build(tmp_path)
    cached: dict[str, Any] = {"prefillChunk": 64, "prefixBlock": 16, "visionBatchTokens": 4000}
    plain: dict[str, Any] = {
        "prefillChunk": 4096,
        "prefixBlock": 4096,
        "prefixCacheMib": 0,
        "featureCacheMib": 0,
        "pixelCacheMib": 0,
    }
    told: list[list[str]] = []
    known = 0
    for options in (cached, plain):
        engine = TransformersEngine(engine_config(tmp_path, variant="int8-dynamic", **options))
        try:
            await engine.start()
            answers = []
            for text in ("what is on this screen?", "what is on this screen? and where do I tap to go on?"):
                _, deltas = await answer(engine, request(text, image=screenshot(), max_new_tokens=6))
                answers.append("".join(delta.text for delta in deltas))
                known += deltas[-1].cached_tokens
            told.append(answers)
        finally:
            await engine.close()
    assert known > 0, "the second question read cached blocks"
    assert told[0] == told[1]


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


def test_integers_are_refused_where_torch_has_no_kernel_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoglm_serving.engines.quantised.torch.backends.quantized", SimpleNamespace(engine="qnnpack"))
    with pytest.raises(EngineOptionsInvalid, match="'int8-dynamic' needs an x86 CPU: use int8-weight"):
        quantise(Small(), "int8-dynamic")
    quantise(Small(), "int8-weight")


def test_an_unknown_variant_is_refused_with_the_field_and_the_names_that_there_are() -> None:
    engine = EngineConfig(options={"variant": "int2"})
    with pytest.raises(EngineOptionsInvalid, match="variant") as caught:
        parse_options(TransformersOptions, engine)
    assert all(name in str(caught.value) for name in VARIANTS)


def test_vllm_is_told_the_name_of_its_own_quantisation() -> None:
    assert parse_options(VllmOptions, EngineConfig(name="vllm", options={"quantization": "fp8"})).quantization == "fp8"
    with pytest.raises(EngineOptionsInvalid, match="quantization"):
        parse_options(VllmOptions, EngineConfig(name="vllm", options={"quantization": "no such thing!"}))


@pytest.mark.parametrize("variant", VARIANTS)
async def test_the_engine_answers_about_a_picture_at_the_same_length_with_each_variant(
    tmp_path: Path, variant: Variant
) -> None:
    build(tmp_path)
    engine = TransformersEngine(engine_config(tmp_path, variant=variant, prefillChunk=64))
    try:
        await engine.start()
        _, deltas = await answer(engine, request(image=screenshot(), max_new_tokens=4))
        sizes = engine.cache_sizes()
    finally:
        await engine.close()
    assert (deltas[-1].completion_tokens, deltas[-1].finish_reason) == (4, "length")
    assert min(sizes.image_tokens, sizes.prefix_tokens) > 10_000
