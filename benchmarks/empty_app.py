"""A Serve application that does nothing: what Serve itself costs on the way of a streamed request.

An ingress reads the body and asks a replica through a handle, which answers with single letters as the application's bundles
come: the first at once, one for each pause after it. Import path: `benchmarks.empty_app:build`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from autoglm_serving.app.bundles import STREAM_PAUSE_S


class Letters:
    """The replica."""

    async def generate(self, _body: bytes, messages: int) -> AsyncGenerator[str, None]:
        for index in range(messages):
            if index:
                await asyncio.sleep(STREAM_PAUSE_S)
            yield "x"


class Front:
    """The ingress. `messages` is how many an answer has."""

    def __init__(self, letters: DeploymentHandle, messages: int) -> None:
        self._letters = letters.options(stream=True)
        self._messages = messages

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> StreamingResponse:
        stream = self._letters.generate.remote(await request.body(), self._messages)

        async def events() -> AsyncGenerator[bytes, None]:
            async for text in stream:
                yield _event({"choices": [{"delta": {"content": text}}]})
            yield _event({"choices": [], "usage": {"completion_tokens": self._messages}})

        return StreamingResponse(events(), media_type="text/event-stream")


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def build(args: dict[str, Any]) -> Application:
    """`args`: {"messages": how many an answer has}."""
    letters = serve.deployment(Letters, name="Letters", max_ongoing_requests=8)
    front = serve.deployment(
        serve.ingress()(Front), name="Front", num_replicas=2, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=64
    )
    return front.bind(letters.bind(), args["messages"])
