"""The engine replicas, reached through a Serve handle.

Calls travel by gRPC to the server that each replica has anyway, behind Ray's token: a message there costs a fraction of one
through Ray's object references. It takes no message above 4 MiB, so calls with large pictures go the other way.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from autoglm_serving.app.calls import Call, Event, Failure, ReplicaLost
from autoglm_serving.app.logs import log_lost
from autoglm_serving.engines.interface import Delta
from autoglm_serving.wire import api_error

ACCEPT_TIMEOUT_S = 60.0
"""How long a call may wait for a replica with a free place."""
STALL_TIMEOUT_S = 600.0
"""How long a replica may take for the next token. Real clients give up reading after 600 s."""
CHECK_TIMEOUT_S = 5.0
DIRECT_BYTES = 3 * 1024 * 1024
"""Of a call that may go by gRPC, which ends at 4 MiB with the request's metadata."""
FRESH_S = 10.0
"""For so long a sign of life of any replica counts."""


class Replicas:
    """Backend over `handle`, a Serve DeploymentHandle of the engine replicas."""

    def __init__(self, handle: Any, accept_timeout_s: float = ACCEPT_TIMEOUT_S) -> None:
        self._handle = handle
        self._by_reference = handle.options(stream=True)
        self._direct = handle.options(
            stream=True, _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        self._accept_timeout_s = accept_timeout_s
        self._last_sign: float | None = None

    async def generate(self, call: Call) -> AsyncGenerator[Delta, None]:
        """One attempt on the replica that Serve chooses; see Backend."""
        handle = self._direct if call.size <= DIRECT_BYTES else self._by_reference
        response = handle.generate.remote(call)
        finished = False
        try:
            event = await self._first(response)
            while not finished:
                if isinstance(event, Failure):
                    finished = True
                    if event.elsewhere:
                        raise ReplicaLost
                    raise event.error()
                if isinstance(event, Delta):
                    finished = event.finish_reason is not None
                    yield event
                if not finished:
                    event = await self._next(response, STALL_TIMEOUT_S)
        except TimeoutError:
            raise api_error("timeout", "the model produced nothing for too long: try again with less input") from None
        finally:
            if not finished:
                _cancel(response)

    async def healthy(self) -> bool:
        """Whether a replica has answered within FRESH_S, or answers a check now."""
        if self._last_sign is not None and time.monotonic() - self._last_sign < FRESH_S:
            return True
        response = self._handle.check.remote()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await response
        except Exception:  # noqa: BLE001 - whatever it is, no replica has answered
            _cancel(response)
            return False
        self._sign()
        return True

    async def _first(self, response: Any) -> Event:
        try:
            return await self._next(response, self._accept_timeout_s)
        except TimeoutError:
            raise api_error(
                "overloaded", "no replica of the model became free in time: try again in a moment"
            ) from None

    async def _next(self, response: Any, timeout_s: float) -> Event:
        """The replica's next event; raises TimeoutError, ApiError or ReplicaLost."""
        try:
            async with asyncio.timeout(timeout_s):
                event: Event = await anext(response)
        except TimeoutError:
            raise
        except BackPressureError:
            raise api_error(
                "overloaded", "all replicas are busy and the queue is full: try again in a moment"
            ) from None
        except DeploymentUnavailableError:
            raise api_error("not_ready", "the model is not running: try again later") from None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            log_lost(error)  # the replica cancelled it, not our client: it is being stopped
            raise ReplicaLost from None
        except Exception as error:  # noqa: BLE001 - Ray reports a dead process by many types; all mean the same to a call
            log_lost(error)
            raise ReplicaLost from None
        self._sign()
        return event

    def _sign(self) -> None:
        self._last_sign = time.monotonic()


def _cancel(response: Any) -> None:
    """Free what the call holds. A call that never reached a replica holds nothing, and Serve raises its error again."""
    with suppress(Exception):
        response.cancel()
