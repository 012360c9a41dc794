"""The learned grid of position vectors (24 x 24 in AutoGLM-Phone) at any size of picture.

The article "adaptation", section 2.3, interpolates bilinearly; `glm4v` bicubically at half-pixel centres. Neither needs
training.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

GridMethod = Literal["bicubic", "bilinear", "nearest", "clamp"]
"""bicubic is what `glm4v` does. clamp does not interpolate: patch i takes vector i, and beyond the grid the last one."""


def interpolate_grid(weight: Tensor, coordinates: Tensor, extents: Tensor, method: GridMethod = "bicubic") -> Tensor:
    """[G*G, C] learned vectors -> [P, C], one for each patch.

    coordinates [P, 2] row and column of the patch; extents [P, 2] rows and columns of its picture, in patches.
    """
    side = int(weight.shape[0] ** 0.5)
    if method == "clamp":
        place = coordinates.long().clamp(max=side - 1)
        return weight[place[:, 0] * side + place[:, 1]]
    learned = weight.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, C, G, G]
    centre = (coordinates.float() + 0.5) / extents.float() * 2 - 1  # [P, 2], -1 to 1
    points = centre.flip(-1)[None, :, None]  # [1, P, 1, 2] as (x, y)
    sampled = functional.grid_sample(learned, points, mode=method, align_corners=False, padding_mode="border")
    return sampled[0, :, :, 0].T.to(weight.dtype)


def resize_grid(weight: Tensor, height: int, width: int, method: GridMethod = "bicubic") -> Tensor:
    """[G*G, C] -> [height*width, C], row-major: the whole grid at another size."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coordinates = torch.stack((rows, columns), -1).flatten(0, 1).to(weight.device)
    return interpolate_grid(weight, coordinates, coordinates.new_tensor([height, width]).expand_as(coordinates), method)
