"""How many replicas fit into what is free. A replica is a gang: all that it takes has to be free on one machine."""

from collections.abc import Mapping, Sequence

from autoglm_operator.state import Capacity

Amounts = Mapping[str, float]

EVERYTHING = 1_000_000
"""Stands for "as many as wanted" where nothing is needed."""

_SLACK = 1e-6
"""Sums of binary fractions may miss the whole number by this share."""


def fitting(capacity: Capacity, need: Amounts, first: Sequence[Amounts] = ()) -> int:
    """Replicas that fit. What is `first` takes its place before them, one after the other where it costs the fewest replicas.

    Where machines are not told, what is free in all counts, which may be spread over more of them than it should.
    """
    machines = list(capacity.machines or (capacity.available,))
    for one in first:
        lost = [
            (_times(free, need) - _times(_without(free, one), need), index)
            for index, free in enumerate(machines)
            if _times(free, one)
        ]
        if not lost:
            return 0
        _, cheapest = min(lost)
        machines[cheapest] = _without(machines[cheapest], one)
    return sum(_times(free, need) for free in machines)


def _without(free: Amounts, taken: Amounts) -> Amounts:
    return {name: free.get(name, 0.0) - taken.get(name, 0.0) for name in {**free, **taken}}


def _times(free: Amounts, need: Amounts) -> int:
    times = [int(free.get(name, 0.0) / amount + _SLACK) for name, amount in need.items() if amount > 0]
    return max(0, min(times, default=EVERYTHING))
