"""What a figure was measured on."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from autoglm_serving.markdown import table

__all__ = ["describe", "quantile", "table"]


def describe() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({cpu}), load averages before the run {load}"
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the ordered ones stays below."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
