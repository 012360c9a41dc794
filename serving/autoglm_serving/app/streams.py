"""Answers as server-sent events, and work that ends when its client does."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from autoglm_serving.app.attempts import lost
from autoglm_serving.app.calls import ReplicaLost
from autoglm_serving.engines.interface import Delta
from autoglm_serving.protocol import DONE, Answer, Usage, error_event, event
from autoglm_serving.wire import ApiError

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """Events that go out together. `end` comes with the last ones: the last Delta, or the error that broke the answer off."""

    data: bytes
    end: Delta | ApiError | None = None


class EventStream(Response):
    """An answer as events. It ends, and frees the engine, as soon as the client is gone."""

    def __init__(self, answer: Answer, first: Delta, rest: AsyncGenerator[Delta, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._answer = answer
        self._first = first
        self._rest = rest

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            with suppress(ClientDisconnect):
                await unless_gone(self._send(scope, send), receive)

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in events(self._answer, self._first, self._rest):
            if isinstance(piece.end, Delta):
                scope["autoglm.last"] = piece.end
            elif piece.end is not None:
                scope["autoglm.code"] = piece.end.code
            await send({"type": "http.response.body", "body": piece.data, "more_body": piece.end is None})


async def events(answer: Answer, first: Delta, rest: AsyncGenerator[Delta, None]) -> AsyncGenerator[Piece, None]:
    """The events of a stream.

    What is known at one time is one piece: each costs a message between Serve's processes.
    After a fault comes an error event and no [DONE], so that no client takes half an answer for a whole one.
    """
    delta = first
    data = event(answer.first()) + _text(answer, first)
    try:
        while delta.finish_reason is None:
            if data:
                yield Piece(data)
            delta = await anext(rest)
            data = _text(answer, delta)
    except (ApiError, ReplicaLost, StopAsyncIteration) as fault:
        error = fault if isinstance(fault, ApiError) else lost()
        yield Piece(error_event(error), error)
        return
    data += event(answer.last(delta.finish_reason))
    if answer.include_usage:
        data += event(answer.usage(usage(delta)))
    yield Piece(data + DONE, delta)


def _text(answer: Answer, delta: Delta) -> bytes:
    return event(answer.text(delta.text)) if delta.text else b""


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`; cancels it and raises ClientDisconnect when the client goes first."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def usage(delta: Delta) -> Usage:
    """The counts so far, as OpenAI writes them."""
    return Usage(delta.prompt_tokens, delta.completion_tokens, delta.image_tokens, delta.cached_tokens)
