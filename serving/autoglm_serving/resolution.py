"""Which resolution the images of one request get, and what the engine is told about it.

    R(t) = [alpha * B / Bmax + (1 - alpha) * (1 - L)] * Rmax

with B the bandwidth to the endpoint, Bmax the best bandwidth among the deployment's endpoints, L the load of the endpoint
(0 idle, 1 full) and Rmax the largest short side. The value is smoothed, then clamped to the deployment's bounds. Below
0.3 Bmax the link decides alone: 480 pixels. Above a load of 0.8 nothing is enlarged beyond the pixels it came with
(super-resolution). Answers hold relative coordinates, so clients see no difference.

Where a deployment says what its model solves at which size, that is asked too: what is lost at this size? A size under the
deployment's quality floor is raised to it, and pixels that win nothing are not sent (only in the dynamic mode).

Source: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 2.2. Its formula and its
code put the brackets differently; the code's reading is used here, because only it stays within the bounds by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from autoglm_serving.images import ImageSize
from autoglm_serving.routing_table import FASTEST_BPS, ResolutionPolicy
from autoglm_serving.vision.quality import EVERY_KIND, Loss, Quality, QualityTable
from autoglm_serving.vision.sizing import at_short_side

THIN_LINK_SHARE = 0.3
THIN_LINK_SHORT_SIDE = 480
MAX_LOAD_FOR_ENLARGING = 0.8
SMOOTHING = 0.3
"""Weight of the newest value: one burst moves the resolution, one request does not."""

PHONE_SHAPE = 1.9
"""Upright screens this much longer than wide are phones: 9:19 and longer. Other shapes name no kind of screen for sure."""

ResolutionReason = Literal["fixed", "formula", "thin_link", "quality_floor", "nothing_gained"]


@dataclass(frozen=True)
class Conditions:
    """What the formula looks at. Both are shares, 0 to 1; values outside are clamped."""

    bandwidth_share: float
    """B / Bmax; 1 when no bandwidth is known."""
    load: float


def bandwidth_share(bandwidth_bps: float | None, links: Iterable[float | None]) -> float:
    """B / Bmax for the links of all endpoints; 1 where one of the two is not known.

    What is declared may be more than anybody measures (`FASTEST_BPS`), and limits no screenshot either.
    """
    known = [each for each in links if each is not None]
    if bandwidth_bps is None or not known:
        return 1.0
    return min(1.0, bandwidth_bps / min(max(known), FASTEST_BPS))


@dataclass(frozen=True)
class Resolution:
    """The largest short side of an image in pixels, and why."""

    short_side: int
    reason: ResolutionReason
    may_enlarge: bool = False
    """Smaller images may be brought up to it (`vision.pixels.resize.enlarged`): there is time for that."""
    smoothed: int | None = None
    """What the next choice at this endpoint is smoothed with: the formula's value, whatever quality made of it."""
    expected: Loss | None = None
    """What the measured quality says about this size; None where nothing was measured."""


def choose(
    policy: ResolutionPolicy, conditions: Conditions, previous: int | None = None, kind: str = EVERY_KIND
) -> Resolution:
    """The resolution of one request. `previous` is the last `smoothed` of this endpoint, `kind` the kind of screen."""
    wanted = _by_conditions(policy, conditions, previous)
    quality = quality_of(policy)
    if quality is None:
        return replace(wanted, smoothed=wanted.short_side)
    side, reason = wanted.short_side, wanted.reason
    if policy.mode == "dynamic":
        side, reason = _by_quality(policy, quality, kind, wanted)
    return Resolution(side, reason, wanted.may_enlarge, wanted.short_side, quality.loss_at(side, kind))


@lru_cache(maxsize=256)
def quality_of(policy: ResolutionPolicy) -> Quality | None:
    """The policy's measurements, ready for questions; None where there are none."""
    if not policy.quality:
        return None
    return Quality(
        QualityTable(model="the deployment's", source="spec.resolution.quality", measurements=policy.quality)
    )


def kind_of(sizes: Sequence[ImageSize]) -> str:
    """The kind of screen that the images of one request show, as far as their shape tells."""
    shapes = {"phone" if size.height >= PHONE_SHAPE * size.width else EVERY_KIND for size in sizes}
    return shapes.pop() if len(shapes) == 1 else EVERY_KIND


def _by_quality(
    policy: ResolutionPolicy, quality: Quality, kind: str, wanted: Resolution
) -> tuple[int, ResolutionReason]:
    floor = 0 if policy.quality_floor is None else quality.smallest_keeping(policy.quality_floor, kind)
    if wanted.short_side < floor:
        return min(floor, policy.max_short_side), "quality_floor"
    enough = max(quality.smallest_within(0.0, kind), policy.min_short_side)
    if wanted.short_side > enough:
        return enough, "nothing_gained"
    return wanted.short_side, wanted.reason


def _by_conditions(policy: ResolutionPolicy, conditions: Conditions, previous: int | None) -> Resolution:
    if policy.mode == "fixed":
        return Resolution(policy.max_short_side, "fixed")
    may_enlarge = _clamp(conditions.load) <= MAX_LOAD_FOR_ENLARGING
    share = _clamp(conditions.bandwidth_share)
    if share < THIN_LINK_SHARE:
        return Resolution(_bounded(policy, THIN_LINK_SHORT_SIDE), "thin_link", may_enlarge)
    raw = (policy.alpha * share + (1 - policy.alpha) * (1 - _clamp(conditions.load))) * policy.max_short_side
    smooth = raw if previous is None else SMOOTHING * raw + (1 - SMOOTHING) * previous
    return Resolution(_bounded(policy, smooth), "formula", may_enlarge)


def pixel_limit(sizes: Sequence[ImageSize], short_side: int) -> int | None:
    """The pixel limit under which no image's short side is above `short_side`; None when there are no images.

    One limit serves the whole request, so the most elongated image sets it; smaller images are untouched by it.
    """
    if not sizes:
        return None
    return max(_pixels_at(size, short_side) for size in sizes)


def _pixels_at(size: ImageSize, short_side: int) -> int:
    width, height = at_short_side(size.width, size.height, short_side)
    return width * height


def _bounded(policy: ResolutionPolicy, side: float) -> int:
    return min(max(round(side), policy.min_short_side), policy.max_short_side)


def _clamp(share: float) -> float:
    return min(max(share, 0.0), 1.0)
