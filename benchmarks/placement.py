"""Placement over sites: how far the heuristic is from the optimum, and what each of them takes.

Random instances: prices between 0.5 and 8 with opening costs, five regions, limits on spread and domains in half of them; the
demand is between a tenth and nine tenths of the room. `autoglm[placement]` (scipy) brings the optimum; without it only the
heuristic is timed. Times are of the processor, so that other work on the machine counts little.
`python -m benchmarks.placement --help` shows how to choose sizes and numbers.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass

from benchmarks.machine import quantile, table

from autoglm_operator import placing
from autoglm_operator.placing.problem import Limits, Offer, Problem


@dataclass(frozen=True)
class Outcome:
    """One instance: processor seconds of each solver, and the heuristic's share above the optimum's cost (None: no optimum)."""

    heuristic_s: float
    optimum_s: float
    gap: float | None
    feasible: bool


def instance(dice: random.Random, sites: int) -> Problem:
    offers = tuple(
        Offer(
            f"site-{number:04d}",
            room=dice.choice((0, 1, 2, 4, 8, 16)),
            price=round(dice.uniform(0.5, 8.0), 3),
            opening=round(dice.uniform(0.0, dice.choice((0.0, 4.0, 40.0))), 3),
            domain=f"region-{dice.randrange(5)}",
        )
        for number in range(sites)
    )
    room = sum(offer.room for offer in offers)
    demand = max(1, int(room * dice.uniform(0.1, 0.9)))
    spread = Limits(
        min_sites=dice.randint(1, max(1, sites // 4)),
        max_per_site=dice.choice((None, 4)),
        max_per_domain=dice.choice((None, max(1, demand // 3))),
    )
    return Problem(demand, offers, spread if dice.random() < 0.5 else Limits())


def measure(problem: Problem) -> Outcome:
    started = time.process_time()
    found = placing.improved(problem, placing.fill(problem))
    heuristic_s = time.process_time() - started
    started = time.process_time()
    best = placing.optimum(problem)
    optimum_s = time.process_time() - started
    gap = None
    if best is not None:
        least = placing.cost(problem, best)
        gap = (placing.cost(problem, found) - least) / least if least else 0.0
    return Outcome(heuristic_s, optimum_s, gap, not placing.violations(problem, found))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    placing.optimum(Problem(1, (Offer("warm-up", 1, 1.0),)))  # the first call imports scipy
    columns = ["sites", "instances", "feasible", "gap mean", "gap p95", "gap max"]
    rows = []
    for sites in options.sites:
        dice = random.Random(f"{options.seed} {sites}")
        count = options.instances if sites < 1000 else max(1, options.instances // 5)
        rows.append(_row(sites, [measure(instance(dice, sites)) for _ in range(count)]))
    print(table([*columns, "heuristic p50", "p99", "optimum p50", "p99"], rows))


def _row(sites: int, found: list[Outcome]) -> list[str]:
    gaps = sorted(outcome.gap for outcome in found if outcome.gap is not None)
    shares = (
        [f"{value:.3%}" for value in (statistics.mean(gaps), quantile(gaps, 0.95), gaps[-1])] if gaps else ["-"] * 3
    )
    heuristic = sorted(outcome.heuristic_s for outcome in found)
    exact = sorted(outcome.optimum_s for outcome in found) if gaps else []
    times = [f"{quantile(values, share) * 1000:.1f} ms" for values in (heuristic,) for share in (0.5, 0.99)]
    times += [f"{quantile(exact, share) * 1000:.1f} ms" for share in (0.5, 0.99)] if exact else ["-", "-"]
    feasible = f"{sum(outcome.feasible for outcome in found)}/{len(found)}"
    return [str(sites), str(len(found)), feasible, *shares, *times]


if __name__ == "__main__":
    main(sys.argv[1:])
