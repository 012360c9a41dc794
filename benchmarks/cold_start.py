"""From nothing to the first answered screenshot, phase by phase, and the memory of what runs then: on Ray, and without it.

Two starts in turns in each run: the application on a Ray cluster that does not run yet, and the bare engine (`cold.bare`),
which is the same engine behind the same HTTP side in one process without Ray and Serve. The difference is what those cost.
Moments are as Ray, Serve and the replica noted them: the replica's record "replica ready" and the controller's log.
As in an image that was built well, compiled modules are there, and files are in the page cache: a first run, which is not
counted, sees to both. Options: `--engine` (transformers or vllm), `--model`, `--runs`,
`--warm`, `--tokens`.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cold.on_ray import BUILT, HEAD, PROCESS, RUNNING, START_S, OnRay, kind
from benchmarks.cold.phases import Mark, memory_rows, middle, parts, phases, rows
from benchmarks.load import Clients, body, healthy, run, screen
from benchmarks.machine import describe, table

from autoglm_serving.config import AppConfig, EngineConfig, ModelConfig
from support.ports import free_port
from support.processes import Process, family, processor_s, pss_bytes, title
from support.serving import MODEL, app_config

SIZE = (360, 800)
REST_S = 3.0
"""Between the first answer and the look at memory."""
PARTS = {
    "fetch": "engine: the model's folder is there",
    "imports": "engine: imports (transformers, torch, with vLLM its own)",
    "tokenizer": "engine: tokenizer and image processor",
    "engine_process": "engine: vLLM's engine core is up (a process, its imports)",
    "weights": "engine: weights",
    "warm_up": "engine: warm-up, caches",
    "rest": "engine: the rest of its constructor, decode worker",
}
FIRST, REST = "first request: first text", "first request: the rest of the answer"
ORDER = (*HEAD, BUILT, PROCESS, *PARTS.values(), RUNNING, FIRST, REST)
KINDS = (
    "engine process", "vLLM's engine core", "decode worker", "of one replica, together",
    "ingress", "Serve's controller", "Serve's proxy", "Ray itself",
)  # fmt: skip
REPLICA = KINDS[:3]


@dataclass
class Seen:
    """Of the runs of one way to start. `processor`: seconds that the processes which then run had used by the first answer."""

    phases: list[dict[str, float]] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    decoded: list[float] = field(default_factory=list)


class Bare:
    """The engine in one process without Ray."""

    def __init__(self, folder: Path, config: AppConfig) -> None:
        self._port = free_port()
        command = [sys.executable, "-m", "benchmarks.cold.bare", config.model_dump_json(by_alias=True), str(self._port)]
        # One thread, as Ray gives a replica of one core.
        self._process = Process("bare", command, log=folder / "bare.log", env={"OMP_NUM_THREADS": "1"})

    def start(self, names: dict[str, str]) -> list[Mark]:
        self._process.start()
        self._process.wait_for(lambda: healthy(self._port), "it listens", START_S)
        running = time.monotonic()
        ready = self.told()[0]
        return [
            Mark(PROCESS, ready["begun"]),
            *parts(ready["begun"], ready["parts"], names),
            Mark(RUNNING, running),
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1/chat/completions"

    def processes(self) -> list[int]:
        return family(self._process.pid)

    def stop(self) -> None:
        self._process.terminate()

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._process.log_text().splitlines() if line.startswith("{")]


def bare_kind(name: str) -> str:
    found = kind(name)
    return found if found in REPLICA else "engine process"


def cold(server: OnRay | Bare, kind_of: Callable[[str], str], tokens: int, seen: Seen) -> None:
    """One start, from nothing to the answer of a second request."""
    begun = time.monotonic()
    try:
        marks = server.start(PARTS)
        running = marks[-1].at
        first, whole = ask(server.url, "first", tokens)
        seen.processor.append(sum(processor_s(pid) for pid in server.processes()))
        # What reading the logs took in between belongs to no phase.
        answered = Mark(FIRST, running + first), Mark(REST, running + whole)
        seen.phases.append(phases(begun, [*marks, *answered]))
        time.sleep(REST_S)
        seen.memory.append(memory(server.processes(), kind_of))
        seen.second.append(ask(server.url, "second", tokens)[1])
        if isinstance(server, Bare):
            seen.decoded.append(server.told()[1]["decoded_s"])
    finally:
        server.stop()


def ask(url: str, seed: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first text and to the end of an answer to a picture that nobody has seen."""
    picture = screen(random.Random(seed), *SIZE)
    (answer,), _ = run(url, [Clients("one", 1, 1, lambda *_: body(MODEL, "Open the settings.", tokens, picture))])
    if not answer.ok:
        raise SystemExit("a request was not answered")
    return answer.first_s, answer.whole_s


def memory(pids: Sequence[int], kind_of: Callable[[str], str]) -> dict[str, float]:
    """Megabytes of proportional set size by kind of process: what processes share counts once."""
    held: dict[str, float] = defaultdict(float)
    for pid in pids:
        if size := pss_bytes(pid) / 2**20:
            what = kind_of(title(pid))
            held[what] += size
            if what in REPLICA:
                held[KINDS[3]] += size
    return dict(held)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--model", default="builtin://autoglm-tiny-grounded")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="compiled modules and files are there: every run counts")
    parser.add_argument("--tokens", type=int, default=8)
    asked = parser.parse_args()
    engine = EngineConfig.model_validate({"name": asked.engine, "maxConcurrency": 4, "maxModelLen": 8192})
    config = app_config(model=ModelConfig(name=MODEL, uri=asked.model), engine=engine)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    machine = describe()
    ray, bare = Seen(), Seen()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for number in range(1 if asked.warm else 0, asked.runs + 1):
            counted = number > 0
            cold(OnRay(Path(name) / f"ray-{number}", config), kind, asked.tokens, ray if counted else Seen())
            cold(Bare(Path(name) / f"bare-{number}", config), bare_kind, asked.tokens, bare if counted else Seen())
    report(machine, asked, ray, bare)


def report(machine: str, asked: argparse.Namespace, ray: Seen, bare: Seen) -> None:
    cores = len(os.sched_getaffinity(0))
    print(
        f"{machine}; on {cores} of them; engine {asked.engine}, {asked.model}, {asked.runs} runs in turns, picture of "
        f"{SIZE[0]}x{SIZE[1]}, answer of {asked.tokens} tokens or fewer\n"
    )
    found = {phase for each in (*ray.phases, *bare.phases) for phase in each}
    columns = ["until", "on Ray, median (range)", "share", "bare engine, median (range)", "share", "difference"]
    print(table(columns, rows([phase for phase in ORDER if phase in found], ray.phases, bare.phases)))
    print()
    decoded = 1000 * statistics.median(bare.decoded)
    print(
        f"Processor time by then of the processes that are left: {middle(ray.processor, 's', 1)} on Ray, "
        f"{middle(bare.processor, 's', 1)} with the bare engine. "
        f"A second request, with another picture: {middle(ray.second, 's', 2)} on Ray, {middle(bare.second, 's', 2)} with the "
        f"bare engine. Of the bare engine's first text, {decoded:.0f} ms were decoding the picture.\n"
    )
    kinds = {each for one in (*ray.memory, *bare.memory) for each in one}
    print(
        table(
            ["memory (PSS) at rest after the first answer", "on Ray, median (range)", "bare engine, median (range)"],
            memory_rows([each for each in KINDS if each in kinds], ray.memory, bare.memory),
        )
    )


if __name__ == "__main__":
    main()
