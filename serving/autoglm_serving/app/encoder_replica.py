"""One encoder: a process that holds the vision tower alone and turns images into features in Ray's object store."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from autoglm_serving.app.calls import Failure
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.encoder_calls import Features, WantedFeatures
from autoglm_serving.app.engine_replica import ModelUnavailable
from autoglm_serving.app.logs import log_encoded, log_unexpected
from autoglm_serving.app.room import Room
from autoglm_serving.app.tower_turns import TowerTurns
from autoglm_serving.config import AppConfig, EncoderConfig
from autoglm_serving.encoders import RATE, Arrivals
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import TransformersOptions, on_what_it_takes, parse_options
from autoglm_serving.engines.prompt import impossible_image
from autoglm_serving.engines.shared_cache import MIB, SharedCache
from autoglm_serving.model.errors import ModelInvalid, ModelNotFound, one_line
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages
from autoglm_serving.model.locate import locate
from autoglm_serving.vision.sizing import MAX_PIXELS as MODEL_PIXELS
from autoglm_serving.vision.sizing import image_tokens
from autoglm_serving.wire import ApiError, api_error

if TYPE_CHECKING:
    from autoglm_serving.engines.vision_tower import Preparation, Prepared, VisionTower

ROOM = 512 * MIB
"""Pictures that are decoded and prepared but not encoded yet. One of 50 million pixels takes 260 MiB."""
RGB = 3
MOST_FAILURES = 3
"""Calls of the tower that may fail one after the other before the encoder is replaced."""


@dataclass(eq=False)
class _Job:
    """One image on its way. Without anybody who waits for it, it is dropped unless it has begun."""

    task: "asyncio.Task[Features] | None" = None
    waiting: int = 0
    begun: bool = False

    def begin(self) -> None:
        self.begun = True


class EncoderReplica:
    """The class of the Serve deployment `Encoder`. `args` is an AppConfig. `put` stores bytes; what it returns is passed on."""

    def __init__(self, args: dict[str, Any], put: Callable[[Any], Any] = ray.put) -> None:
        self._config = AppConfig.model_validate(args)
        self._put = put
        try:
            worker = (self._config.encoder or EncoderConfig()).worker
            self._options = parse_options(TransformersOptions, on_what_it_takes(self._config.engine, worker))
        except EngineOptionsInvalid as error:
            raise ModelUnavailable(one_line(error)) from None
        self._decoder = Decoder(self._config.limits.max_image_pixels)
        self._turns = TowerTurns(self._encoded, self._options.vision_batch_tokens)
        self._stored: SharedCache[Features] = SharedCache(self._options.feature_cache_mib * MIB)
        self._room = Room(ROOM)
        self._jobs: dict[str, _Job] = {}
        self._arrivals = Arrivals()
        self._tower: VisionTower | None = None
        self._preparation: Preparation | None = None

    async def start(self) -> None:
        """Load the tower; raises ModelUnavailable when that can never work."""
        try:
            await self._turns.load(self._load)
        except (ModelNotFound, ModelInvalid, EngineOptionsInvalid) as error:
            raise ModelUnavailable(one_line(error)) from None
        self._decoder.warm()

    async def encode(self, wanted: WantedFeatures) -> Features | Failure:
        """The features of an image, or why there are none. A failure with `elsewhere` says nothing about the image."""
        assert self._preparation is not None, "Serve calls a started replica"
        size = wanted.image.size
        limit = min(wanted.max_pixels or MODEL_PIXELS, MODEL_PIXELS)
        self._arrivals.add(image_tokens(size.width, size.height, limit), time.monotonic())
        try:
            name = self._name(wanted)
            return self._stored.get(name) or await self._joined(name, wanted)
        except ApiError as error:
            return Failure(error.code, error.message, error.param)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller computes for itself
            log_unexpected(error)
            return Failure("internal_error", "the encoder failed on this image", elsewhere=True)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks for this again and again, for `encoder_scaling`. A sync method would run in another thread."""
        return {RATE: self._arrivals.rate(time.monotonic())}

    async def check_health(self) -> None:
        """Serve calls this again and again; it raises when the encoder must be replaced."""
        if self._turns.failed >= MOST_FAILURES:
            raise RuntimeError("the vision tower fails on every image")

    async def close(self) -> None:
        """Stop. Idempotent."""
        self._decoder.close()
        self._turns.close()

    def _name(self, wanted: WantedFeatures) -> str:
        assert self._preparation is not None
        size = wanted.image.size
        try:
            return self._preparation.name(wanted.key, size.width, size.height, wanted.max_pixels)
        except ValueError:
            raise _impossible(wanted) from None

    async def _joined(self, name: str, wanted: WantedFeatures) -> Features:
        """Computed once, however many ask for it at the same time."""
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = _Job()
            job.task = asyncio.create_task(self._features(name, wanted, job))
        assert job.task is not None
        job.waiting += 1
        try:
            return await asyncio.shield(job.task)
        finally:
            job.waiting -= 1
            if not job.waiting and not job.begun:
                job.task.cancel()
            if job.task.done() or not (job.waiting or job.begun):
                self._forget(name, job)

    async def _features(self, name: str, wanted: WantedFeatures, job: _Job) -> Features:
        try:
            async with self._room.hold(self._needed(wanted)):
                features = await self._computed(wanted, job)
            self._stored.put(name, features, features.size)
            return features
        finally:
            self._forget(name, job)

    def _needed(self, wanted: WantedFeatures) -> int:
        """Bytes of an image on its way to the tower: decoded, then as the tower reads it."""
        assert self._preparation is not None
        size = wanted.image.size
        try:
            prepared = self._preparation.prepared_bytes(size.width, size.height, wanted.max_pixels)
        except ValueError:
            raise _impossible(wanted) from None
        return RGB * size.pixels + prepared

    async def _computed(self, wanted: WantedFeatures, job: _Job) -> Features:
        assert self._preparation is not None
        picture = await self._decoder.decode(wanted.image)
        prepared = await asyncio.to_thread(self._preparation.prepare, picture, wanted.max_pixels)
        begun = time.monotonic()
        features = await self._turns.result(prepared, job.begin)
        log_encoded(prepared.tokens, time.monotonic() - begun)
        return features

    def _forget(self, name: str, job: _Job) -> None:
        if self._jobs.get(name) is job:
            del self._jobs[name]

    def _load(self) -> None:
        """In the tower's thread, which owns it."""
        from autoglm_serving.engines.vision_tower import Preparation, VisionTower

        folder = check_folder(locate(self._config.model.uri))
        self._preparation = Preparation(ModelImages(folder))
        self._tower = VisionTower(folder, self._options)

    def _encoded(self, images: "Sequence[Prepared]") -> list[Features]:
        """In the tower's thread."""
        from autoglm_serving.engines.vision_tower import as_bytes

        assert self._tower is not None
        return [
            Features(self._put(as_bytes(part)), part.nbytes, tuple(part.shape), str(part.dtype), self._config.revision)
            for part in self._tower.encode(images)
        ]


def _impossible(wanted: WantedFeatures) -> ApiError:
    size = wanted.image.size
    return api_error(
        "invalid_request",
        impossible_image(size.width, size.height),
        "messages",
    )
