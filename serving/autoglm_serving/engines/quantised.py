"""Variants of a loaded model with smaller weights: its linear layers replaced in place, everything else as it is.

    int8-dynamic  weights and, at each call, activations in 8 bits; computed in integers (torch.ao; CPU)
    int8-weight   weights in 8 bits with one scale for each output; computed in the model's own type
    int4-weight   weights in 4 bits with a scale and an offset for each 32 inputs; computed in the model's own type (CPU)

Embeddings, norms and convolutions stay, and so does a head that shares its weights with the embedding: a second copy in 8
bits would make the model larger.
"""

import warnings
from collections.abc import Iterator
from typing import get_args

import torch
from torch import nn

from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import Variant

VARIANTS: tuple[Variant, ...] = get_args(Variant)
GROUP = 32
"""Inputs that share a scale at 4 bits: the smallest group that torch's CPU kernel has, and the most exact."""
_CPU_ONLY = frozenset({"int8-dynamic", "int4-weight"})


class Int8Linear(nn.Module):
    """A linear layer whose weights take one byte each."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        if inputs.device.type == "cpu":
            result = torch._weight_int8pack_mm(flat, self.weight, self.scale)
        else:
            result = nn.functional.linear(flat, self.weight.to(flat.dtype)) * self.scale
        result = result.view(*inputs.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


class Int4Linear(nn.Module):
    """A linear layer whose weights take half a byte each, and 8 bytes more for each group."""

    weight: torch.Tensor
    grid: torch.Tensor
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        groups = linear.weight.detach().float().reshape(linear.out_features, -1, GROUP)
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        scale = ((high - low) / 15).clamp(min=1e-9)
        codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(codes.reshape(linear.out_features, -1), 1)
        grid = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous()  # the kernel counts from -8
        self.register_buffer("weight", packed)
        self.register_buffer("grid", grid.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1]).contiguous()
        result = torch._weight_int4pack_mm_for_cpu(flat, self.weight, GROUP, self.grid)
        result = result.view(*inputs.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


def quantise(model: nn.Module, variant: Variant) -> None:
    """Make the variant of a loaded model. Raises EngineOptionsInvalid when it cannot run where the model lies."""
    device = next(model.parameters()).device.type
    if variant in _CPU_ONLY and device != "cpu":
        raise EngineOptionsInvalid(
            f"variant {variant!r} runs on a CPU only, and the model is on {device}: use int8-weight"
        )
    for parent, name, linear in list(_linears(model)):
        setattr(parent, name, _smaller(linear, variant))


def weight_bytes(model: nn.Module) -> int:
    """Bytes that a model's weights take, each tensor counted once; packed 8-bit ones count a byte each."""
    from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

    sizes = {each.data_ptr(): each.nbytes for each in (*model.parameters(), *model.buffers())}
    packed = [module for module in model.modules() if isinstance(module, DynamicLinear)]
    plain: int = sum(sizes.values())
    for module in packed:
        plain += int(module.in_features * module.out_features + 4 * module.out_features)
    return plain


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    embedded = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.data_ptr() not in embedded:
                yield parent, name, child


def _smaller(linear: nn.Linear, variant: Variant) -> nn.Module:
    match variant:
        case "none":
            return linear
        case "int8-dynamic":
            return _dynamic(linear)
        case "int8-weight":
            return Int8Linear(linear)
        case "int4-weight":
            fits = linear.in_features % GROUP == 0 and linear.out_features % 16 == 0
            return Int4Linear(linear) if fits else Int8Linear(linear)


def _dynamic(linear: nn.Linear) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    holder = nn.Sequential(linear.float())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao shall take its place one day; it is not a dependency
        quantised: nn.Sequential = quantize_dynamic(holder, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    return quantised[0]
