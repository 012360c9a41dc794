"""The Serve application with the vLLM engine against vLLM's own OpenAI server: same model, same engine settings, same load.

Both run at the same time and are measured in turns: one client alone, which shows what a request pays on its way, then
several. The model is AutoGLM-Tiny, whose steps are short, so what the way costs weighs as much as it ever can. A third
application does nothing (`empty_app`): what it takes is Serve's own. Processor time says the most on a busy machine.
Options: `--rounds`, `--requests`, `--clients`, `--short-side`, `--tokens`.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Answered, Clients, body, healthy, run, screen
from benchmarks.machine import describe, quantile, table

from autoglm_serving.config import EngineConfig, Limits, ModelConfig
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages
from autoglm_serving.model.locate import locate
from support.ports import free_port
from support.processes import Process, family, processor_s, title
from support.ray import RayCluster, application
from support.serving import MODEL, app_config

URI = "builtin://autoglm-tiny"
PLACES = 8
MAX_LENGTH = 8192
START_S = 900.0
EMPTY_MESSAGES = 7
"""About as many as an answer of 32 tokens has in our application with four clients."""
ROOT = Path(__file__).resolve().parent.parent
NAMES = ("vLLM's server", "our application", "a Serve application that does nothing")


def vllm_server(folder: Path, port: int, log: Path) -> Process:
    """vLLM's own server with what our engine sets (`engines/vllm_engine`), and one thread as Ray gives a replica of one core.

    With more threads than free cores vLLM's wait for each other, spinning.
    """
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
        "OMP_NUM_THREADS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    return Process("vllm", command, log=log, env=environment)


def wait_for_server(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if healthy(port):
            return
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


@dataclass
class Measured:
    """What one server did. `ours_ms`, `core_ms`: processor time with several clients, outside and inside vLLM's engine core."""

    url: str
    root: int
    part: str = ""
    alone: list[Answered] = field(default_factory=list)
    many: list[Answered] = field(default_factory=list)
    seconds: float = 0.0
    ours_ms: float = 0.0
    core_ms: float = 0.0

    def measure(self, asked: argparse.Namespace, size: tuple[int, int], seed: str) -> None:
        self.alone += run(self.url, clients(1, asked.requests, f"{seed} alone", size, asked.tokens))[0]
        before = self._processor_ms()
        found, took = run(self.url, clients(asked.clients, asked.requests, seed, size, asked.tokens))
        after = self._processor_ms()
        self.many += found
        self.seconds += took
        self.ours_ms += after[0] - before[0]
        self.core_ms += after[1] - before[1]

    def _processor_ms(self) -> tuple[float, float]:
        """Of its own processes on the way of a request: of several applications on one Ray the others' do not count."""
        titles = {pid: title(pid) for pid in family(self.root)}
        core = [pid for pid, name in titles.items() if "EngineCore" in name]
        ours = [pid for pid, name in titles.items() if pid not in core and (not self.part or self._is_ours(name))]
        return _sum_ms(ours), _sum_ms(core)

    def _is_ours(self, name: str) -> bool:
        return self.part in name or "ProxyActor" in name or "decode_worker" in name


def _sum_ms(pids: Iterable[int]) -> float:
    return 1000 * sum(processor_s(pid) for pid in pids)


def row(name: str, seen: Measured) -> list[str]:
    firsts = sorted(each.first_s for each in seen.alone if each.ok)
    gaps = [(each.whole_s - each.first_s) / (each.tokens - 1) for each in seen.alone if each.ok and each.tokens > 1]
    busy = sorted(each.first_s for each in seen.many if each.ok)
    tokens = sum(each.tokens for each in seen.many if each.ok)
    empty = name == NAMES[2]
    return [
        name,
        f"{1000 * quantile(firsts, 0.5):.0f} / {1000 * quantile(firsts, 0.95):.0f} ms",
        "-" if empty or not gaps else f"{1000 * statistics.median(gaps):.1f} ms",
        f"{1000 * quantile(busy, 0.5):.0f} / {1000 * quantile(busy, 0.95):.0f} ms",
        "-" if empty else f"{tokens / seen.seconds:.1f}",
        f"{seen.ours_ms / len(seen.many):.0f} ms",
        "-" if empty else f"{seen.core_ms / len(seen.many):.0f} ms",
        str(sum(not each.ok for each in (*seen.alone, *seen.many))),
    ]


def empty_application(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "benchmarks.empty_app:build",
        "args": {"messages": EMPTY_MESSAGES},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
    }


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
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ray, port = RayCluster(Path(folder) / "ray"), free_port()
        bare = vllm_server(locate(URI), port, Path(folder) / "vllm.log")
        try:
            bare.start()
            wait_for_server(port)
            ray.start()
            apps = [application(config), empty_application("empty")]
            ray.deploy(*apps, wait=False)
            for app in apps:
                ray.wait_running(app["name"], START_S)
            assert ray.head.pid is not None
            servers = [Measured(f"http://127.0.0.1:{port}/v1/chat/completions", bare.pid)] + [
                Measured(f"{ray.serve_address}{app['route_prefix']}/v1/chat/completions", ray.head.pid, app["name"])
                for app in apps
            ]
            for server in servers:
                run(server.url, clients(4, 2, "warm", size, asked.tokens))
            for number in range(asked.rounds):
                for name, server in zip(NAMES, servers, strict=True):
                    server.measure(asked, size, f"{name} {number}")
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
        f"tokens/s, {asked.clients} clients",
        "processor time a request beside the engine core",
        "in it",
        "errors",
    ]
    print(table(columns, [row(name, server) for name, server in zip(NAMES, servers, strict=True)]))


if __name__ == "__main__":
    main()
