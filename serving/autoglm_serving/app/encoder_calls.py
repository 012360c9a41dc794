"""What engine replicas and encoders say to each other. Both are processes of one application; the values travel pickled."""

from dataclasses import dataclass
from typing import Any

from autoglm_serving.app.calls import EncodedImage


@dataclass(frozen=True)
class WantedFeatures:
    """An image whose features are asked for. `key` names its tenant and content (`ImagePart.key`)."""

    image: EncodedImage
    key: str
    max_pixels: int | None


@dataclass(frozen=True)
class Features:
    """Features in Ray's object store: `values` is the reference, the rest says how to read its bytes.

    `revision` is the encoder's own: while Serve replaces replicas, encoders and engine replicas may be of different ones.
    """

    values: Any
    size: int
    shape: tuple[int, ...]
    dtype: str
    revision: str
