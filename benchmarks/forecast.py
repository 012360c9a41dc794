"""Whether a forecast of the arrival rate is nearer to what comes than the rate of the last minute, on real arrivals.

For each horizon (how long a replica may take to start) the mean absolute error of four forecasts, divided by the error of the
rate of the last minute: below 1 a forecast is better. Smoothing and Holt's damped trend get one set of parameters for all
traces, as an operator would have them; "best after the fact" is the best of 24 sets, chosen on the very hour it is judged by,
which no operator can know. None of the traces is longer than a day, so there is no season to learn: the seasonal naive forecast
(the same time yesterday) cannot be computed from them.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.machine import table

DATA = Path(__file__).resolve().parent / "data/arrivals"
DAMPING = 0.9
HORIZONS_S = (60, 120, 300)
USUAL = (0.3, 0.1)
"""Parameters of the middle: level and trend."""


@dataclass(frozen=True)
class Trace:
    """Requests a second in slots of time."""

    name: str
    slot_s: int
    rates: tuple[float, ...]

    def last_minute(self) -> list[float]:
        """What is known without a forecast, at the end of each slot."""
        slots = max(60 // self.slot_s, 1)
        return [_mean(self.rates[max(0, at - slots + 1) : at + 1]) for at in range(len(self.rates))]


def traces() -> list[Trace]:
    found = []
    for name in ("azure-conversation-2023", "mooncake-conversation"):
        made = json.loads((DATA / f"{name}.json").read_text())
        found.append(_trace(name, made["slotSeconds"], made["counts"]))
    made = json.loads((DATA / "servegen-mm-image.json").read_text())
    clients = made["counts"]
    together = [sum(counts) for counts in zip(*clients.values(), strict=True)]
    found.append(_trace("servegen-mm-image, all clients", made["slotSeconds"], together))
    busiest = sorted(clients, key=lambda name: -sum(clients[name]))[:4]
    return found + [_trace(f"servegen-mm-image, {name}", made["slotSeconds"], clients[name]) for name in busiest]


def _trace(name: str, slot_s: int, counts: Sequence[int]) -> Trace:
    return Trace(name, slot_s, tuple(count / slot_s for count in counts))


def holt(rates: Sequence[float], level: float, trend: float, ahead: int) -> list[float]:
    """Holt's linear method with a damped trend: what each slot expects `ahead` slots later."""
    at, slope, found = rates[0], 0.0, []
    reach = sum(DAMPING**step for step in range(1, ahead + 1))
    for rate in rates:
        before = at
        at = level * rate + (1 - level) * (at + DAMPING * slope)
        slope = trend * (at - before) + (1 - trend) * DAMPING * slope
        found.append(max(at + slope * reach, 0.0))
    return found


def error(forecast: Sequence[float], rates: Sequence[float], ahead: int) -> float:
    """Mean absolute error, without the first third, in which a forecast learns."""
    start = len(rates) // 3
    return _mean([abs(forecast[at] - rates[at + ahead]) for at in range(start, len(rates) - ahead)])


def row(trace: Trace, horizon_s: int) -> list[str]:
    ahead = max(horizon_s // trace.slot_s, 1)
    base = error(trace.last_minute(), trace.rates, ahead)
    every = [
        error(holt(trace.rates, level, trend, ahead), trace.rates, ahead)
        for level, trend in product((0.1, 0.2, 0.3, 0.5, 0.7, 0.9), (0.0, 0.05, 0.1, 0.3))
    ]
    level, trend = USUAL
    errors = [
        error(trace.rates, trace.rates, ahead),
        error(holt(trace.rates, level, 0.0, ahead), trace.rates, ahead),
        error(holt(trace.rates, level, trend, ahead), trace.rates, ahead),
        min(every),
    ]
    seconds = ahead * trace.slot_s
    return [trace.name, f"{seconds} s", f"{base / _mean(trace.rates):.0%}", *(f"{one / base:.2f}" for one in errors)]


def main(arguments: list[str]) -> None:
    if arguments:
        print(__doc__)
        return
    rows = [
        row(trace, horizon) for trace in traces() for horizon in (HORIZONS_S if trace.slot_s < 60 else (trace.slot_s,))
    ]
    columns = ["trace", "horizon", "error of the last minute", "last slot", "smoothed", "Holt", "best after the fact"]
    print(table(columns, rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main(sys.argv[1:])
