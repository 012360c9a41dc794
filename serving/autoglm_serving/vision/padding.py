"""Fit a picture into a frame without changing its shape, and map every point there and back.

Source: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 3.1 (resize_with_pad).
The article returns one scale, but a scaled side is a whole number of pixels: 1000 x 333 in a frame of 100 becomes 100 x 33,
and the inverse by the common scale is off by up to a pixel of the frame. Each axis keeps its own scale here, so that the
inverse is exact.
"""

from dataclasses import dataclass
from typing import Literal

from autoglm_serving.vision.boxes import Box

Placement = Literal["corner", "centre"]


@dataclass(frozen=True)
class Padding:
    """How a picture lies in its frame. Points are in pixels; a pixel's centre lies at its number plus one half."""

    source_width: int
    source_height: int
    width: int
    height: int
    """The frame."""
    content: Box
    """Where the picture lies in the frame; all else is padding."""

    @property
    def scale_x(self) -> float:
        return self.content.width / self.source_width

    @property
    def scale_y(self) -> float:
        return self.content.height / self.source_height

    @property
    def padded_share(self) -> float:
        """The part of the frame that shows nothing."""
        return 1 - self.content.pixels / (self.width * self.height)

    def to_frame(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture, in the frame."""
        return self.content.left + x * self.scale_x, self.content.top + y * self.scale_y

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """A point of the frame, in the picture. A point on the padding goes to the nearest edge of the picture."""
        inside_x = min(max(x, self.content.left), self.content.right)
        inside_y = min(max(y, self.content.top), self.content.bottom)
        return (inside_x - self.content.left) / self.scale_x, (inside_y - self.content.top) / self.scale_y


def fit(source: tuple[int, int], frame: tuple[int, int], placement: Placement = "corner") -> Padding:
    """Lay a picture of (width, height) into a frame: as large as it goes, at the top left or in the middle."""
    (source_width, source_height), (width, height) = source, frame
    if min(source_width, source_height, width, height) < 1:
        raise ValueError("a picture and its frame need at least one pixel each way")
    scale = min(width / source_width, height / source_height)
    inner_width = min(width, max(1, round(source_width * scale)))
    inner_height = min(height, max(1, round(source_height * scale)))
    left = (width - inner_width) // 2 if placement == "centre" else 0
    top = (height - inner_height) // 2 if placement == "centre" else 0
    content = Box(left, top, left + inner_width, top + inner_height)
    return Padding(source_width, source_height, width, height, content)
