"""Which resolution the images of one request get, and what the engine is told about it.

    R(t) = [alpha * B / Bmax + (1 - alpha) * (1 - L)] * Rmax

with B the bandwidth to the endpoint, Bmax the best bandwidth among the deployment's endpoints, L the load of the endpoint
(0 idle, 1 full) and Rmax the largest short side. The value is smoothed, then clamped to the deployment's bounds. Below
0.3 Bmax the link decides alone: 480 pixels. Answers hold relative coordinates, so clients see no difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.images import ImageSize
from autoglm_serving.routing_table import ResolutionPolicy

THIN_LINK_SHARE = 0.3
THIN_LINK_SHORT_SIDE = 480
SMOOTHING = 0.3
"""Weight of the newest value: one burst moves the resolution, one request does not."""

ResolutionReason = Literal["fixed", "formula", "thin_link"]


@dataclass(frozen=True)
class Conditions:
    """What the formula looks at. Both are shares, 0 to 1; values outside are clamped."""

    bandwidth_share: float
    """B / Bmax; 1 when no bandwidth is known."""
    load: float


@dataclass(frozen=True)
class Resolution:
    """The largest short side of an image in pixels, and why."""

    short_side: int
    reason: ResolutionReason


def choose(policy: ResolutionPolicy, conditions: Conditions, previous: int | None = None) -> Resolution:
    """The resolution of one request. `previous` is the last choice for this endpoint, for smoothing."""
    if policy.mode == "fixed":
        return Resolution(policy.max_short_side, "fixed")
    share = _clamp(conditions.bandwidth_share)
    if share < THIN_LINK_SHARE:
        return Resolution(_bounded(policy, THIN_LINK_SHORT_SIDE), "thin_link")
    raw = (policy.alpha * share + (1 - policy.alpha) * (1 - _clamp(conditions.load))) * policy.max_short_side
    smooth = raw if previous is None else SMOOTHING * raw + (1 - SMOOTHING) * previous
    return Resolution(_bounded(policy, smooth), "formula")


def pixel_limit(sizes: Sequence[ImageSize], short_side: int) -> int | None:
    """The pixel limit under which no image's short side is above `short_side`; None when there are no images.

    One limit serves the whole request, so the most elongated image sets it; smaller images are untouched by it.
    """
    if not sizes:
        return None
    return max(_pixels_at(size, short_side) for size in sizes)


def _pixels_at(size: ImageSize, short_side: int) -> int:
    if size.short_side <= short_side:
        return size.pixels
    return short_side * round(max(size.width, size.height) * short_side / size.short_side)


def _bounded(policy: ResolutionPolicy, side: float) -> int:
    return min(max(round(side), policy.min_short_side), policy.max_short_side)


def _clamp(share: float) -> float:
    return min(max(share, 0.0), 1.0)
