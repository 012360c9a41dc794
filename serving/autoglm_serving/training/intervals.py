"""How sure a share of right answers is."""

import math
from dataclasses import dataclass

Z_95 = 1.959964
"""Two-sided 95 % of the normal distribution."""


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


def wilson(right: int, total: int, z: float = Z_95) -> Share:
    """Wilson's score interval (1927): sensible near 0 and 1 and for few tasks. Without tasks: 0 to 1."""
    if not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is no share")
    if total == 0:
        return Share(0, 0, 0.0, 1.0)
    share = right / total
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    middle = share + z * z / (2 * total)
    scale = 1 + z * z / total
    return Share(right, total, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale))
