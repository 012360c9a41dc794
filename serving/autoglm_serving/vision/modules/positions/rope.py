"""Rotary positions beyond the trained size."""

from torch import Tensor


def linear_scale(height: int, width: int, trained_side: int) -> float:
    """The factor that brings a picture's longer side, in patches, back to what was trained; 1 when it is not longer."""
    return min(1.0, trained_side / max(height, width))


def scale_positions(coordinates: Tensor, height: int, width: int, trained_side: int) -> Tensor:
    """[P, 2] row and column -> [P, 2] as floats, squeezed into the trained range.

    The article "adaptation", section 4.3: position * trained / new, known as position interpolation (Chen et al. 2023). Both
    axes shrink alike, so shapes keep their proportions.
    """
    return coordinates.float() * linear_scale(height, width, trained_side)
