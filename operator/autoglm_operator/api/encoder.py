"""Encoders apart from the replicas: how many there are, and what one takes."""

from typing import Annotated

from pydantic import Field

from autoglm_operator.api.base import Model, Rule
from autoglm_operator.api.text import Cpus, EncoderWait


class EncoderSpec(Model):
    """Encoders: processes at each site that turn images into features for the replicas, which then read text alone. They
    follow the image tokens that arrive, not the replicas. `python -m benchmarks encoder_split` says what they gain."""

    min: Annotated[int, Field(ge=1, le=64)] = 1
    """Fewest encoders on each site."""
    max: Annotated[int, Field(ge=1, le=64)] = 1
    """Most encoders on each site."""
    tokens_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Image tokens that may arrive for each encoder and second; where more do, there are more encoders. A screenshot of
    1080 x 2400 has about 3,300 at full size. No effect while min equals max."""
    wait: EncoderWait = "5s"
    """How long a replica waits for the features of an image before it encodes the image itself."""
    cpu: Cpus = 1
    """CPU cores of one encoder, such as 2, "1.5" or "500m". With type gpu or npu of spec.worker.accelerator each encoder
    takes one accelerator of that kind as well."""

    rules = (
        Rule(
            "self.min <= self.max",
            lambda encoder: encoder.min <= encoder.max,
            "must not be above spec.encoder.max: lower it, or raise spec.encoder.max",
            "min",
        ),
    )
