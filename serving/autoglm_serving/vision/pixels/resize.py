"""Resize, pad and normalise pictures as arrays of (height, width, 3) bytes.

Sources: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 3.1 (resize_with_pad),
section 2.2 (super-resolution); "Three hidden features of Open-AutoGLM's visual recognition", section 2.2 (normalisation).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.padding import Padding, Placement, fit
from autoglm_serving.vision.sizing import at_short_side

Picture = NDArray[np.uint8]
"""(height, width, 3), red first."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of channels between 0 and 1, as in the model's preprocessor_config.json."""


def resize_with_pad(
    picture: Picture, frame: tuple[int, int], placement: Placement = "corner", fill: int = 0
) -> tuple[Picture, Padding]:
    """The picture in a frame of (width, height), and how it lies there: `Padding` maps every point back."""
    height, width = picture.shape[:2]
    padding = fit((width, height), frame, placement)
    box = padding.content
    framed = np.full((padding.height, padding.width, *picture.shape[2:]), fill, dtype=np.uint8)
    framed[box.top : box.bottom, box.left : box.right] = resized(picture, box.width, box.height)
    return framed, padding


def resized(picture: Picture, width: int, height: int) -> Picture:
    """The picture at another size: areas are averaged when it shrinks, cubics are drawn when it grows."""
    if picture.shape[:2] == (height, width):
        return picture
    grows = width * height > picture.shape[0] * picture.shape[1]
    method = cv2.INTER_CUBIC if grows else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), dtype=np.uint8)


def shrunk(picture: Picture, short_side: int) -> Picture:
    """The picture with its short side brought down to `short_side`; a smaller one as it is."""
    height, width = picture.shape[:2]
    return resized(picture, *at_short_side(width, height, short_side))


def enlarged(picture: Picture, short_side: int) -> Picture:
    """The picture with its short side brought up to `short_side`; a larger one as it is (super-resolution by cubics)."""
    height, width = picture.shape[:2]
    shortest = min(width, height)
    if shortest >= short_side:
        return picture
    return resized(picture, round(width * short_side / shortest), round(height * short_side / shortest))


def normalised(
    picture: Picture, mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD
) -> NDArray[np.float32]:
    """Channels from 0..255 to mean 0 and deviation 1, in the order (3, height, width) that the model reads."""
    scaled = (picture.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
