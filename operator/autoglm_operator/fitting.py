"""How many replicas fit into what is free. A replica is a gang: all that it takes has to be free on one machine."""

from collections.abc import Mapping

from autoglm_operator.state import Capacity

Amounts = Mapping[str, float]

EVERYTHING = 1_000_000
"""Stands for "as many as wanted" where nothing is needed."""

_SLACK = 1e-6
"""Sums of binary fractions may miss the whole number by this share."""


def fitting(capacity: Capacity, need: Amounts, first: Amounts | None = None) -> int:
    """Replicas that fit. `first` takes its place before them, on whichever machine costs the fewest replicas.

    Where machines are not told, what is free in all counts, which may be spread over more of them than it should.
    """
    machines = capacity.machines or (capacity.available,)
    fits = [_times(free, need) for free in machines]
    if first is None:
        return sum(fits)
    lost = [
        fit - _times({name: free.get(name, 0.0) - first.get(name, 0.0) for name in {**free, **first}}, need)
        for free, fit in zip(machines, fits, strict=True)
        if _times(free, first)
    ]
    return sum(fits) - min(lost) if lost else 0


def _times(free: Amounts, need: Amounts) -> int:
    times = [int(free.get(name, 0.0) / amount + _SLACK) for name, amount in need.items() if amount > 0]
    return max(0, min(times, default=EVERYTHING))
