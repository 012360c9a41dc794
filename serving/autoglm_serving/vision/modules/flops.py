"""Floating-point operations of a call, counted by torch while it runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of matrix products, convolutions and attention of `call`, a multiply-add as two. Runs it once, without gradients.

    torch has no formula for the CPU's fused attention and for deformable convolutions: they are here.
    """
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.torchvision.deform_conv2d: _deformable_flops,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        },
    )
    with torch.no_grad(), counter:
        call()
    return int(counter.get_total_flops())


def _deformable_flops(_image: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """As a plain convolution; the interpolation of its sampling points is left out. Arguments are shapes."""
    batch, channels, height, width = out_shape
    return int(2 * batch * channels * height * width * weight[1] * weight[2] * weight[3])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any, **__: Any) -> int:  # noqa: ARG001
    """Both products over the whole square, also where half of it is masked. Arguments are shapes."""
    batch, heads, asked, size = query
    return int(2 * batch * heads * asked * key[2] * (size + value[3]))
