"""Boxes and points in pixels: whole numbers, left and top inside the box, right and bottom just outside it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle with at least one pixel. Raises ValueError for an empty one."""

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if self.left >= self.right or self.top >= self.bottom:
            raise ValueError(f"the box {self.left},{self.top} to {self.right},{self.bottom} is empty")

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x < self.right and self.top <= y < self.bottom

    def covers(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )

    def grown(self, margin: int) -> "Box":
        return Box(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    def intersection(self, other: "Box") -> "Box | None":
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(left, top, right, bottom) if left < right and top < bottom else None


def whole(width: int, height: int) -> Box:
    """The box of a whole picture."""
    return Box(0, 0, width, height)


def bounding(boxes: Iterable[Box]) -> Box:
    """The smallest box around all. Raises ValueError without any box."""
    listed = list(boxes)
    if not listed:
        raise ValueError("no box to bound")
    return Box(
        min(box.left for box in listed),
        min(box.top for box in listed),
        max(box.right for box in listed),
        max(box.bottom for box in listed),
    )
