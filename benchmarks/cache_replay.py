"""Real sessions of a phone agent against an engine with its caches and the same engine without, request by request in turns.

A session is replayed as three kinds of clients would send it. Settings by environment: CACHE_REPLAY_SESSIONS (a folder with
more sessions of the same layout), CACHE_REPLAY_STEPS (at most so many screens of each), CACHE_REPLAY_MAX_PIXELS (the engine's
pixel limit), CACHE_REPLAY_ENGINE (transformers or vllm), CACHE_REPLAY_CLIENTS (kinds of clients, separated by commas).
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.machine import describe, table

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.config import AppConfig, EngineConfig, EngineName, ModelConfig, OptionValue
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import Engine, GenerateRequest, Message
from autoglm_serving.engines.options import decoded_cache_bytes
from support.phone_sessions import KEPT, Client, Session, Turn, load, requests

FOLDER = Path(__file__).parent / "data" / "phone-sessions"
NEW_TOKENS = 32
"""An answer of Open-AutoGLM has 37 to 144 tokens."""
OFF: dict[EngineName, dict[str, OptionValue]] = {
    "transformers": {"decodedCacheMib": 0, "pixelCacheMib": 0, "featureCacheMib": 0, "prefixCacheMib": 0},
    "vllm": {"decodedCacheMib": 0, "processorCacheGib": 0.0, "prefixCaching": False},
}


@dataclass
class Server:
    """One engine with what stands before it in a replica."""

    engine: Engine
    decoder: Decoder
    pictures: DecodedCache

    async def ask(self, turns: Sequence[Turn], tenant: str, max_pixels: int | None) -> "Asked":
        started = time.perf_counter()
        messages = tuple([await self._message(turn, tenant) for turn in turns])
        request = GenerateRequest("replay", messages, NEW_TOKENS, max_pixels=max_pixels, tenant=tenant)
        first, text, prompt, image, cached = 0.0, "", 0, 0, 0
        async for delta in self.engine.generate(request):
            first = first or time.perf_counter() - started
            text += delta.text
            prompt, image, cached = delta.prompt_tokens, delta.image_tokens, delta.cached_tokens
        return Asked(first, time.perf_counter() - started, text, prompt, image, cached)

    async def _message(self, turn: Turn, tenant: str) -> Message:
        parts = [
            await self.pictures.part(part, tenant) if isinstance(part, EncodedImage) else part for part in turn.parts
        ]
        return Message(turn.role, tuple(parts))


@dataclass(frozen=True)
class Asked:
    """One request: seconds to the first token and to the last, the answer, and tokens."""

    first: float
    total: float
    text: str
    prompt_tokens: int
    image_tokens: int
    cached_tokens: int


@dataclass
class Tally:
    """All requests of one kind of client."""

    cached: list[Asked] = field(default_factory=list)
    plain: list[Asked] = field(default_factory=list)
    pictures: int = 0
    encoded: int = 0
    """Pictures that the engine with caches had to put through its vision tower."""

    def row(self, client: str) -> list[str]:
        prompt = sum(each.prompt_tokens for each in self.cached)
        known = sum(each.cached_tokens for each in self.cached)
        images = sum(each.image_tokens for each in self.cached)
        same = sum(a.text == b.text for a, b in zip(self.cached, self.plain, strict=True))
        again = 1 - self.encoded / self.pictures if self.encoded else None
        return [
            client,
            str(len(self.cached)),
            f"{images / prompt:.0%}",
            f"{known / prompt:.0%}",
            "inside vLLM" if again is None else f"{again:.0%}",
            _change([each.first for each in self.plain], [each.first for each in self.cached]),
            _change([each.total for each in self.plain], [each.total for each in self.cached]),
            f"{same}/{len(self.cached)}",
        ]


def _change(without: list[float], with_caches: list[float]) -> str:
    before, after = sum(without), sum(with_caches)
    medians = f"{statistics.median(without):.2f} s -> {statistics.median(with_caches):.2f} s"
    return f"{medians}, sum {after / before - 1:+.0%}"


async def start(name: EngineName, options: dict[str, OptionValue]) -> Server:
    config = AppConfig(
        deployment="bench/replay",
        uid="u",
        revision="r",
        model=ModelConfig(name="autoglm-tiny", uri="builtin://autoglm-tiny"),
        engine=EngineConfig(name=name, options=options),
    )
    engine = create_engine(config)
    await engine.start()
    decoder = Decoder()
    return Server(engine, decoder, DecodedCache(decoder, decoded_cache_bytes(config.engine)))


async def replay(plain: Server, caching: Server, client: Client, sessions: Sequence[Session]) -> Tally:
    tally = Tally()
    limit = os.environ.get("CACHE_REPLAY_MAX_PIXELS")
    before = encoded(caching)
    for session in sessions:
        # A tenant for each kind of client, so that no kind finds what another has left in the caches.
        for number, turns in enumerate(requests(session, client)):
            order = (plain, caching) if number % 2 else (caching, plain)
            for server in order:
                asked = await server.ask(turns, client, int(limit) if limit else None)
                (tally.plain if server is plain else tally.cached).append(asked)
            tally.pictures += sum(isinstance(part, EncodedImage) for turn in turns for part in turn.parts)
    tally.encoded = encoded(caching) - before
    return tally


def encoded(server: Server) -> int:
    """Pictures that went through the vision tower: each was missed once in the cache of features."""
    caches = server.engine.stats().caches
    return caches["features"].misses if "features" in caches else 0


def cut(session: Session) -> Session:
    return Session(session.name, session.steps[: int(os.environ.get("CACHE_REPLAY_STEPS", "1000"))])


async def main() -> None:
    name = cast("EngineName", os.environ.get("CACHE_REPLAY_ENGINE", "transformers"))
    sessions = [cut(each) for each in load(Path(os.environ.get("CACHE_REPLAY_SESSIONS", FOLDER)))]
    wanted = os.environ.get("CACHE_REPLAY_CLIENTS", ",".join(KEPT)).split(",")
    machine = describe()
    plain, caching = await start(name, OFF[name]), await start(name, {})
    print(
        f"{machine}; engine {name}, {len(sessions)} sessions of {sum(len(each.steps) for each in sessions)} screens, "
        f"{NEW_TOKENS} tokens each\n"
    )
    rows = []
    try:
        warm = next(requests(sessions[0], "one picture"))
        for server in (plain, caching):
            await server.ask(warm, "warm", None)
        for client in KEPT:
            if client in wanted:
                rows.append((await replay(plain, caching, client, sessions)).row(client))
                print(" ".join(rows[-1]), flush=True)
    finally:
        for server in (plain, caching):
            await server.engine.close()
            server.decoder.close()
    columns = ["client keeps", "requests", "image tokens", "prompt tokens reused", "pictures not encoded again"]
    print("\n" + table([*columns, "first token, median", "whole answer, median", "same answer"], rows))


if __name__ == "__main__":
    asyncio.run(main())
