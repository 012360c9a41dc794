"""Bringing a coarse map onto a finer one's grid: three ways, one interface.

The article "multi-scale", section 2.3: bilinear up-sampling, 1x1 channel alignment, deformable convolution.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

KERNEL = 3


class Alignment(nn.Module, ABC):
    """A coarse map in, a map of the fine one's size out."""

    @abstractmethod
    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """coarse [B, C, h, w], fine [B, C, H, W] -> [B, C, H, W]."""


class Bilinear(Alignment):
    """Up-sampling with half-pixel centres (align_corners=False). No parameters."""

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return upsample(coarse, fine)


class Pointwise(Alignment):
    """Bilinear, then a 1x1 convolution that matches the channels of the two scales. Starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.channels.weight)
        assert self.channels.bias is not None
        nn.init.zeros_(self.channels.bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return self.channels(upsample(coarse, fine))


class Deformable(Alignment):
    """Bilinear, then a 3x3 depthwise convolution whose sampling points move by offsets predicted from both maps.

    Deformable convolution (Dai et al. 2017), with masks as in its second version (Zhu et al. 2019); FaPN (Huang et al. 2021)
    aligns pyramids this way. Offsets start at zero and masks at one: a plain convolution, which starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        points = KERNEL * KERNEL
        self.offsets = nn.Conv2d(2 * channels, 3 * points, KERNEL, padding=1)  # y and x of each point, and its mask
        self.weight = nn.Parameter(torch.empty(channels, 1, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.dirac_(self.weight, groups=channels)
        nn.init.zeros_(self.offsets.weight)
        assert self.offsets.bias is not None
        nn.init.zeros_(self.offsets.bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        moved = upsample(coarse, fine)
        predicted = self.offsets(torch.cat((fine, moved), 1))  # [B, 27, H, W]
        offset, mask = predicted.split((2 * KERNEL * KERNEL, KERNEL * KERNEL), 1)
        aligned: Tensor = deform_conv2d(moved, offset, self.weight, self.bias, padding=1, mask=2 * torch.sigmoid(mask))
        return aligned


def upsample(coarse: Tensor, fine: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, H, W], bilinear."""
    return functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
