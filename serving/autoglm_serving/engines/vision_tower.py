"""The vision tower: pixels in, features out. In an engine beside its language model, in an encoder alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from autoglm_serving.engines.options import Dtype, TransformersOptions, npu
from autoglm_serving.engines.prompt import image_name
from autoglm_serving.engines.quantised import quantise
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.model.load import ModelImages, load_tower

Grid = tuple[int, int, int]
"""Frames, patches down and patches across of one image."""


@torch.inference_mode()
def encode(tower: Any, images: Sequence[tuple[torch.Tensor, Grid]]) -> list[torch.Tensor]:
    """The features of each image (pixels, grid), from one call of the tower (`Glm4vVisionModel`)."""
    pixels = torch.cat([pixels for pixels, _ in images]).to(tower.device, tower.dtype)
    grids = torch.tensor([grid for _, grid in images], device=tower.device)
    features = tower(pixels, grid_thw=grids, return_dict=True).pooler_output
    parts = features.split((grids.prod(-1) // tower.spatial_merge_size**2).tolist())
    # A part of the batch's tensor would keep the whole batch alive for as long as one image is cached.
    return [part.clone() if len(images) > 1 else part for part in parts]


@dataclass(frozen=True)
class Prepared:
    """An image as the tower reads it."""

    pixels: torch.Tensor
    grid: Grid
    tokens: int


class VisionTower:
    """The tower of a model without the rest of it. Made and used in one thread: torch keeps its number of threads per thread.

    Raises ModelInvalid or EngineOptionsInvalid, as an engine with these options does.
    """

    def __init__(self, folder: ModelFolder, options: TransformersOptions) -> None:
        torch.set_num_threads(options.threads)
        chosen = device(options.device)
        self._tower = load_tower(folder, dtype(options.dtype, chosen), chosen)
        quantise(self._tower, options.variant)

    def encode(self, images: Sequence[Prepared]) -> list[torch.Tensor]:
        """The features of images, on the CPU."""
        return [part.cpu() for part in encode(self._tower, [(image.pixels, image.grid) for image in images])]


def as_bytes(features: torch.Tensor) -> np.ndarray[Any, Any]:
    """Features as bytes: numpy does not know every type that torch has."""
    return features.contiguous().view(torch.uint8).numpy()


def from_bytes(values: np.ndarray[Any, Any], shape: Sequence[int], name: str) -> torch.Tensor:
    """The features that `as_bytes` was given, in memory of their own. `name` is the type as torch writes it."""
    known = {str(each): each for each in (torch.float32, torch.bfloat16, torch.float16)}
    return torch.tensor(values).view(known[name]).view(*shape)


@dataclass(frozen=True)
class Preparation:
    """How images become pixels. Any thread may use it."""

    images: ModelImages

    def name(self, key: str, width: int, height: int, max_pixels: int | None) -> str:
        """The image's name as an engine of this model has it. ValueError for an impossible shape."""
        return image_name(key, self.images.tokens(width, height, self.images.size.limited_to(max_pixels)))

    def prepared_bytes(self, width: int, height: int, max_pixels: int | None) -> int:
        """What `prepare` makes of a picture of this size. ValueError for an impossible shape."""
        grid = self.images.grid(width, height, self.images.size.limited_to(max_pixels))
        return math.prod(grid) * self.images.patch_values * torch.float32.itemsize

    def prepare(self, picture: Image, max_pixels: int | None) -> Prepared:
        """The picture as the tower reads it. ValueError for an impossible shape."""
        size = self.images.size.limited_to(max_pixels)
        grid = self.images.grid(picture.width, picture.height, size)
        pixels, _ = self.images.pixels(picture, size)
        return Prepared(pixels, grid, self.images.tokens(picture.width, picture.height, size))


def device(name: str) -> torch.device:
    """The device of `options.device`."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("npu" if npu() else "cpu")


def dtype(name: Dtype, chosen: torch.device) -> torch.dtype:
    """The type of `options.dtype` on a device."""
    if name == "auto":
        return torch.float32 if chosen.type == "cpu" else torch.bfloat16
    result: torch.dtype = getattr(torch, name)
    return result
