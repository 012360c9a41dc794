"""Decoded pictures by the hash of what was sent, so that a picture that comes again is not decoded again."""

import asyncio
from typing import Protocol

from PIL import Image

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.engines.interface import ImagePart
from autoglm_serving.engines.shared_cache import SharedCache
from autoglm_serving.vision.cache import CacheFigures, key

BYTES_PER_PIXEL = 3


class Decodes(Protocol):
    """What decodes pictures (`app.decoding.Decoder`)."""

    async def decode(self, image: EncodedImage) -> Image.Image:
        """The picture in RGB; raises ApiError when it cannot be decoded."""


class DecodedCache:
    """At most `capacity` bytes of decoded pictures; 0 keeps none. A picture that was refused is not remembered."""

    def __init__(self, decoder: Decodes, capacity: int) -> None:
        self._decoder = decoder
        self._pictures: SharedCache[Image.Image] = SharedCache(capacity)

    @property
    def figures(self) -> CacheFigures:
        return self._pictures.figures

    async def part(self, image: EncodedImage, tenant: str, _max_pixels: int | None = None) -> ImagePart:
        """The picture with the key by which the engine's caches know it. Nobody may change it: it is shared."""
        return await self.named(image, await self.name(image, tenant))

    async def name(self, image: EncodedImage, tenant: str) -> str:
        """The key of a picture: its tenant and what was sent."""
        claimed = f"rgb {image.size.width}x{image.size.height}"  # a wrong claim must be refused every time
        return await asyncio.to_thread(key, tenant, image.data, claimed)

    async def named(self, image: EncodedImage, name: str) -> ImagePart:
        """The picture of this key."""
        picture = self._pictures.get(name)
        if picture is None:
            picture = await self._decoder.decode(image)
            self._pictures.put(name, picture, BYTES_PER_PIXEL * picture.width * picture.height)
        return ImagePart(picture, name)
