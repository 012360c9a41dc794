"""Join pictures that show parts of one wide scene: two cameras over a counter, a page scrolled sideways.

Source: "Open-AutoGLM multi-resolution adaptation in practice", section 3.1 (SIFT matches in the overlap, weighted blending).
Every picture after the first is laid onto its left neighbour by a similarity (shift, turn, scale) that most of the matches
agree on (RANSAC). Blending weights fall towards each picture's edges, so that no seam shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from autoglm_serving.vision.pixels.resize import Picture

Transform = NDArray[np.float64]
"""2 x 3: a point of a picture (x, y, 1) to a point of the joined picture."""

RATIO = 0.75
"""A match counts when it is this much nearer than the second nearest (Lowe's test)."""

LEAST_MATCHES = 12
MAX_PIXELS = 64_000_000
_FEATURES = 4000


class CannotStitch(ValueError):
    """The pictures have too little in common, or do not lie side by side."""


@dataclass(frozen=True)
class Stitched:
    """The joined picture; where each source lies in it; how many matches each joint rests on."""

    picture: Picture
    transforms: tuple[Transform, ...]
    matches: tuple[int, ...]

    def to_source(self, index: int, x: float, y: float) -> tuple[float, float]:
        """A point of the joined picture, in source number `index`."""
        inverse = cv2.invertAffineTransform(self.transforms[index])
        source = inverse @ np.array([x, y, 1.0])
        return float(source[0]), float(source[1])


def stitch(pictures: Sequence[Picture], max_pixels: int = MAX_PIXELS) -> Stitched:
    """Join pictures given in order, each overlapping the one before it. Raises CannotStitch, which says where."""
    if not pictures:
        raise CannotStitch("no pictures to join")
    onto_first: list[Transform] = [np.eye(2, 3)]
    matches: list[int] = []
    for index in range(1, len(pictures)):
        step, found = _onto_neighbour(pictures[index - 1], pictures[index], index)
        onto_first.append(_compose(onto_first[-1], step))
        matches.append(found)
    width, height, shift = _canvas(pictures, onto_first, max_pixels)
    transforms = tuple(_compose(shift, each) for each in onto_first)
    return Stitched(_blend(pictures, transforms, (width, height)), transforms, tuple(matches))


def _onto_neighbour(left: Picture, right: Picture, index: int) -> tuple[Transform, int]:
    sift = cv2.SIFT.create(nfeatures=_FEATURES)
    (points, marks), (others, other_marks) = (
        sift.detectAndCompute(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), None) for each in (right, left)
    )
    name = f"pictures {index} and {index + 1}"
    if len(points) < LEAST_MATCHES or len(others) < LEAST_MATCHES:
        raise CannotStitch(f"{name}: too little detail to match")
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(marks, other_marks, k=2)
    good = [near for near, *far in pairs if far and near.distance < RATIO * far[0].distance]
    if len(good) < LEAST_MATCHES:
        raise CannotStitch(f"{name}: {len(good)} matches, at least {LEAST_MATCHES} are needed")
    source = np.array([points[match.queryIdx].pt for match in good], dtype=np.float32)
    target = np.array([others[match.trainIdx].pt for match in good], dtype=np.float32)
    step, agree = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=2.0)
    agreed = int(np.count_nonzero(agree))
    if agreed < LEAST_MATCHES:
        raise CannotStitch(f"{name}: only {agreed} matches agree on how they lie")
    return np.asarray(step, dtype=np.float64), agreed


def _compose(outer: Transform, inner: Transform) -> Transform:
    """First `inner`, then `outer`."""
    last = np.array([[0.0, 0.0, 1.0]])
    joined: Transform = (np.vstack([outer, last]) @ np.vstack([inner, last]))[:2]
    return joined


def _canvas(
    pictures: Sequence[Picture], transforms: Sequence[Transform], max_pixels: int
) -> tuple[int, int, Transform]:
    """Width and height that hold all corners, and the shift that brings the least corner to zero."""
    corners = np.vstack(
        [
            (transform @ np.array([[0, w, 0, w], [0, 0, h, h], [1, 1, 1, 1]], dtype=np.float64)).T
            for picture, transform in zip(pictures, transforms, strict=True)
            for h, w in [picture.shape[:2]]
        ]
    )
    least = np.rint(corners.min(axis=0))
    width, height = (int(side) for side in np.rint(corners.max(axis=0)) - least)
    if width * height > max_pixels:
        raise CannotStitch(f"the joined picture would have {width}x{height} pixels, more than {max_pixels}")
    return width, height, np.array([[1.0, 0.0, -least[0]], [0.0, 1.0, -least[1]]])


def _blend(pictures: Sequence[Picture], transforms: Sequence[Transform], size: tuple[int, int]) -> Picture:
    total = np.zeros((size[1], size[0], 3), dtype=np.float32)
    weights = np.zeros((size[1], size[0], 1), dtype=np.float32)
    for picture, transform in zip(pictures, transforms, strict=True):
        weight = cv2.warpAffine(_feather(*picture.shape[:2]), transform, size)[..., None]
        total += cv2.warpAffine(picture, transform, size, borderMode=cv2.BORDER_REPLICATE) * weight
        weights += weight
    joined: Picture = np.rint(total / np.maximum(weights, 1e-6)).astype(np.uint8)
    return joined


def _feather(height: int, width: int) -> NDArray[np.float32]:
    """Weights from nearly 0 at the edges to 1 in the middle of a picture."""
    down = 1 - np.abs(np.linspace(-1, 1, height, dtype=np.float32))
    across = 1 - np.abs(np.linspace(-1, 1, width, dtype=np.float32))
    weights: NDArray[np.float32] = np.outer(down + 1e-3, across + 1e-3).astype(np.float32)
    return weights
