"""Clients of an OpenAI server: streamed requests one after the other from each of several clients, timed."""

import asyncio
import base64
import io
import json
import random
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
from PIL import Image, ImageDraw

Body = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One request: seconds to the first text and to the end, tokens of the answer by its usage, and the pieces of text that
    it came in. `kind` is the caller's."""

    kind: str
    first_s: float
    whole_s: float
    tokens: int
    ok: bool
    pieces: int


def screen(rng: random.Random, width: int, height: int) -> str:
    """A picture that nobody has seen, as a data URL."""
    image = Image.new("RGB", (width, height), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = rng.randrange(width), rng.randrange(height)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        draw.rectangle((x, y, x + rng.randrange(width // 2), y + rng.randrange(height // 8)), fill=colour)
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def body(model: str, text: str, tokens: int, picture: str | None = None) -> Body:
    """A streamed, greedy request that is answered with `tokens` tokens or fewer."""
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
    parts.append({"type": "text", "text": text})
    return {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(http: httpx.AsyncClient, url: str, kind: str, wanted: Body) -> Answered:
    begun = time.perf_counter()
    first, tokens, pieces = 0.0, 0, 0
    async with http.stream("POST", url, json=wanted) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            choices = event.get("choices") or [{}]
            if choices[0].get("delta", {}).get("content"):
                first = first or time.perf_counter() - begun
                pieces += 1
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    whole = time.perf_counter() - begun
    return Answered(kind, first or whole, whole, tokens, answer.status_code == 200 and tokens > 0, pieces)


@dataclass(frozen=True)
class Clients:
    """So many clients that each ask so many times, with a body made for the client and its request."""

    kind: str
    number: int
    requests: int
    make: Callable[[int, int], Body]


def healthy(port: int) -> bool:
    """Whether a server of this machine answers at /health."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def run(url: str, clients: list[Clients]) -> tuple[list[Answered], float]:
    """All clients at the same time; what they saw, and the seconds until the last one was done."""

    async def one(http: httpx.AsyncClient, group: Clients, number: int) -> list[Answered]:
        return [await ask(http, url, group.kind, group.make(number, each)) for each in range(group.requests)]

    async def everybody() -> tuple[list[Answered], float]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        async with httpx.AsyncClient(timeout=900, limits=limits, trust_env=False) as http:
            begun = time.perf_counter()
            seen = await asyncio.gather(
                *(one(http, group, number) for group in clients for number in range(group.number))
            )
            return [each for many in seen for each in many], time.perf_counter() - begun

    return asyncio.run(everybody())
