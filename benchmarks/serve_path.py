"""What a request costs in each process on its way, with an engine that computes nothing: `python -m benchmarks serve_path`.

The application is ours, on a real Ray cluster, with scripted engines that give tokens at a pace; answers of one token and
of many, so that what a request costs stands apart from what its messages cost. Processor time is read from /proc, above
what the same processes take while nobody asks, so that a busy machine disturbs it little. Each `--ray NAME=VALUE` is
measured as one more cluster with that variable in its environment, for example RAY_SERVE_ENABLE_HA_PROXY=1. With `--engine
vllm` a model answers, and requests have pictures; `--own` measures nothing but the ingress's own code, in this process.
Options: `--clients`, `--requests`, `--rounds`, `--tokens`, `--pace-ms`, `--idle`, `--short-side`.
"""

import argparse
import asyncio
import json
import logging
import random
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Answered, Clients, body, run, screen
from benchmarks.machine import describe, quantile, table
from typing_extensions import override

from autoglm_operator.local.ray_head import RayHead
from autoglm_serving.app.calls import Call
from autoglm_serving.app.http import create_app
from autoglm_serving.config import AppConfig, EngineConfig, Limits, ModelConfig
from autoglm_serving.engines.interface import Delta
from support.processes import SPAWNED, family, processor_s, title
from support.ray import RayCluster, application
from support.serving import MODEL, app_config

CPUS = 16
PLACES = 8
START_S = 600.0
ROLES = {
    "proxy": ("ProxyActor", "haproxy"),
    "ingresses": (":Ingress",),
    "engine replica": (":Engine",),
    "decode workers": ("decode_worker",),
    "vLLM's engine core": ("VLLM::", SPAWNED),
}
OWN_REQUESTS = 400
OWN_PIECES = 7
OTHER = "Ray itself and Serve's controller"
"""What they do for one request does not stand out from what they do all the time."""
PLAIN = "as it is"


class Head(RayHead):
    """A head whose processes get more variables."""

    def __init__(self, folder: Path, variables: str) -> None:
        super().__init__(folder, CPUS)
        self._variables = dict(each.split("=", 1) for each in variables.split(",") if each)

    @override
    def _environment(self, temp_dir: Path) -> dict[str, str]:
        return {**super()._environment(temp_dir), **self._variables}


class Processor:
    """Milliseconds that the processes of a Ray head have used, by their roles."""

    def __init__(self, root: int) -> None:
        self._used = {pid: (_role(title(pid)), 1000 * processor_s(pid)) for pid in family(root)}
        self._at = time.monotonic()

    def since(self, earlier: "Processor") -> tuple[dict[str, float], float]:
        """By role, and the seconds between. What ended in between does not count."""
        used = dict.fromkeys((*ROLES, OTHER), 0.0)
        for pid, (role, ms) in self._used.items():
            used[role] += ms - earlier._used.get(pid, (role, 0.0))[1]
        return used, self._at - earlier._at


def _role(name: str) -> str:
    return next((role for role, words in ROLES.items() if any(word in name for word in words)), OTHER)


def config(engine: str) -> AppConfig:
    if engine == "scripted":
        return app_config(max_ongoing_requests=PLACES, limits=Limits())
    return app_config(
        model=ModelConfig(name=MODEL, uri="builtin://autoglm-tiny"),
        engine=EngineConfig(name="vllm", max_concurrency=PLACES, max_model_len=8192),
        limits=Limits(),
        max_ongoing_requests=PLACES,
    )


def clients(asked: argparse.Namespace, tokens: int, seed: int = 0) -> list[Clients]:
    script = json.dumps({"tokens": tokens, "pace": asked.pace_ms / 1000})

    def make(client: int, at: int) -> dict[str, Any]:
        if asked.engine == "scripted":
            return body(MODEL, script, tokens)
        name = f"{seed} {client} {at} {tokens}"
        return body(MODEL, f"{name}: tap the button", tokens, picture(asked, name))

    return [Clients("script", asked.clients, asked.requests, make)]


def picture(asked: argparse.Namespace, name: str) -> str:
    return screen(random.Random(name), asked.short_side, asked.short_side * 20 // 9)


@dataclass
class Measured:
    """`idle`: milliseconds a second while nobody asks; `used`: milliseconds a request above that, by role."""

    tokens: int
    idle: dict[str, float]
    used: dict[str, float]
    seen: list[Answered]


def measure(asked: argparse.Namespace, variables: str) -> list[Measured]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ray = RayCluster(Path(folder) / "ray")
        ray.head = Head(Path(folder) / "ray", variables)
        try:
            ray.start()
            app = application(config(asked.engine), scripted=asked.engine == "scripted")
            ray.deploy(app, wait=False)
            ray.wait_running(app["name"], START_S)
            assert ray.head.pid is not None
            url = f"{ray.serve_address}{app['route_prefix']}/v1/chat/completions"
            run(url, clients(asked, asked.tokens, -1))
            return [_measured(asked, url, ray.head.pid, tokens) for tokens in (1, asked.tokens)]
        finally:
            ray.stop()


def _measured(asked: argparse.Namespace, url: str, root: int, tokens: int) -> Measured:
    before = Processor(root)
    time.sleep(asked.idle)
    rest = Processor(root)
    seen = [each for number in range(asked.rounds) for each in run(url, clients(asked, tokens, number))[0]]
    used, seconds = Processor(root).since(rest)
    resting, rested = rest.since(before)
    idle = {role: ms / rested for role, ms in resting.items()}
    return Measured(tokens, idle, {role: (ms - idle[role] * seconds) / len(seen) for role, ms in used.items()}, seen)


def row(variables: str, measured: Measured) -> list[str]:
    firsts = sorted(each.first_s for each in measured.seen if each.ok)
    return [
        variables.replace(",", ", ") or PLAIN,
        f"{measured.tokens}, in {sum(each.pieces for each in measured.seen) / len(measured.seen):.1f} messages",
        *(f"{measured.used[role]:.0f} ms" for role in ROLES),
        f"{sum(measured.used[role] for role in ROLES):.0f} ms",
        f"{sum(measured.idle[role] for role in ROLES):.0f} + {measured.idle[OTHER]:.0f} ms",
        f"{1000 * quantile(firsts, 0.5):.0f} / {1000 * quantile(firsts, 0.95):.0f} ms",
        str(sum(not each.ok for each in measured.seen)),
    ]


class Pieces:
    """A backend that has its answer ready."""

    async def generate(self, _call: Call) -> AsyncGenerator[Delta, None]:
        for index in range(OWN_PIECES):
            yield Delta("hello ", "stop" if index == OWN_PIECES - 1 else None, 300, index + 1, 200)

    async def healthy(self) -> bool:
        return True


def own_ms(asked: argparse.Namespace) -> float:
    """Processor milliseconds of the ingress's own code for a request with a picture, answered in some pieces."""
    app = create_app(app_config(), Pieces())
    bodies = [json.dumps(body(MODEL, f"{at}: tap", 32, picture(asked, str(at)))).encode() for at in range(20)]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}

    async def one(data: bytes) -> None:
        waiting = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message.get("status", 200) != 200:
                raise SystemExit(f"refused: {message}")

        await app(dict(scope), receive, send)

    async def everything(number: int) -> None:
        for at in range(number):
            await one(bodies[at % len(bodies)])

    logging.disable()
    asyncio.run(everything(len(bodies)))
    begun = time.process_time()
    asyncio.run(everything(OWN_REQUESTS))
    return 1000 * (time.process_time() - begun) / OWN_REQUESTS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--pace-ms", type=float, default=15)
    parser.add_argument("--idle", type=float, default=15, help="seconds in which nobody asks")
    parser.add_argument("--ray", action="append", default=[], metavar="NAME=VALUE[,...]")
    parser.add_argument("--engine", choices=["scripted", "vllm"], default="scripted")
    parser.add_argument("--short-side", type=int, default=180)
    parser.add_argument("--own", action="store_true")
    asked = parser.parse_args()
    machine = describe()
    if asked.own:
        print(f"{machine}; pictures {asked.short_side} wide, {OWN_PIECES} pieces: {own_ms(asked):.2f} ms a request")
        return
    rows = [row(variables, each) for variables in ("", *asked.ray) for each in measure(asked, variables)]
    print(
        f"{machine}; engine {asked.engine}, {asked.clients} clients, one token each {asked.pace_ms:g} ms if scripted, "
        f"{asked.requests} requests for each client, {asked.rounds} rounds\n"
    )
    columns = [
        "Ray's environment",
        "tokens",
        *ROLES,
        "all, a request",
        "idle, a second",
        "TTFT p50 / p95",
        "errors",
    ]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
