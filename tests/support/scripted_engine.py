"""An engine that does what the last message tells it: how many tokens, how fast, which fault after how many.

It stands in where a test needs a fault or a pace that the real model does not offer. The message is JSON, for example
{"tokens": 5, "pace": 0.01, "fault": "dead", "after": 2}; any other text is answered with "echo: " and itself.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.interface import (
    Delta,
    EngineDead,
    EngineOverloaded,
    EngineStats,
    GenerateRequest,
    GenerationFailed,
    ImagePart,
    PromptTooLong,
    TextPart,
)
from autoglm_serving.model.errors import ModelNotFound

Fault = Literal["dead", "failed", "too_long", "overloaded", "defect"]
SECRET = "/secret/path 10.1.2.3 swordfish"


@dataclass(frozen=True)
class Script:
    """What to do for one request. `pace` is in seconds between tokens.

    `gate` names a folder: the request leaves a file `begun-*` in it, and has no token before there is a file `open`.
    """

    tokens: int = 3
    pace: float = 0.0
    fault: Fault | None = None
    after: int = 0
    gate: str = ""


class ScriptedEngine:
    """One request is one script."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self.running = 0
        self.started: list[GenerateRequest] = []
        self.cancelled = 0
        self.dead = False
        self.faults = True

    async def start(self) -> None:
        if self._config.model.uri == "file:///missing":
            raise ModelNotFound("there is no folder\n/missing")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        self.started.append(request)
        self.running += 1
        finished = False
        try:
            text = _last_text(request)
            script = _script(text)
            if script.gate:
                await _opened(Path(script.gate))
            images = sum(isinstance(part, ImagePart) for message in request.messages for part in message.parts)
            for index in range(min(script.tokens, request.max_new_tokens)):
                if script.fault is not None and index == script.after and self.faults:
                    self._fail(script.fault)
                await asyncio.sleep(script.pace)
                last = index + 1 == script.tokens
                cut = index + 1 == request.max_new_tokens and not last
                reason: Literal["stop", "length"] | None = "stop" if last else "length" if cut else None
                word = f"w{index} " if script is not ECHO else f"echo: {text}"
                yield Delta(word, reason, 10 + 7 * images, index + 1, 7 * images)
            finished = True
        finally:
            self.running -= 1
            self.cancelled += not finished

    async def check(self) -> None:
        if self.dead:
            raise EngineDead(SECRET)

    async def close(self) -> None:
        """Nothing is held."""

    def stats(self) -> EngineStats:
        return EngineStats(self.running, 0, 4, 4, 0, 0, self.cancelled, 0, 0, 0, 0)

    def _fail(self, fault: Fault) -> None:
        match fault:
            case "dead":
                self.dead = True
                raise EngineDead(SECRET)
            case "failed":
                raise GenerationFailed(SECRET)
            case "too_long":
                raise PromptTooLong(9000, 4096)
            case "overloaded":
                raise EngineOverloaded(SECRET)
            case "defect":
                raise KeyError(SECRET)


ECHO = Script(tokens=1)


async def _opened(gate: Path) -> None:
    (gate / f"begun-{uuid4().hex}").touch()
    while not (gate / "open").exists():
        await asyncio.sleep(0.01)


def _last_text(request: GenerateRequest) -> str:
    return "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))


def _script(text: str) -> Script:
    try:
        value: Any = json.loads(text)
        return Script(**value)
    except (ValueError, TypeError):
        return ECHO
