"""The real encoders behind a front of their own, with a tower that computes nothing. Import path: `support.encoder_app:build`.

The arguments are those of the application. Encoders are scaled as in the application, with shorter times. The front
asks for the features of the picture that is the body of a request, and answers with its image tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from autoglm_serving.app.application import ENCODER_ROUTER
from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.app.encoder_calls import Features, WantedFeatures
from autoglm_serving.app.encoder_replica import EncoderReplica
from autoglm_serving.app.encoder_scaling import scaling
from autoglm_serving.config import AppConfig, EncoderConfig
from autoglm_serving.encoders import Arrivals
from autoglm_serving.images import read_size
from autoglm_serving.vision.sizing import MAX_PIXELS, image_tokens
from support.pictures import data_url

WINDOW_S = 4.0
"""For so long an image counts in the rate."""
TIMES = {"upscale_delay_s": 1.0, "downscale_delay_s": 2.0, "metrics_interval_s": 1.0}


@dataclass(frozen=True)
class Told:
    """An image as the tower would read it."""

    tokens: int
    grid: tuple[int, int, int] = (1, 2, 2)


class Preparation:
    """Names and sizes without a model."""

    def name(self, key: str, width: int, height: int, _max_pixels: int | None) -> str:
        return f"{key} {width}x{height}"

    def prepared_bytes(self, width: int, height: int, _max_pixels: int | None) -> int:
        return width * height

    def prepare(self, picture: Image.Image, _max_pixels: int | None) -> Told:
        return Told(image_tokens(picture.width, picture.height, MAX_PIXELS))


class QuickEncoder(EncoderReplica):
    """Everything of an encoder but its tower."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits constructors
        EncoderReplica.__init__(self, args)
        self._arrivals = Arrivals(WINDOW_S)
        await self.start()

    def _load(self) -> None:
        self._preparation = Preparation()  # type: ignore[assignment]

    def _encoded(self, images: Sequence[Any]) -> list[Features]:
        return [Features(None, 0, (image.tokens,), "float32", self._config.revision) for image in images]


class Front:
    """The ingress."""

    def __init__(self, encoder: DeploymentHandle) -> None:
        self._encoder = encoder

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Starlette(routes=[Route("/", self._tokens, methods=["POST"])])

    async def _tokens(self, request: Request) -> JSONResponse:
        body = await request.body()
        image = EncodedImage(body, read_size(data_url(body)), "body")
        features = await self._encoder.encode.remote(WantedFeatures(image, hashlib.sha256(body).hexdigest(), None))
        return JSONResponse({"tokens": features.shape[0]})


def build(args: dict[str, Any]) -> Application:
    """The application for `args`, which have an encoder."""
    config = AppConfig.model_validate(args)
    how = scaling(config.encoder or EncoderConfig())
    how["autoscaling_config"] = how["autoscaling_config"].model_copy(update=TIMES)
    encoder = serve.deployment(
        QuickEncoder,
        name="Encoder",
        **how,
        ray_actor_options={"num_cpus": 0.1},
        request_router_config=RequestRouterConfig(request_router_class=ENCODER_ROUTER),
    )
    front = serve.deployment(serve.ingress()(Front), name="Front", ray_actor_options={"num_cpus": 0})
    return front.bind(encoder.bind(config.model_dump(mode="json", by_alias=True)))
