"""The HTTP side and one engine replica in one process: everything of the application but Ray's transport."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx2 as httpx

from autoglm_serving.app.calls import Call, Event
from autoglm_serving.app.engine_replica import EngineReplica
from autoglm_serving.app.http import create_app
from autoglm_serving.app.replicas import Replicas
from autoglm_serving.config import AppConfig, EngineConfig, Limits, ModelConfig
from support.scripted_engine import ScriptedEngine

MODEL = "autoglm-phone-9b"


def app_config(**changes: Any) -> AppConfig:
    """A configuration for tests."""
    values: dict[str, Any] = {
        "deployment": "default/quickstart",
        "uid": "0000-uid",
        "revision": "rev-1",
        "model": ModelConfig(name=MODEL, uri="builtin://autoglm-tiny"),
        "engine": EngineConfig(max_concurrency=2),
        "limits": Limits(),
    }
    return AppConfig(**{**values, **changes})


class Response:
    """What a Serve handle returns for a streaming call, without Ray."""

    def __init__(self, replica: EngineReplica, call: Call, raises: Exception | None) -> None:
        self._events = replica.generate(call)
        self._raises = raises
        self.cancelled = False

    async def __anext__(self) -> Event:
        if self._raises is not None:
            raise self._raises
        return await anext(self._events)

    def cancel(self) -> None:
        if self._raises is not None:
            raise self._raises  # as Serve does for a call that never reached a replica
        self.cancelled = True
        self._closing = asyncio.ensure_future(self._events.aclose())


class Handle:
    """A Serve DeploymentHandle over replicas of this process: the first call goes to the first, and so on around."""

    def __init__(self, replicas: Iterable[EngineReplica]) -> None:
        self.replicas = list(replicas)
        self.calls: list[Call] = []
        self.by_reference: list[bool] = []
        self.raises: list[Exception] = []
        self.check_error: Exception | None = None

    @property
    def check(self) -> "_Check":
        return _Check(self)

    def options(self, *, stream: bool, _by_reference: bool = True, **_serialization: str) -> "_Way":
        assert stream
        return _Way(self, _by_reference)

    def send(self, call: Call, by_reference: bool) -> Response:
        replica = self.replicas[len(self.calls) % len(self.replicas)]
        self.calls.append(call)
        self.by_reference.append(by_reference)
        return Response(replica, call, self.raises.pop(0) if self.raises else None)


class _Way:
    """The handle with options."""

    def __init__(self, handle: Handle, by_reference: bool) -> None:
        self._handle = handle
        self._by_reference = by_reference

    @property
    def generate(self) -> "_Way":
        return self

    def remote(self, call: Call) -> Response:
        return self._handle.send(call, self._by_reference)


class _Check:
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def remote(self) -> "asyncio.Task[str]":
        return asyncio.ensure_future(self._run())

    async def _run(self) -> str:
        if self._handle.check_error is not None:
            raise self._handle.check_error
        return await self._handle.replicas[0].check()


class Serving:
    """The parts of one application in this process."""

    def __init__(self, config: AppConfig, replicas: int, end: Callable[[], None]) -> None:
        self.config = config
        self.engines: list[ScriptedEngine] = []
        arguments = config.model_dump(mode="json", by_alias=True)
        self.handle = Handle(EngineReplica(arguments, self._create, end) for _ in range(replicas))
        self.app = create_app(config, Replicas(self.handle))

    def _create(self, config: AppConfig) -> ScriptedEngine:
        self.engines.append(ScriptedEngine(config))
        return self.engines[-1]


@contextlib.asynccontextmanager
async def serving(
    config: AppConfig | None = None, replicas: int = 1, end: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[httpx.AsyncClient, Serving]]:
    """A client of an application in this process."""
    parts = Serving(config or app_config(), replicas, end)
    transport = httpx.ASGITransport(parts.app, raise_app_exceptions=True)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client:
            yield client, parts
    finally:
        for replica in parts.handle.replicas:
            await replica.close()
