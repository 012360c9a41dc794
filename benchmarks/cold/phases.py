"""Phases of a start from moments at which something was reached, and the table that sets two starts side by side. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Phases = Mapping[str, float]
"""Seconds by the name of the phase, in their order."""
NOTHING = "-"


@dataclass(frozen=True)
class Mark:
    """A phase, and the moment at which it was over."""

    phase: str
    at: float


def phases(begun: float, marks: Sequence[Mark]) -> dict[str, float]:
    """Seconds of each phase. What was over before the phase ahead of it took none: the sum is the whole time."""
    found: dict[str, float] = {}
    for mark in marks:
        end = max(begun, mark.at)
        found[mark.phase] = found.get(mark.phase, 0.0) + end - begun
        begun = end
    return found


def parts(begun: float, seconds: Phases, names: Mapping[str, str]) -> list[Mark]:
    """Marks of parts whose lengths alone are known, one after the other. `names` are the phases they belong to."""
    marks = []
    for part, took in seconds.items():
        begun += took
        marks.append(Mark(names[part], begun))
    return marks


def middle(values: Sequence[float], unit: str, digits: int) -> str:
    """The median, and from where to where they were."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} {unit} ({low:.{digits}f}-{high:.{digits}f})"


def rows(order: Sequence[str], one: Sequence[Phases], other: Sequence[Phases]) -> list[list[str]]:
    """A row for each phase in `order` and one for their sum: both starts over their runs, and the difference of medians.

    A share is that of the median of all phases together.
    """
    wholes = _wholes(one), _wholes(other)
    lines = [(name, _values(one, name), _values(other, name)) for name in order]
    return [_row(*line, wholes) for line in (*lines, ("all", *wholes))]


def _row(name: str, one: list[float], other: list[float], wholes: tuple[list[float], list[float]]) -> list[str]:
    difference = (statistics.median(one) if one else 0.0) - (statistics.median(other) if other else 0.0)
    return [name, *_cells(one, wholes[0]), *_cells(other, wholes[1]), f"{difference:+.2f} s"]


def _cells(values: Sequence[float], wholes: Sequence[float]) -> tuple[str, str]:
    if not values:
        return NOTHING, NOTHING
    return middle(values, "s", 2), f"{100 * statistics.median(values) / statistics.median(wholes):.0f} %"


def _values(runs: Sequence[Phases], name: str) -> list[float]:
    return [run[name] for run in runs if name in run]


def _wholes(runs: Sequence[Phases]) -> list[float]:
    return [sum(run.values()) for run in runs]


def memory_rows(order: Sequence[str], one: Sequence[Phases], other: Sequence[Phases]) -> list[list[str]]:
    """The same for megabytes by kind of process, without a sum: the caller says which of them belong together."""
    return [
        [name, *(middle(values, "MB", 0) if (values := _values(runs, name)) else NOTHING for runs in (one, other))]
        for name in order
    ]
