"""Encoders apart from the replicas (`spec.encoder`) against replicas that encode for themselves, with as many processes.

On a real Ray cluster with the real engine and AutoGLM-Tiny: `--processes` engine replicas, against one fewer and one
encoder, each with one thread. Some clients ask about a new picture each time, others ask in text alone; both at once, then
each kind by itself. Rounds take turns. Options: `--processes`, `--rounds`, `--requests`, `--short-side`.
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load import Answered, Clients, body, run, screen
from benchmarks.machine import describe, quantile, table

from autoglm_serving.config import EncoderConfig, EngineConfig, Limits, Worker
from support.ray import RayCluster, application
from support.serving import MODEL, app_config

TOKENS = 16
PICTURE_CLIENTS = 2
TEXT_CLIENTS = 2
WAIT_S = 120.0
LOADS = ("pictures", "texts", "both")


def schema(processes: int, split: bool) -> dict[str, Any]:
    config = app_config(
        engine=EngineConfig(max_concurrency=4, max_model_len=8192),
        limits=Limits(),
        worker=Worker(cpus=0.1),
        max_ongoing_requests=4,
        encoder=EncoderConfig(wait_s=WAIT_S, worker=Worker(cpus=0.1)) if split else None,
    )
    return application(config, replicas=processes - split)


def clients(load: str, seed: int, requests: int, size: tuple[int, int]) -> list[Clients]:
    def pictures(client: int, number: int) -> dict[str, Any]:
        rng = random.Random(f"{seed} {client} {number}")
        return body(MODEL, "What can be tapped here?", TOKENS, screen(rng, *size))

    def texts(client: int, number: int) -> dict[str, Any]:
        return body(MODEL, f"Round {seed}, client {client}, request {number}: what comes next?", TOKENS)

    wanted = []
    if load != "texts":
        wanted.append(Clients("picture", PICTURE_CLIENTS, requests, pictures))
    if load != "pictures":
        wanted.append(Clients("text", TEXT_CLIENTS, 3 * requests, texts))
    return wanted


def row(load: str, name: str, seen: list[Answered], seconds: float) -> list[str]:
    cells = [load, name]
    for kind in ("picture", "text"):
        firsts = sorted(each.first_s for each in seen if each.kind == kind and each.ok)
        cells.append(f"{quantile(firsts, 0.5):.2f} / {quantile(firsts, 0.95):.2f} s" if firsts else "-")
    tokens = sum(each.tokens for each in seen if each.ok)
    return [
        *cells,
        f"{sum(each.ok for each in seen) / seconds:.2f}",
        f"{tokens / seconds:.1f}",
        str(sum(not each.ok for each in seen)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--short-side", type=int, default=360)
    asked = parser.parse_args()
    size = (asked.short_side, asked.short_side * 20 // 9)
    machine = describe()
    names = {f"{asked.processes} replicas": False, f"{asked.processes - 1} replica(s) and an encoder": True}
    seen: dict[tuple[str, str], list[Answered]] = {}
    seconds: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ray = RayCluster(Path(folder) / "ray")
        try:
            ray.start()
            schemas = {name: schema(asked.processes, split) for name, split in names.items()}
            for each in schemas.values():
                ray.deploy(each, wait=False)
                ray.wait_running(each["name"], 900)
                run(f"{ray.serve_address}{each['route_prefix']}/v1/chat/completions", clients("both", -1, 2, size))
            for number in range(asked.rounds):
                for load in LOADS:
                    for name, each in schemas.items():
                        url = f"{ray.serve_address}{each['route_prefix']}/v1/chat/completions"
                        found, took = run(url, clients(load, number, asked.requests, size))
                        seen.setdefault((load, name), []).extend(found)
                        seconds[load, name] = seconds.get((load, name), 0.0) + took
        finally:
            ray.stop()
    print(
        f"{machine}; pictures of {size[0]}x{size[1]}, {PICTURE_CLIENTS} clients with pictures and {TEXT_CLIENTS} with text, "
        f"answers of {TOKENS} tokens, {asked.rounds} rounds in turns\n"
    )
    columns = ["load", "served by", "TTFT with a picture, p50 / p95", "TTFT of text, p50 / p95"]
    columns += ["answers/s", "tokens/s", "errors"]
    print(table(columns, [row(load, name, seen[load, name], seconds[load, name]) for load in LOADS for name in names]))


if __name__ == "__main__":
    main()
