"""One engine replica: a process that holds the model, decodes images and generates."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar, runtime_checkable

from autoglm_serving.app.bundles import WHOLE_PAUSE_S, bundled, pause_of_streams
from autoglm_serving.app.calls import Accepted, Call, EncodedImage, Event, Failure
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.logs import log_engine_dead, log_ready, log_unexpected
from autoglm_serving.app.metrics import ReplicaMetrics
from autoglm_serving.config import AppConfig
from autoglm_serving.engines.interface import (
    Delta,
    Engine,
    EngineDead,
    EngineOptionsInvalid,
    EngineOverloaded,
    GenerateRequest,
    GenerationFailed,
    ImagePart,
    Message,
    PromptRefused,
    PromptTooLong,
    TakesFeatures,
)
from autoglm_serving.engines.options import decoded_cache_bytes
from autoglm_serving.model.errors import ModelInvalid, ModelNotFound, one_line
from autoglm_serving.replica_routing.ledger import CacheSizes, Ledger
from autoglm_serving.wire import ApiError

T = TypeVar("T")

EXIT_ENGINE_DEAD = 70
WATCH_S = 0.5
"""How often a replica looks whether its engine has died."""
EXIT_DELAY_S = 0.2
"""Time for the last events to leave. Without it they are lost, which callers treat the same way."""


class ModelUnavailable(RuntimeError):
    """The model cannot be used. Serve shows this text in the application's message: its last line is the reason."""


def end_process() -> None:
    """End this replica's process. Serve starts another at once; a dead engine would only swallow requests."""
    os._exit(EXIT_ENGINE_DEAD)


@runtime_checkable
class CachingEngine(Protocol):
    """An engine that keeps encoded images or prefixes from one call to the next."""

    def cache_sizes(self) -> CacheSizes:
        """How much it keeps, once it is started."""


@runtime_checkable
class TellsStart(Protocol):
    """An engine that knows how long the parts of its start took."""

    def start_seconds(self) -> Mapping[str, float]:
        """By part (`engines.startup.Phase`), once it is started."""


class Pictures(Protocol):
    """Where the images of calls come from."""

    async def part(self, image: EncodedImage, tenant: str, max_pixels: int | None) -> ImagePart:
        """The image as the engine takes it; raises ApiError when it cannot be used."""


class EngineReplica:
    """The class of the Serve deployment `Engine`. `args` is an AppConfig."""

    def __init__(
        self,
        args: dict[str, Any],
        create: Callable[[AppConfig], Engine] | None = None,
        end: Callable[[], None] = end_process,
        encoder: Any = None,
    ) -> None:
        """`encoder` is the Serve handle of the encoders, where there are any."""
        self._begun = time.monotonic()
        self._config = AppConfig.model_validate(args)
        self._engine = _create(self._config, create)
        self._end = end
        self._decoder = Decoder(self._config.limits.max_image_pixels)
        self._decoded = DecodedCache(self._decoder, decoded_cache_bytes(self._config.engine))
        self._pictures: Pictures = self._decoded if encoder is None else self._split(self._decoded, encoder)
        self._metrics = ReplicaMetrics()
        self._ledger = Ledger(CacheSizes())
        self._streams = 0
        self._watch: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self) -> None:
        """Load the model; raises ModelUnavailable when that can never work."""
        try:
            await self._engine.start()
        except (ModelNotFound, ModelInvalid, EngineOptionsInvalid) as error:
            raise ModelUnavailable(one_line(error)) from None
        self._decoder.warm()
        if isinstance(self._engine, CachingEngine):
            self._ledger = Ledger(self._engine.cache_sizes())
        self._watch = asyncio.create_task(self._end_with_engine())
        self._tell_start()

    async def generate(self, call: Call) -> AsyncGenerator[Event, None]:
        """Deltas, or a Failure; before them Accepted if they take long. Closing or cancelling it frees the engine's place."""
        entry = self._ledger.begin(call.footprint, time.monotonic())
        finished = False
        self._streams += call.streamed
        try:
            async with aclosing(self._deltas(call)) as deltas, aclosing(bundled(deltas, self._pause(call))) as bundles:
                async for delta in bundles:
                    if delta is None:
                        yield Accepted()
                        continue
                    self._ledger.answered(entry, delta.completion_tokens, time.monotonic())
                    finished = delta.finish_reason is not None
                    yield delta
        except Exception as error:  # noqa: BLE001 - failures travel as values, so that no exception text leaves this process
            yield self._failure(error)
        finally:
            self._streams -= call.streamed
            self._ledger.end(entry, finished, time.monotonic())

    async def record_routing_stats(self) -> dict[str, Any]:
        """Serve asks for this once a second, for the routers. A sync method would run in another thread."""
        self._metrics.publish(self._engine.stats(), {"decoded": self._decoded.figures})
        return self._ledger.report().as_dict()

    async def check(self) -> str:
        """This replica's revision, if its engine works."""
        await self._engine.check()
        return self._config.revision

    async def check_health(self) -> None:
        """Serve calls this again and again; it raises when the replica must be replaced."""
        await self._engine.check()

    async def close(self) -> None:
        """Stop the engine. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
        self._decoder.close()
        await self._engine.close()

    def _tell_start(self) -> None:
        seconds = time.monotonic() - self._begun
        parts: dict[str, float] = {}
        if isinstance(self._engine, TellsStart):
            parts.update(self._engine.start_seconds())
        parts["rest"] = seconds - sum(parts.values())
        self._metrics.started(parts)
        log_ready(seconds, parts)

    async def _end_with_engine(self) -> None:
        """End this process when the engine has died, although nobody asks it for anything."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._engine.check()
            except EngineDead as error:
                self._end_soon(error)
                return

    def _end_soon(self, error: EngineDead) -> None:
        if self._ending:
            return
        self._ending = True
        log_engine_dead(error)
        asyncio.get_running_loop().call_later(EXIT_DELAY_S, self._end)

    async def _deltas(self, call: Call) -> AsyncGenerator[Delta, None]:
        request = await self._request(call)
        async with aclosing(self._engine.generate(request)) as deltas:
            async for delta in deltas:
                yield delta

    def _pause(self, call: Call) -> Callable[[], float]:
        return (lambda: pause_of_streams(self._streams)) if call.streamed else (lambda: WHOLE_PAUSE_S)

    async def _request(self, call: Call) -> GenerateRequest:
        return GenerateRequest(
            request_id=call.request_id,
            messages=await self._messages(call),
            max_new_tokens=call.max_new_tokens,
            temperature=call.temperature,
            top_p=call.top_p,
            frequency_penalty=call.frequency_penalty,
            stop=call.stop,
            seed=call.seed,
            max_pixels=call.max_pixels,
            tenant=call.tenant,
        )

    def _split(self, decoded: DecodedCache, encoder: Any) -> "Pictures":
        from autoglm_serving.app.pictures import SplitPictures

        settings = self._config.encoder
        if settings is None or not isinstance(self._engine, TakesFeatures):
            raise ModelUnavailable(
                f"EngineOptionsInvalid: engine {self._config.engine.name!r} takes no encoder's features"
            )
        return SplitPictures(decoded, self._engine, encoder, self._config.revision, settings.wait_s)

    async def _messages(self, call: Call) -> tuple[Message, ...]:
        """The call's turns with their images, which are all made ready at the same time."""
        wanted = [part for turn in call.turns for part in turn.parts if isinstance(part, EncodedImage)]
        ready = iter(await all_of(self._pictures.part(image, call.tenant, call.max_pixels) for image in wanted))
        return tuple(
            Message(turn.role, tuple(next(ready) if isinstance(part, EncodedImage) else part for part in turn.parts))
            for turn in call.turns
        )

    def _failure(self, error: Exception) -> Failure:
        match error:
            case ApiError():
                return Failure(error.code, error.message, error.param)
            case PromptTooLong():
                return Failure(
                    "context_length_exceeded",
                    f"the prompt has {error.prompt_tokens} tokens, and at most {error.limit} are allowed for prompt and "
                    "answer together: shorten the history or send a smaller image",
                    "messages",
                )
            case PromptRefused():
                return Failure("invalid_request", str(error), "messages")
            case EngineOverloaded():
                return Failure("overloaded", "the replica is full: try again in a moment")
            case EngineDead():
                self._end_soon(error)
                return Failure("upstream_failed", "the model's process ended", elsewhere=True)
            case GenerationFailed():
                log_unexpected(error)
                return Failure("upstream_failed", "the model failed on this request: send it again")
            case _:
                log_unexpected(error)
                return Failure("internal_error", "the server failed on this request: send it again")


def _create(config: AppConfig, create: Callable[[AppConfig], Engine] | None) -> Engine:
    if create is None:
        from autoglm_serving.engines.factory import create_engine

        create = create_engine
    try:
        return create(config)
    except (ModelNotFound, ModelInvalid, EngineOptionsInvalid) as error:
        raise ModelUnavailable(one_line(error)) from None


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first error ends the rest of the work and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
