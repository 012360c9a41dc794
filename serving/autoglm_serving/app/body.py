"""Reading request bodies: bounded in size, in time, and in the sum over all requests of the process."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

from starlette.requests import Request

from autoglm_serving.wire import ApiError, api_error

BODY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 5.0
DRAIN_FACTOR = 4


class BufferSpace:
    """Bytes of all bodies that this process holds now, with a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        return self._used

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """Space for one request; given back at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self._used -= hold.size

    def take(self, size: int) -> None:
        """Raise ApiError `overloaded` when `size` more bytes do not fit."""
        if self._used + size > self._limit:
            raise api_error("overloaded", "too many large requests at once: try again in a moment")
        self._used += size


class Hold:
    """The space that one request holds."""

    def __init__(self, space: BufferSpace) -> None:
        self._space = space
        self.size = 0

    def take(self, size: int) -> None:
        self._space.take(size)
        self.size += size


async def read_body(request: Request, limit: int, hold: Hold, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The whole body; raises ApiError `body_too_large`, `timeout`, `overloaded` or `invalid_request`."""
    declared = _declared_length(request)
    chunks: list[bytes] = []
    async with aclosing(_chunks(request)) as stream:
        if declared is not None and declared > limit:
            await _drain(stream, limit * DRAIN_FACTOR)
            raise _too_large(limit)
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                async for chunk in stream:
                    size += len(chunk)
                    if size > limit:
                        break
                    hold.take(len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            raise ApiError(408, "timeout", f"the body did not arrive within {timeout_s:.0f} s", None) from None
        if size > limit:
            chunks.clear()
            await _drain(stream, limit * DRAIN_FACTOR)
            raise _too_large(limit)
    return b"".join(chunks)


async def _chunks(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        yield chunk


def _declared_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise api_error("invalid_request", "content-length must be a number", "content-length")
    return int(value[:20])


async def _drain(stream: AsyncIterator[bytes], limit: int) -> None:
    """Read on and throw away, for a while: most clients read no answer before they have sent everything."""
    size = 0
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            async for chunk in stream:
                size += len(chunk)
                if size > limit:
                    return
    except TimeoutError:
        return


def _too_large(limit: int) -> ApiError:
    return api_error("body_too_large", f"the body is larger than {limit} bytes: send fewer or smaller images")
