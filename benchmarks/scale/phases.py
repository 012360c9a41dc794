"""What an operator goes through: a burst of new objects, changes one by one, a time in which nothing happens, a restart."""

import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from benchmarks.machine import quantile
from benchmarks.scale.api import Client, Generation, Json, Watcher, resident_mib
from benchmarks.scale.helper import Helper

from support.processes import Process, processor_s

CHANGES = 50
CLIENTS = 4
QUIET_S = 10.0
DEADLINE_S = 1800.0


class Arm(Protocol):
    """An operator with objects of its own kind, all in one namespace."""

    title: str
    client: Client
    watcher: Watcher
    helpers: tuple[Helper, ...]

    @property
    def process(self) -> Process:
        """The operator that was started last."""
        ...

    def start(self) -> None:
        """Start the operator."""
        ...

    def leads(self) -> bool:
        """Whether the operator that was started last has the Lease."""
        ...

    def settled(self) -> bool:
        """Whether it is done with what it found when it began to lead."""
        ...

    def manifest(self, number: int, dice: random.Random) -> Json:
        """A new object."""
        ...

    def change(self, generation: int) -> Json:
        """A patch after which what is deployed differs from the generation before."""
        ...

    def mark(self) -> Json:
        """What had been looked at so far."""
        ...

    def looked_at_all(self, mark: Json) -> bool:
        """Whether every object was looked at since then, and what it deployed as well."""
        ...


def go_through(arm: Arm, present: int, size: int, steady_s: float) -> list[list[str]]:
    """From `present` objects to `size` of them, and all phases with these: rows of a name and a figure.

    Each phase is told when it is over: the last one may take an hour, or not end.
    """
    arm.start()
    try:
        return _phases(arm, present, size, steady_s)
    finally:
        arm.process.terminate(grace=60)


def _phases(arm: Arm, present: int, size: int, steady_s: float) -> list[list[str]]:
    until(arm, arm.leads, "it leads")
    until(arm, arm.settled, "it has told what it found")  # what a start takes is measured by the restart
    time.sleep(QUIET_S)
    phases: list[Callable[[], list[list[str]]]] = [
        lambda: burst(arm, present, size),
        lambda: changes(arm, size),
        lambda: steady(arm, steady_s),
        lambda: restart(arm),
    ]
    rows: list[list[str]] = []
    for phase in phases:
        rows += (found := phase())
        told = "; ".join(f"{name}: {figure}" for name, figure in found)
        print(f"{arm.title}, {size}: {told}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return rows


def burst(arm: Arm, first: int, last: int) -> list[list[str]]:
    """Creates objects as fast as four clients can, and waits until all of them are Ready."""
    dice = random.Random(first)
    applied: dict[Generation, float] = {}
    made = [arm.manifest(number, dice) for number in range(first, last)]
    cpu = processor_s(arm.process.pid)

    def create(manifest: Json) -> None:
        applied[(manifest["metadata"]["name"], 1)] = time.monotonic()
        arm.client.request("POST", arm.watcher.path, manifest)

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(create, made))
    created = time.monotonic() - begun
    until(arm, lambda: applied.keys() <= arm.watcher.ready.keys(), "all are Ready")
    total = max(arm.watcher.ready[key] for key in applied) - begun
    quiet(arm)
    return [
        ["created one by one by four clients in", f"{last - first} in {created:.1f} s"],
        ["created to first status, p50 / p99", _spread(applied, arm.watcher.seen)],
        ["created to Ready, p50 / p99", _spread(applied, arm.watcher.ready)],
        ["all Ready after", f"{total:.1f} s"],
        ["operator's CPU for that", f"{processor_s(arm.process.pid) - cpu:.1f} s"],
    ]


def changes(arm: Arm, size: int) -> list[list[str]]:
    """Changes objects one after the other while nothing else happens."""
    dice = random.Random(size)
    applied: dict[Generation, float] = {}
    for number in dice.sample(range(size), min(CHANGES, size)):
        name = f"scale-{number}"
        key = (name, max(found for known, found in tuple(arm.watcher.seen) if known == name) + 1)
        applied[key] = time.monotonic()
        arm.client.request("PATCH", f"{arm.watcher.path}/{name}", arm.change(key[1]))
        until(arm, lambda key=key: key in arm.watcher.seen, f"{name} is seen")  # type: ignore[misc]
        time.sleep(0.05)
    until(arm, lambda: applied.keys() <= arm.watcher.ready.keys(), "all are Ready")
    quiet(arm)
    return [
        ["apply to status, p50 / p99", _spread(applied, arm.watcher.seen)],
        ["apply to Ready, p50 / p99", _spread(applied, arm.watcher.ready)],
    ]


def steady(arm: Arm, seconds: float) -> list[list[str]]:
    """Nothing is changed by anybody."""
    cpu, before, begun = processor_s(arm.process.pid), arm.client.writes(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    written = arm.client.writes() - before
    return [
        [f"writes in {took:.0f} s in which nothing happens", _told(written)],
        ["operator's CPU then", f"{(processor_s(arm.process.pid) - cpu) / took * 100:.1f} % of a core"],
        ["operator's memory", f"{resident_mib(arm.process.pid):.0f} MiB"],
    ]


def restart(arm: Arm) -> list[list[str]]:
    """The operator ends in order, and another one starts."""
    arm.process.terminate(grace=60)
    mark, before = arm.mark(), arm.client.writes()
    begun = time.monotonic()
    arm.start()
    until(arm, arm.leads, "it leads")
    led = time.monotonic() - begun
    until(arm, lambda: arm.looked_at_all(mark), "it has looked at everything")
    told = time.monotonic() - begun
    time.sleep(QUIET_S)
    return [
        ["restart: leads after", f"{led:.1f} s"],
        ["restart: all looked at after", f"{told:.1f} s"],
        ["restart: writes", _told(arm.client.writes() - before)],
    ]


def quiet(arm: Arm) -> None:
    """Until no object changed for a while."""
    until(arm, lambda: time.monotonic() - arm.watcher.last_event > QUIET_S, "nothing changes any more")


def until(arm: Arm, condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition as long as the operator runs, and the threads without which it may never hold."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        for helper in arm.helpers:
            helper.check()
        assert arm.process.running, arm.process.log_tail()
        assert time.monotonic() < deadline, f"waited in vain until {what}\n{arm.process.log_tail()}"
        time.sleep(0.1)


def _told(written: Counter[str]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in written.most_common() if count)
    return f"{sum(written.values())} ({parts})" if parts else "0"


def _spread(applied: dict[Generation, float], reached: dict[Generation, float]) -> str:
    times = sorted(reached[key] - then for key, then in applied.items())
    return f"{statistics.median(times):.2f} / {quantile(times, 0.99):.2f} s"
