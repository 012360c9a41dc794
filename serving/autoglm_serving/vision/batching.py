"""Put pictures of like size into batches: as little padding as can be, bounded in number and in tokens.

Source: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 3.1 (group inputs by
resolution).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.vision.sizing import MAX_PIXELS, fitted, image_tokens

BatchReason = Literal["full", "tokens", "end"]


@dataclass(frozen=True)
class BatchLimits:
    """No batch has more pictures, or more image tokens, unless one picture alone has."""

    pictures: int = 16
    tokens: int = 16384
    max_pixels: int = MAX_PIXELS
    """Pixel limit of one picture, which decides its size for the model."""

    def __post_init__(self) -> None:
        if self.pictures < 1 or self.tokens < 1:
            raise ValueError("a batch needs room for a picture")


@dataclass(frozen=True)
class Item:
    """A picture to be batched: its name and size in pixels."""

    key: str
    width: int
    height: int


@dataclass(frozen=True)
class Batch:
    """Pictures of one size for the model, and why no more of them."""

    width: int
    height: int
    keys: tuple[str, ...]
    tokens: int
    reason: BatchReason


def batches(items: Iterable[Item], limits: BatchLimits) -> tuple[Batch, ...]:
    """Batches in the order in which their first picture came; inside a batch pictures keep their order."""
    groups: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        groups.setdefault(fitted(item.width, item.height, limits.max_pixels), []).append(item)
    return tuple(batch for size, group in groups.items() for batch in _split(size, group, limits))


def padded_tokens(items: Sequence[Item], limits: BatchLimits) -> int:
    """Tokens of padding if all items went into one batch: each then costs as much as the costliest."""
    costs = [image_tokens(item.width, item.height, limits.max_pixels) for item in items]
    return max(costs, default=0) * len(costs) - sum(costs)


def _split(size: tuple[int, int], group: Sequence[Item], limits: BatchLimits) -> Iterable[Batch]:
    each = image_tokens(*size, limits.max_pixels)
    by_tokens = max(1, limits.tokens // each)
    most = min(limits.pictures, by_tokens)
    for start in range(0, len(group), most):
        part = group[start : start + most]
        reason: BatchReason = "end"
        if len(part) == most:
            reason = "full" if limits.pictures <= by_tokens else "tokens"
        yield Batch(*size, tuple(item.key for item in part), each * len(part), reason)
