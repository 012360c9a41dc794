"""How sure a share of right answers is."""

from dataclasses import dataclass

from autoglm_serving.vision.quality import interval


@dataclass(frozen=True)
class Share:
    """`right` of `total`, with the bounds between which the true share lies in 95 of 100 such tests."""

    right: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0


def wilson(right: int, total: int) -> Share:
    """The share with its 95 % interval, as the quality model computes it. Without tasks: 0 to 1."""
    if not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is no share")
    if total == 0:
        return Share(0, 0, 0.0, 1.0)
    bounds = interval(right / total, total)
    return Share(right, total, bounds.low, bounds.high)
