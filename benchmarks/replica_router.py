"""Our replica router against Ray's own two, on Ray Serve with simulated engines: see tests/support/simulated_engine.

In each round every router gets an application of its own, with empty caches and the same load, while no other runs: together
their replicas need more processes than a small machine starts in time. Each round begins with another router.

Phone agents work in sessions: each step sends the conversation so far and a new screenshot (old ones are left out, as
the vendor's client does), waits for the answer, then for the phone. Some steps ask a second question about the same
screenshot with another system prompt, and on some steps the screen has not changed.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
from benchmarks.machine import describe, table
from PIL import Image

from support.ray import TESTS, RayCluster, unique_name
from support.serving import MODEL, app_config

ROUTERS = ("pow-2", "ray-prefix", "ours")
REPLICAS = 4
PLACES = 4
SCREEN = (560, 1120)
"""800 tokens."""
SYSTEM = "You drive a phone by taps, swipes and text. " * 150
CHECKER = "You say whether the last step on this phone has worked. " * 20
ANSWER_TOKENS = 20
SECOND_QUESTION = 0.5
UNCHANGED = 0.25
THINK_S = (0.5, 1.5)
START_S = 600.0


@dataclass
class Load:
    """What one router is measured with, the same for each by its seed."""

    sessions: int
    steps: int
    seed: int


@dataclass
class Seen:
    """What the clients of one router saw; its replicas are others in each round."""

    waits: list[float] = field(default_factory=list)
    image_tokens: int = 0
    encoded: int = 0
    prompt_tokens: int = 0
    prefilled: int = 0
    errors: int = 0
    replicas: dict[int, int] = field(default_factory=dict)

    def add(self, wait: float, told: dict[str, int]) -> None:
        self.waits.append(wait)
        for name in ("image_tokens", "encoded", "prompt_tokens", "prefilled"):
            setattr(self, name, getattr(self, name) + told[name])
        self.replicas[told["replica"]] = self.replicas.get(told["replica"], 0) + 1


def screen(rng: random.Random) -> str:
    image = Image.new("RGB", SCREEN, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    for _ in range(8):
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        image.putpixel((rng.randrange(SCREEN[0]), rng.randrange(SCREEN[1])), colour)
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def user(text: str, url: str | None = None) -> dict[str, Any]:
    image = [{"type": "image_url", "image_url": {"url": url}}] if url else []
    return {"role": "user", "content": [*image, {"type": "text", "text": text}]}


async def ask(http: httpx.AsyncClient, url: str, messages: list[dict[str, Any]], seen: Seen) -> None:
    body = {"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": True}
    begun = time.monotonic()
    told: dict[str, int] | None = None
    wait = 0.0
    async with http.stream("POST", url, json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
            text = choices[0].get("delta", {}).get("content")
            if text and told is None:
                wait, told = time.monotonic() - begun, json.loads(text)
    if told is None:
        seen.errors += 1
    else:
        seen.add(wait, told)


async def session(http: httpx.AsyncClient, url: str, load: Load, number: int, seen: Seen) -> None:
    rng = random.Random(load.seed * 1000 + number)
    history: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    shot = screen(rng)
    await asyncio.sleep(rng.uniform(0, THINK_S[1]))
    for step in range(load.steps):
        if step and rng.random() >= UNCHANGED:
            shot = screen(rng)
        text = f"Task {number}, step {step}: order a tea. " + "The list shows shops near you. " * 20
        await ask(http, url, [*history, user(text, shot)], seen)
        if rng.random() < SECOND_QUESTION:
            await ask(http, url, [{"role": "system", "content": CHECKER}, user(f"Task {number}?", shot)], seen)
        history += [user(text), {"role": "assistant", "content": f"do(action=Tap, element=[{step},500]) " * 10}]
        await asyncio.sleep(rng.uniform(*THINK_S))


async def measure(url: str, load: Load, seen: Seen) -> float:
    begun = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=300, limits=limits, trust_env=False) as http:
        await asyncio.gather(*(session(http, url, load, number, seen) for number in range(load.sessions)))
    return time.monotonic() - begun


def schema(router: str) -> dict[str, Any]:
    config = app_config(max_ongoing_requests=PLACES)
    name = unique_name()
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "support.simulated_app:build",
        "args": {**config.model_dump(mode="json", by_alias=True), "router": router},
        "deployments": [{"name": "Engine", "num_replicas": REPLICAS, "ray_actor_options": {"num_cpus": 0.1}}],
        "runtime_env": {"env_vars": {"PYTHONPATH": str(TESTS)}},
    }


def alone(ray: RayCluster, router: str, load: Load, seen: Seen) -> float:
    """Seconds that the load took with this router, which no other application runs beside."""
    each = schema(router)
    ray.deploy(each, wait=False)
    ray.wait_running(each["name"], START_S)
    took = asyncio.run(measure(f"{ray.serve_address}{each['route_prefix']}/v1/chat/completions", load, seen))
    ray.delete(each["name"])
    return took


def percent(part: int, whole: int) -> str:
    return f"{100 * (1 - part / whole):.0f} %" if whole else "-"


def row(router: str, seen: Seen, seconds: float) -> list[str]:
    cuts = statistics.quantiles(seen.waits, n=100)
    shares = sorted(seen.replicas.values())
    return [
        router,
        f"{cuts[49]:.2f} s",
        f"{cuts[94]:.2f} s",
        percent(seen.encoded, seen.image_tokens),
        percent(seen.prefilled, seen.prompt_tokens),
        f"{len(seen.waits) / seconds:.1f}",
        f"{shares[0]}-{shares[-1]}",
        str(seen.errors),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=14)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    machine = describe()
    seen = {router: Seen() for router in ROUTERS}
    seconds = dict.fromkeys(ROUTERS, 0.0)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # Serve's controller loads the router, and knows nothing of an application's own environment.
        os.environ["PYTHONPATH"] = str(TESTS)
        ray = RayCluster(Path(folder) / "ray")
        try:
            ray.start()
            for number in range(asked.rounds):
                first = number % len(ROUTERS)
                for router in (*ROUTERS[first:], *ROUTERS[:first]):
                    load = Load(asked.sessions, asked.steps, number)
                    seconds[router] += alone(ray, router, load, seen[router])
        finally:
            ray.stop()
    print(
        f"{machine}; {REPLICAS} replicas with {PLACES} places, 2 ingresses, {asked.sessions} sessions of {asked.steps} "
        f"steps, {asked.rounds} rounds in turns\n"
    )
    columns = ["router", "TTFT p50", "TTFT p95", "image tokens from cache", "prompt tokens from cache"]
    columns += ["calls/s", "calls by replica and round", "errors"]
    print(table(columns, [row(router, seen[router], seconds[router]) for router in ROUTERS]))


if __name__ == "__main__":
    main()
