"""The Serve application with the vLLM engine against vLLM's own OpenAI server: same model, same engine settings, same load.

Both run at the same time and are measured in turns: one client alone, which shows what a request pays on its way, then
several. The model is AutoGLM-Tiny, whose steps are short, so what the way costs weighs as much as it ever can.
Options: `--rounds`, `--requests`, `--clients`, `--short-side`, `--tokens`.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.load import Answered, Clients, body, run, screen
from benchmarks.machine import describe, quantile, table

from autoglm_serving.config import EngineConfig, Limits, ModelConfig
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages
from autoglm_serving.model.locate import locate
from support.ports import free_port
from support.processes import Process
from support.ray import RayCluster, application
from support.serving import MODEL, app_config

URI = "builtin://autoglm-tiny"
PLACES = 8
MAX_LENGTH = 8192
START_S = 900.0
NAMES = ("vLLM's server", "our application")


def vllm_server(folder: Path, port: int, log: Path) -> Process:
    """vLLM's own server with what our engine sets (`engines/vllm_engine`)."""
    size = ModelImages(check_folder(folder)).size.as_dict()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(folder), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(MAX_LENGTH), "--max-num-seqs", str(PLACES), "--dtype", "float32", "--enforce-eager",
        "--limit-mm-per-prompt", json.dumps({"image": 10, "video": 0}),
        "--mm-processor-kwargs", json.dumps({"size": size}), "--mm-processor-cache-gb", "0.25",
        "--enable-prefix-caching", "--generation-config", "vllm", "--skip-mm-profiling",
        "--kv-cache-memory-bytes", str(2**30), "--chat-template-content-format", "string",
        "--disable-log-stats", "--no-enable-log-requests",
        "--distributed-executor-backend", "autoglm_serving.engines.vllm_executor.SupervisedExecutor",
    ]  # fmt: skip
    environment = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    return Process("vllm", command, log=log, env=environment)


def wait_for_server(port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("vLLM's server did not start")


def clients(number: int, requests: int, seed: str, size: tuple[int, int], tokens: int) -> list[Clients]:
    def make(client: int, at: int) -> dict[str, Any]:
        return body(
            MODEL,
            f"{seed} {client} {at}: tap the button",
            tokens,
            screen(random.Random(f"{seed} {client} {at}"), *size),
        )

    return [Clients("picture", number, requests, make)]


def row(name: str, alone: list[Answered], many: list[Answered], seconds: float) -> list[str]:
    firsts = sorted(each.first_s for each in alone if each.ok)
    gaps = [(each.whole_s - each.first_s) / (each.tokens - 1) for each in alone if each.ok and each.tokens > 1]
    busy = sorted(each.first_s for each in many if each.ok)
    tokens = sum(each.tokens for each in many if each.ok)
    return [
        name,
        f"{1000 * quantile(firsts, 0.5):.0f} / {1000 * quantile(firsts, 0.95):.0f} ms",
        f"{1000 * statistics.median(gaps):.1f} ms" if gaps else "-",
        f"{1000 * quantile(busy, 0.5):.0f} / {1000 * quantile(busy, 0.95):.0f} ms",
        f"{tokens / seconds:.1f}",
        str(sum(not each.ok for each in (*alone, *many))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--short-side", type=int, default=180)
    parser.add_argument("--tokens", type=int, default=32)
    asked = parser.parse_args()
    size = (asked.short_side, asked.short_side * 20 // 9)
    machine = describe()
    config = app_config(
        model=ModelConfig(name=MODEL, uri=URI),
        engine=EngineConfig(name="vllm", max_concurrency=PLACES, max_model_len=MAX_LENGTH),
        limits=Limits(),
        max_ongoing_requests=PLACES,
    )
    alone: dict[str, list[Answered]] = {name: [] for name in NAMES}
    many: dict[str, list[Answered]] = {name: [] for name in NAMES}
    seconds = dict.fromkeys(NAMES, 0.0)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ray, port = RayCluster(Path(folder) / "ray"), free_port()
        bare = vllm_server(locate(URI), port, Path(folder) / "vllm.log")
        try:
            bare.start()
            wait_for_server(port)
            ray.start()
            app = application(config)
            ray.deploy(app, wait=False)
            ray.wait_running(app["name"], START_S)
            urls = {
                NAMES[0]: f"http://127.0.0.1:{port}/v1/chat/completions",
                NAMES[1]: f"{ray.serve_address}{app['route_prefix']}/v1/chat/completions",
            }
            for url in urls.values():
                run(url, clients(2, 2, "warm", size, asked.tokens))
            for number in range(asked.rounds):
                for name, url in urls.items():
                    seed = f"{name} {number}"
                    alone[name] += run(url, clients(1, asked.requests, f"{seed} alone", size, asked.tokens))[0]
                    found, took = run(url, clients(asked.clients, asked.requests, seed, size, asked.tokens))
                    many[name] += found
                    seconds[name] += took
        finally:
            ray.stop()
            bare.terminate()
    print(
        f"{machine}; pictures of {size[0]}x{size[1]}, answers of up to {asked.tokens} tokens, {asked.requests} requests "
        f"for each client, {asked.rounds} rounds in turns\n"
    )
    columns = [
        "server",
        "TTFT alone, p50 / p95",
        "each further token, alone",
        f"TTFT with {asked.clients} clients, p50 / p95",
    ]
    print(
        table(
            [*columns, f"tokens/s, {asked.clients} clients", "errors"],
            [row(name, alone[name], many[name], seconds[name]) for name in NAMES],
        )
    )


if __name__ == "__main__":
    main()
