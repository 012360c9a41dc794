"""The engine behind our HTTP side in one process, without Ray: `python -m benchmarks.cold.bare CONFIG PORT`.

CONFIG is an AppConfig as JSON. It writes a line of JSON when the engine is ready, and one for each request with the seconds
until its picture was decoded.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import uvicorn

from autoglm_serving.app.calls import Call, EncodedImage
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.http import create_app
from autoglm_serving.config import AppConfig
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import Delta, GenerateRequest, Message
from autoglm_serving.engines.options import decoded_cache_bytes


def tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Bare:
    """One engine as the backend of the HTTP side."""

    def __init__(self, config: AppConfig, engine: Any) -> None:
        self._engine = engine
        self._decoder = Decoder(config.limits.max_image_pixels)
        self._decoder.warm()
        self._pictures = DecodedCache(self._decoder, decoded_cache_bytes(config.engine))

    async def generate(self, call: Call) -> AsyncGenerator[Delta, None]:
        begun = time.monotonic()
        messages = [
            Message(turn.role, tuple([await self._part(part, call) for part in turn.parts])) for turn in call.turns
        ]
        tell(decoded_s=time.monotonic() - begun)
        request = GenerateRequest(call.request_id, tuple(messages), call.max_new_tokens, call.temperature)
        async with aclosing(self._engine.generate(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def _part(self, part: Any, call: Call) -> Any:
        return await self._pictures.part(part, call.tenant) if isinstance(part, EncodedImage) else part

    async def healthy(self) -> bool:
        return True


async def serve(config: AppConfig, port: int) -> None:
    begun = time.monotonic()
    engine = create_engine(config)
    await engine.start()
    backend = Bare(config, engine)
    ready = time.monotonic()
    seconds = dict(engine.start_seconds())  # type: ignore[attr-defined]  # of both engines that are measured
    tell(begun=begun, ready=ready, parts={**seconds, "rest": ready - begun - sum(seconds.values())})
    app = create_app(config, backend)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(AppConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])))
