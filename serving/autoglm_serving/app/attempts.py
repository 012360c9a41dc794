"""How often a call is sent, and when: a lost replica costs nobody an answer as long as the client has seen nothing of it.

A stream may be sent again until its first token; a whole answer until its last. After that a lost replica is told to the
client, because a second replica would not continue the first one's text.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from autoglm_serving.app.calls import Backend, Call, ReplicaLost
from autoglm_serving.engines.interface import Delta
from autoglm_serving.wire import ApiError, api_error

ATTEMPTS = 2


async def open_stream(backend: Backend, call: Call) -> tuple[Delta, AsyncGenerator[Delta, None]]:
    """The first delta and the rest of its stream, which the caller must close."""
    for _ in range(ATTEMPTS):
        stream = backend.generate(call)
        try:
            return await anext(stream), stream
        except (ReplicaLost, StopAsyncIteration):
            await stream.aclose()
        except BaseException:
            await stream.aclose()
            raise
    raise lost()


async def collect(backend: Backend, call: Call) -> tuple[str, Delta]:
    """The whole text, and the last delta with its counts and finish reason."""
    for _ in range(ATTEMPTS):
        texts: list[str] = []
        try:
            async with aclosing(backend.generate(call)) as stream:
                async for delta in stream:
                    texts.append(delta.text)
                    if delta.finish_reason is not None:
                        return "".join(texts), delta
        except ReplicaLost:
            continue
    raise lost()


def lost() -> ApiError:
    """What the client reads when no attempt is left."""
    return api_error(
        "upstream_failed", "the model's process ended before the answer was complete: send the request again"
    )
