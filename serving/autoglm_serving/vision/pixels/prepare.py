"""From an encoded picture to the model's numbers, once: what was prepared before comes from the cache.

Source: "Three hidden features of Open-AutoGLM's visual recognition", sections 2.2 and 2.5.
"""

import threading
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.cache import ByteCache, CacheFigures, key
from autoglm_serving.vision.padding import Padding
from autoglm_serving.vision.pixels.resize import Picture, normalised, resize_with_pad


class UnreadablePicture(ValueError):
    """The bytes are no picture that OpenCV can decode."""


@dataclass(frozen=True)
class Prepared:
    """A picture as the model reads it, (3, height, width), and how it lies in its frame. Read only: it is shared."""

    values: NDArray[np.float32]
    padding: Padding


class Preparer:
    """Prepares pictures for one frame of (width, height). Safe in several threads.

    For pictures of trusted origin (evaluation, training): the bytes are decoded without a check of their size.
    """

    def __init__(self, frame: tuple[int, int], cache_bytes: int) -> None:
        self._frame = frame
        self._cache: ByteCache[Prepared] = ByteCache(cache_bytes)
        self._lock = threading.Lock()

    @property
    def figures(self) -> CacheFigures:
        with self._lock:
            return self._cache.figures

    def prepare(self, encoded: bytes, tenant: str = "") -> Prepared:
        """Decode, resize, pad and normalise. Raises UnreadablePicture."""
        name = key(tenant, encoded, f"pad {self._frame[0]}x{self._frame[1]}")
        with self._lock:
            known = self._cache.get(name)
        if known is not None:
            return known
        framed, padding = resize_with_pad(decoded(encoded), self._frame)
        values = normalised(framed)
        values.setflags(write=False)
        prepared = Prepared(values, padding)
        with self._lock:
            self._cache.put(name, prepared, values.nbytes)
        return prepared


def decoded(encoded: bytes) -> Picture:
    """The pixels of a PNG, JPEG or WebP picture; transparency is dropped. Raises UnreadablePicture."""
    raw = np.frombuffer(encoded, dtype=np.uint8)
    picture = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB) if len(raw) else None
    if picture is None:
        raise UnreadablePicture(f"{len(encoded)} bytes are no picture that can be decoded")
    return np.asarray(picture, dtype=np.uint8)
