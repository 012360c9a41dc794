"""Variants of a loaded model with smaller weights: its linear layers replaced in place, everything else as it is.

    int8-dynamic  weights in 8 bits and, at each call, each token in 7; computed in integers (x86 CPU)
    int8-weight   weights in 8 bits with one scale for each output; computed in the model's own type
    int4-weight   weights in 4 bits with a scale and an offset for each 32 inputs; computed in 16 bits (CPU)

Embeddings, norms and convolutions stay, and so does a head that shares its weights with the embedding: a second copy in 8
bits would make the model larger.
"""

from collections.abc import Iterator
from typing import get_args

import torch
from torch import nn

from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import Variant

VARIANTS: tuple[Variant, ...] = get_args(Variant)
GROUP = 32
"""Inputs that share a scale at 4 bits: the smallest group that torch's CPU kernel has, and the most exact."""
LEVELS = 127
"""Largest code of an activation with 7 bits."""
_CPU_ONLY = frozenset({"int8-dynamic", "int4-weight"})
_INTEGER_KERNELS = ("x86", "fbgemm")
"""Where torch has the kernel that multiplies codes of 7 bits without a range of the whole call."""


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
        if inputs.device.type == "cpu" and inputs.dtype is not torch.float32:
            result = torch._weight_int8pack_mm(flat, self.weight, self.scale)
        else:  # torch has no vector code for that in float32: with 64 tokens it takes 20 times as long as this
            result = nn.functional.linear(flat, self.weight.to(flat.dtype)) * self.scale
        result = result.view(*inputs.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


class DynamicInt8Linear(nn.Module):
    """A linear layer whose weights take one byte each, and which computes in integers.

    Each token has a range of its own, found when it comes. So what a token gives does not depend on the tokens beside it, to
    the last bit: one range over a whole call, as torch's dynamic quantisation has it, would make a cached block depend on
    somebody else's tokens. Tokens take 7 bits, because two products of 8 bits overflow the 16 bits in which CPUs without
    VNNI add them.
    """

    sums: torch.Tensor
    bias: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(dim=1).clamp(min=1e-12) / 127).double()
        zeros = torch.zeros(linear.out_features, dtype=torch.long)
        codes = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(codes, None)
        self.register_buffer("sums", codes.dequantize().sum(dim=1))
        bias: nn.Parameter | None = linear.bias
        self.register_buffer("bias", torch.zeros(linear.out_features) if bias is None else bias.detach().float())
        self.packed_bytes = weight.numel() + scale.numel() * 4

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        low = flat.amin(dim=-1, keepdim=True).clamp(max=0)
        step = ((flat.amax(dim=-1, keepdim=True).clamp(min=0) - low) / LEVELS).clamp(min=1e-12)
        zero = (-low / step).round()
        codes = ((flat / step).round() + zero).clamp(0, LEVELS)
        products = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(codes, 1.0, 0, self.packed)
        return torch.addcmul(self.bias, step, products - zero * self.sums).view(*inputs.shape[:-1], -1)


class Int4Linear(nn.Module):
    """A linear layer whose weights take half a byte each, and 4 bytes more for each group.

    It computes in bfloat16 where the model computes in float32: torch has no vector code for that, and takes 30 times as long.
    """

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
        own = linear.weight.dtype
        self.register_buffer("grid", grid.to(torch.bfloat16 if own is torch.float32 else own))
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1]).to(self.grid.dtype).contiguous()
        result = torch._weight_int4pack_mm_for_cpu(flat, self.weight, GROUP, self.grid).to(inputs.dtype)
        result = result.view(*inputs.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


def quantise(model: nn.Module, variant: Variant) -> None:
    """Make the variant of a loaded model. Raises EngineOptionsInvalid when it cannot run where the model lies."""
    device = next(model.parameters()).device.type
    if variant in _CPU_ONLY and device != "cpu":
        raise EngineOptionsInvalid(
            f"variant {variant!r} runs on a CPU only, and the model is on {device}: use int8-weight"
        )
    if variant == "int8-dynamic" and torch.backends.quantized.engine not in _INTEGER_KERNELS:
        raise EngineOptionsInvalid("variant 'int8-dynamic' needs an x86 CPU: use int8-weight")
    for parent, name, linear in list(_linears(model)):
        setattr(parent, name, _smaller(linear, variant))


def weight_bytes(model: nn.Module) -> int:
    """Bytes that a model's weights take, each tensor counted once; packed 8-bit ones count a byte each."""
    sizes = {each.data_ptr(): each.nbytes for each in (*model.parameters(), *model.buffers())}
    packed = [module.packed_bytes for module in model.modules() if isinstance(module, DynamicInt8Linear)]
    return sum(sizes.values()) + sum(packed)


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
            return DynamicInt8Linear(linear)
        case "int8-weight":
            return Int8Linear(linear)
        case "int4-weight":
            fits = linear.in_features % GROUP == 0 and linear.out_features % 16 == 0
            return Int4Linear(linear) if fits else Int8Linear(linear)
