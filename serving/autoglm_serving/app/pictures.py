"""Where the images of a call come from: decoded in this replica, or encoded by an encoder. Both under the same name."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from ray.serve import metrics
from ray.serve.exceptions import BackPressureError

from autoglm_serving.app.calls import EncodedImage, Failure
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.encoder_calls import Features, WantedFeatures
from autoglm_serving.app.logs import log_no_features
from autoglm_serving.encoders import Patience
from autoglm_serving.engines.interface import EncodedPicture, ImagePart, TakesFeatures
from autoglm_serving.wire import ApiError

PAUSE_S = 5.0
"""For so long nobody waits for encoders after one has not answered."""

Source = Literal["known", "encoder", "pausing", "full", "late", "lost", "failed", "revision"]
"""Where features came from; from `pausing` on, why the replica computed them itself."""


class SplitPictures:
    """The images of calls in a replica that has encoders beside it. `handle` is their Serve handle."""

    def __init__(
        self,
        local: DecodedCache,
        engine: TakesFeatures,
        handle: Any,
        revision: str,
        wait_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._engine = engine
        self._handle = handle
        self._revision = revision
        self._wait_s = wait_s
        self._clock = clock
        self._patience = Patience(PAUSE_S)
        self._counter = metrics.Counter(
            "autoglm_image_features",
            description="Images of calls by where their features came from, or why the replica computed them itself.",
            tag_keys=("source",),
        )

    async def part(self, image: EncodedImage, tenant: str, max_pixels: int | None) -> ImagePart:
        """The image with its features, or decoded when no encoder has them in time. Raises ApiError for a bad image."""
        key = await self._local.name(image, tenant)
        features = self._engine.known_features(key, image.size.width, image.size.height, max_pixels)
        source: Source = "known"
        if features is None:
            source, features = await self._asked(WantedFeatures(image, key, max_pixels))
        self._counter.inc(tags={"source": source})
        if features is None:
            return await self._local.named(image, key)
        return ImagePart(EncodedPicture(image.size.width, image.size.height, features), key)

    async def _asked(self, wanted: WantedFeatures) -> tuple[Source, Any]:
        if not self._patience.asks(self._clock()):
            return "pausing", None
        try:
            source, features = await self._fetched(wanted)
        except ApiError:
            self._patience.answered()
            raise
        if source in ("late", "lost", "failed"):
            self._patience.failed(self._clock())
            log_no_features(source)
        else:
            self._patience.answered()
        return source, features

    async def _fetched(self, wanted: WantedFeatures) -> tuple[Source, Any]:
        response = self._handle.encode.remote(wanted)
        done = False
        try:
            async with asyncio.timeout(self._wait_s):
                answer: Features | Failure = await response
                done = True
                return await self._read(answer)
        except ApiError:
            raise
        except TimeoutError:
            return "late", None
        except BackPressureError:
            return "full", None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "lost", None  # the encoder cancelled it, not our caller: it is being stopped
        except Exception:  # noqa: BLE001 - Ray reports a dead process by many types; all mean the same here
            return "lost", None
        finally:
            if not done:
                with suppress(Exception):  # a call that never reached an encoder raises its error again
                    response.cancel()

    async def _read(self, answer: Features | Failure) -> tuple[Source, Any]:
        from autoglm_serving.engines.vision_tower import from_bytes

        if isinstance(answer, Failure):
            if not answer.elsewhere:
                raise answer.error()
            return "failed", None
        if answer.revision != self._revision:
            return "revision", None
        return "encoder", from_bytes(await answer.values, answer.shape, answer.dtype)
