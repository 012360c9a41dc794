"""Pictures of the transformers engine: pixels prepared ahead in any thread, features computed once in the worker thread."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoglm_serving.engines.interface import EncodedPicture
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.shared_cache import MIB, SharedCache
from autoglm_serving.engines.vision_tower import Grid, encode
from autoglm_serving.model.load import ModelImages
from autoglm_serving.vision.cache import CacheFigures


@dataclass(frozen=True)
class CacheBounds:
    """Bytes that the caches of pictures may hold."""

    pixels: int = 128 * MIB
    features: int = 256 * MIB


class Pictures:
    """The pixels and the features of images, by name (`Prompt.image_names`). Cached values are shared: nobody changes them."""

    def __init__(self, images: ModelImages, bounds: CacheBounds) -> None:
        self._images = images
        self._pixels: SharedCache[torch.Tensor] = SharedCache(bounds.pixels)
        self._features: SharedCache[torch.Tensor] = SharedCache(bounds.features)

    @property
    def figures(self) -> Mapping[str, CacheFigures]:
        return {"pixels": self._pixels.figures, "features": self._features.figures}

    def prepared(self, prompt: Prompt) -> Prompt:
        """The prompt with the pixels of the images whose features are not known. Any thread may do this ahead."""
        pixels = {
            index: self._prepare(prompt, index) for index in range(len(prompt.images)) if self.lacks(prompt, index)
        }
        return replace(prompt, pixels=pixels)

    def lacks(self, prompt: Prompt, index: int) -> bool:
        """Whether the features of one image have to be computed: they neither came with it nor are cached."""
        return not (isinstance(prompt.images[index], EncodedPicture) or self._features.holds(prompt.image_names[index]))

    def grid(self, prompt: Prompt, index: int) -> Grid:
        """Frames, patches down and patches across of one image."""
        image = prompt.images[index]
        return self._images.grid(image.width, image.height, prompt.image_size)

    def known(self, prompt: Prompt, index: int) -> torch.Tensor | None:
        """The features of one image, if they came with it or are cached."""
        image, name = prompt.images[index], prompt.image_names[index]
        if not isinstance(image, EncodedPicture):
            return self._features.get(name)
        if not self._features.holds(name):
            self._features.put(name, image.features, image.features.nbytes)
        return image.features

    def cached(self, name: str) -> torch.Tensor | None:
        """The features of an image by its name, if they are cached."""
        return self._features.get(name)

    def encode(self, model: Any, wanted: Iterable[tuple[Prompt, int]]) -> dict[str, torch.Tensor]:
        """The features of these images, by name, from one call of the vision tower."""
        unique = {prompt.image_names[index]: (prompt, index) for prompt, index in wanted}
        parts = encode(
            model.model.visual,
            [(self._pixels_of(prompt, index), self.grid(prompt, index)) for prompt, index in unique.values()],
        )
        features = dict(zip(unique, parts, strict=True))
        for name, value in features.items():
            self._features.put(name, value, value.nbytes)
        return features

    def _pixels_of(self, prompt: Prompt, index: int) -> torch.Tensor:
        ahead = prompt.pixels.get(index)
        return ahead if ahead is not None else self._prepare(prompt, index)

    def _prepare(self, prompt: Prompt, index: int) -> torch.Tensor:
        name = prompt.image_names[index]
        pixels = self._pixels.get(name)
        if pixels is None:
            image = prompt.images[index]
            assert not isinstance(image, EncodedPicture), "its features came with it"
            pixels, _ = self._images.pixels(image, prompt.image_size)
            self._pixels.put(name, pixels, pixels.nbytes)
        return pixels
