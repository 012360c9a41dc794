"""Floating-point operations of a call, counted by torch while it runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of matrix products, convolutions and attention of `call`, a multiply-add as two. Runs it once, without gradients.

    Attention is taken apart into matrix products, since torch has no formula for the fused CPU kernel.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable_flops})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


def _deformable_flops(_image: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """As a plain convolution; the interpolation of its sampling points is left out. Arguments are shapes."""
    batch, channels, height, width = out_shape
    return int(2 * batch * channels * height * width * weight[1] * weight[2] * weight[3])
