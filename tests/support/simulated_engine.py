"""An engine that takes the time a real one would take and computes nothing, with real caches of images and prefixes.

One prompt is read at a time, as in a real engine; answers run beside each other. Costs are in seconds for one token. What
an answer says is what the caches did, so that a client can count.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass

from PIL import Image

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.interface import Delta, EngineStats, GenerateRequest, ImagePart
from autoglm_serving.replica_routing.footprint import Footprint, ImagePiece, TextPiece, footprint, image_name
from autoglm_serving.replica_routing.ledger import CacheSizes, RecentNames, uncached
from autoglm_serving.vision.sizing import image_tokens

ENCODE_S = 0.0004
PREFILL_S = 0.0003
DECODE_S = 0.015
SIZES = CacheSizes(image_tokens=10 * 800, prefix_tokens=30_000)


@dataclass(frozen=True)
class Seen:
    """What one answer cost: tokens of the prompt and of its images, and how many of them had to be computed."""

    replica: int
    image_tokens: int
    encoded: int
    prompt_tokens: int
    prefilled: int


class SimulatedEngine:
    """Costs and caches of an engine, without the engine."""

    def __init__(self, _config: AppConfig) -> None:
        self._images = RecentNames(SIZES.image_tokens)
        self._keys = RecentNames(SIZES.prefix_tokens)
        self._reading = asyncio.Lock()
        self._running = 0

    def cache_sizes(self) -> CacheSizes:
        return SIZES

    async def start(self) -> None:
        """Nothing is loaded."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        call = _footprint(request)
        self._running += 1
        try:
            async with self._reading:
                encode, prefill = uncached(call, self._images, self._keys)
                await asyncio.sleep(encode * ENCODE_S + prefill * PREFILL_S)
                for block in reversed(call.blocks):
                    self._keys.touch(block.key, block.tokens)
                    if block.image is not None:
                        self._images.touch(block.image, block.tokens)
            seen = Seen(os.getpid(), call.image_tokens, encode, call.prompt_tokens, prefill)
            yield Delta(json.dumps(asdict(seen)), None, call.prompt_tokens, 1, call.image_tokens)
            await asyncio.sleep(DECODE_S * (request.max_new_tokens - 1))
            yield Delta("", "length", call.prompt_tokens, request.max_new_tokens, call.image_tokens)
        finally:
            self._running -= 1

    async def check(self) -> None:
        """It never dies."""

    async def close(self) -> None:
        """Nothing is held."""

    def stats(self) -> EngineStats:
        return EngineStats(self._running, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0)


def _image_piece(role: str, part: ImagePart, tenant: str) -> ImagePiece:
    assert isinstance(part.image, Image.Image), "nothing is split from this engine"
    return ImagePiece(role, image_name(part.image.tobytes(), tenant), image_tokens(*part.image.size))


def _footprint(request: GenerateRequest) -> Footprint:
    """The engine's own view, from the decoded pixels: it does not ask the router what is the same."""
    pieces = [
        _image_piece(message.role, part, request.tenant)
        if isinstance(part, ImagePart)
        else TextPiece(message.role, part.text)
        for message in request.messages
        for part in message.parts
    ]
    return footprint(pieces, request.max_new_tokens, request.tenant)
