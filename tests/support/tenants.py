"""Two tenants of one replica: what the replica's caches give each, and what a probe of one for the other's content takes.

`python -m support.tenants MODEL_FOLDER RESULT_FILE ENGINE ROUNDS` writes what it found as JSON, in a process of its own, and
waits to be ended.

The application runs without Ray's transport, with a real engine and all caches. Work is the processor time of this process
and all that it has started (decoders, vLLM's engine core): whatever a cache saves is saved there, and what else runs on the
machine is not in it. A client sees the same difference in the time of an answer, under more noise.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from autoglm_serving.app.engine_replica import EngineReplica
from autoglm_serving.app.http import create_app
from autoglm_serving.app.replicas import Replicas
from autoglm_serving.config import AppConfig, EngineName
from autoglm_serving.headers import TENANT
from support.models import engine_config
from support.pictures import data_url, noise
from support.processes import family
from support.serving import Handle
from support.vllm_process import write

VICTIM, ATTACKER = "tenant-a", "tenant-b"
WIDTH, HEIGHT = 56, 112
TOKENS = 1
SMALL: Mapping[EngineName, dict[str, Any]] = {"transformers": {"prefixBlock": 16, "prefillChunk": 128}, "vllm": {}}
"""Options with which a short prompt has whole blocks. vLLM's blocks of 128 tokens cannot be smaller on a CPU."""
WORDS: Mapping[EngineName, int] = {"transformers": 12, "vllm": 40}
"""A word has about six tokens."""


@dataclass
class Found:
    """Of each kind of probe: the work of each, in seconds, and what the caches gave to all of them together."""

    work: dict[str, list[float]] = field(default_factory=dict)
    hits: dict[str, dict[str, int]] = field(default_factory=dict)
    cached_tokens: dict[str, int] = field(default_factory=dict)


GUESS, FRESH, OWN = "guess", "fresh", "own"
"""The attacker sends what the victim has sent; the attacker sends what nobody has sent; the victim sends its own again."""


class Application:
    """One replica and its HTTP side in this process."""

    def __init__(self, replica: EngineReplica, client: httpx.AsyncClient, config: AppConfig) -> None:
        self._replica = replica
        self._client = client
        self._config = config
        self._processes = family(os.getpid())

    async def send(self, tenant: str, content: int) -> tuple[float, int]:
        """Work of a request with this content, in seconds, and the tokens of its prompt that were known."""
        body = json.dumps(question(self._config, content)).encode()
        headers = {"content-type": "application/json", TENANT: tenant}
        before = self._work()
        answer = await self._client.post("/v1/chat/completions", content=body, headers=headers)
        work = self._work() - before
        assert answer.status_code == 200, answer.text
        return work, answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    async def settle(self) -> None:
        """Look again for the processes that work here: decoders start when they are needed."""
        self._processes = family(os.getpid())

    def hits(self) -> dict[str, int]:
        """What was found in each cache so far."""
        engine, decoded = self._replica._engine, self._replica._decoded
        found = {name: figures.hits for name, figures in engine.stats().caches.items()}
        return {**found, "decoded": decoded.figures.hits}

    def _work(self) -> float:
        return sum(time.clock_gettime(_clock_of(pid)) for pid in self._processes)


@asynccontextmanager
async def application(config: AppConfig) -> AsyncIterator[Application]:
    """An application that answers."""
    replica = EngineReplica(config.model_dump(mode="json", by_alias=True))
    try:
        await replica.start()
        transport = httpx.ASGITransport(create_app(config, Replicas(Handle([replica]))))
        async with httpx.AsyncClient(transport=transport, base_url="http://app", timeout=600) as client:
            yield Application(replica, client, config)
    finally:
        await replica.close()


async def probe(app: Application, rounds: int) -> Found:
    """In each round the victim sends something, and the probes follow in an order by chance: none is nearer to it."""
    found, order = Found(), random.Random(1)
    for warm in range(5):
        await app.send("someone", -1 - warm)
    await app.settle()
    for number in range(rounds):
        await app.send(VICTIM, 2 * number)
        probes = [(GUESS, ATTACKER, 2 * number), (FRESH, ATTACKER, 2 * number + 1), (OWN, VICTIM, 2 * number)]
        order.shuffle(probes)
        for kind, tenant, content in probes:
            before = app.hits()
            work, cached = await app.send(tenant, content)
            found.work.setdefault(kind, []).append(work)
            found.cached_tokens[kind] = found.cached_tokens.get(kind, 0) + cached
            hits = found.hits.setdefault(kind, {})
            for name, count in app.hits().items():
                hits[name] = hits.get(name, 0) + count - before[name]
    return found


def told_apart(one: list[float], other: list[float]) -> float:
    """How well the better of both guesses by size tells samples of two kinds apart: 0.5 not at all, 1 always (the AUC)."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks: dict[float, list[int]] = {}
    for place, (value, _) in enumerate(ranked, 1):
        ranks.setdefault(value, []).append(place)
    total = sum(sum(ranks[value]) / len(ranks[value]) for value in one)
    area = (total - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return max(area, 1 - area)


def question(config: AppConfig, content: int) -> dict[str, Any]:
    """A picture and words that are those of this number alone: not one block of tokens is another's."""
    rng = random.Random(f"content {content}")
    picture = data_url(noise(rng, WIDTH, HEIGHT))
    words = " ".join(f"{rng.getrandbits(24):06x}" for _ in range(WORDS[config.engine.name]))
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": words}]
    messages = [{"role": "user", "content": parts}]
    return {"model": config.model.name, "messages": messages, "max_tokens": TOKENS, "temperature": 0}


def _clock_of(pid: int) -> int:
    """The kernel's clock of a process's processor time (what clock_getcpuclockid answers)."""
    return (~pid << 3) | 2


async def main(folder: Path, result: Path, engine: EngineName, rounds: int) -> None:
    async with application(engine_config(folder, engine, **SMALL[engine])) as app:
        found = await probe(app, rounds)
    write(result, asdict(found))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))  # type: ignore[arg-type]
