"""What one Serve application is told: the arguments of `autoglm_serving.app:build`.

The operator writes these models and the application reads them. They are frozen, they refuse unknown keys, and their JSON
form is camelCase, as everywhere in the project's API.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

EngineName = Literal["transformers", "vllm"]
OptionValue = str | int | float | bool

BASE = "base"
"""What the model is called where it is none of its deployment's variants."""

Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Base of every configuration model: immutable, strict about keys, camelCase on the wire."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        protected_namespaces=(),
    )


class ModelConfig(Frozen):
    """The model to load, and the name under which clients ask for it.

    `variant` names the form of the weights that `uri` and the engine's options make; empty for the model itself.
    """

    name: str = Field(min_length=1, max_length=253)
    uri: str = Field(min_length=1, max_length=2048)
    variant: str = Field(default="", max_length=63)


class EngineConfig(Frozen):
    """How the model is run inside one replica. `max_concurrency` counts requests in one replica."""

    name: EngineName = "transformers"
    tensor_parallel: Positive = 1
    max_model_len: Positive = 25480
    max_concurrency: Positive = 4
    options: dict[str, OptionValue] = Field(default_factory=dict)


class Limits(Frozen):
    """Bounds on one request, and on the requests that may wait in one ingress (`max_queue`).

    `image_hosts`: where images may be fetched from (`image_urls.check_url`); without any, they come inside requests only.
    """

    max_body_bytes: Positive = 16 * 1024 * 1024
    max_images: Positive = 10
    max_image_pixels: Positive = 50_000_000
    max_image_side: Positive = 16384
    max_new_tokens: Positive = 4096
    max_queue: Positive = 64
    image_hosts: tuple[str, ...] = ()


class Worker(Frozen):
    """What one engine replica takes from the Ray cluster, in Ray's units."""

    cpus: Amount = 1.0
    gpus: Amount = 0.0
    custom: dict[str, Amount] = Field(default_factory=dict)


class EncoderConfig(Frozen):
    """Encoders: replicas of a Serve deployment of their own that turn images into features for the engine replicas.

    `tokens_per_s`: image tokens that may arrive for each encoder and second; where more do, there are more encoders, between
    `min_replicas` and `max_replicas`. `wait_s`: how long an engine replica waits for features before it computes them itself.
    """

    min_replicas: Positive = 1
    max_replicas: Positive = 1
    tokens_per_s: Positive = 1000
    wait_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 5.0
    worker: Worker = Worker()


class AppConfig(Frozen):
    """Everything one Serve application needs. `deployment` is "namespace/name" of the resource that asked for it.

    `replicas` counts for a first start alone. Serve restarts every replica when any argument changes, so whoever scales
    leaves `replicas` as it is and sets `num_replicas` of `Engine` in the schema's `deployments`: that happens in place.
    """

    deployment: str = Field(min_length=1)
    uid: str
    revision: str
    cluster: str = ""
    """Names the place where the resource is stored. Two may share a Ray cluster; neither removes what the other put there."""
    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    limits: Limits = Limits()
    worker: Worker = Worker()
    encoder: EncoderConfig | None = None
    """Absent: engine replicas encode images themselves."""
    replicas: int = Field(default=1, ge=0)
    max_ongoing_requests: Positive = 4
