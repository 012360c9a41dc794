"""What scaling does on real arrivals: replicas paid for and waits, against a fixed number and against foresight.

The decisions are the operator's own, every two seconds; the site is a queue in front of replicas that work on four requests at
a time, each for eight seconds. Each run begins with what the first minute needs. Fixed: as many replicas as the busiest minute
needs, always. Foresight: the number that the load needs when replicas that are asked for now will be ready, read off the trace
itself, and never below what it needs now. No forecast can do better than that, so it says what forecasts could win at most.
Arrivals are spread over their slots by chance.
"""

import argparse
import math
import random
import sys
from datetime import timedelta

from benchmarks.forecast import Trace, traces
from benchmarks.machine import quantile, table

from autoglm_operator.scaling.terms import Policy
from support.queueing import PLACES, Queueing

SERVICE_S = 8.0
PEAK_S = 60
WINDOW = timedelta(minutes=5)


def arrivals(trace: Trace, seed: int) -> list[int]:
    """Requests in each second."""
    dice, counts = random.Random(seed), [0] * (len(trace.rates) * trace.slot_s)
    for slot, rate in enumerate(trace.rates):
        for _ in range(round(rate * trace.slot_s)):
            counts[slot * trace.slot_s + dice.randrange(trace.slot_s)] += 1
    return counts


def needs(counts: list[int]) -> list[int]:
    """Replicas that the minute around each second needs."""
    sums, total = [0], 0
    for count in counts:
        total += count
        sums.append(total)
    half = PEAK_S // 2
    found = []
    for at in range(len(counts)):
        low, high = max(at - half, 0), min(at + half, len(counts))
        rate = (sums[high] - sums[low]) / (high - low)
        found.append(max(math.ceil(rate * SERVICE_S / PLACES), 1))
    return found


def play(counts: list[int], how: str, starts_in_s: int) -> Queueing:
    """`how` is fixed, foresight, or "queue N": scaling to so many requests under way for each replica."""
    needed = needs(counts)
    site = Queueing(starts_in_s, service_s=SERVICE_S)
    site.desired = site.ready = max(needed) if how == "fixed" else needed[0]
    for at, count in enumerate(counts):
        site.second(at, count)
        if how.startswith("queue") and at % 2 == 0:
            site.decide(at, Policy(least=1, most=100, per_replica=float(how.split()[1]), window=WINDOW))
        if how == "foresight" and at % 2 == 0:
            # Up in time, and down as scaling does: to the most of the window.
            ahead = max(needed[at : at + starts_in_s + PEAK_S])
            behind = max(needed[max(at - int(WINDOW.total_seconds()), 0) : at + 1])
            site.become(ahead if ahead > site.desired else min(site.desired, max(ahead, behind)), at)
    return site


def row(trace: Trace, how: str, starts_in_s: int) -> list[str]:
    counts = arrivals(trace, 1)
    site = play(counts, how, starts_in_s)
    waits = sorted(site.waits)
    late = sum(wait > 2 for wait in waits) + site.refused
    fixed = max(needs(counts)) * len(counts)
    return [
        trace.name,
        f"{starts_in_s} s",
        how,
        f"{site.replica_s / fixed:.0%}",
        str(len(site.changes)),
        f"{quantile(waits, 0.95):.0f} s",
        f"{late / sum(counts):.1%}",
        f"{site.refused / sum(counts):.1%}",
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--starts", type=int, nargs="+", default=[30, 120])
    parser.add_argument("--queues", type=float, nargs="+", default=[4, 3])
    options = parser.parse_args(arguments)
    columns = [
        "trace",
        "replicas start in",
        "how",
        "replicas of fixed",
        "changes",
        "wait p95",
        "waited over 2 s",
        "refused",
    ]
    rows = [
        row(trace, how, starts)
        for trace in traces()[:3]
        for starts in options.starts
        for how in ("fixed", *(f"queue {queue:g}" for queue in options.queues), "foresight")
    ]
    print(table(columns, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
