"""How long each part of an engine's start took: what a cold start waits for, and what an image or a cache would save of it."""

import time
from collections.abc import Callable, Mapping
from typing import Literal

Phase = Literal["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
"""`fetch`: the model's folder, from its source or a cache. `imports`: of the libraries in this process. `engine_process`: the
process that computes is up with its own imports, where it is another one (vLLM). `warm_up`: caches are made and the model has
computed something, compiled where the engine compiles."""

START_TIMES = "autoglm_start_times"
"""The call by which vLLM's engine core tells when it was where (`vllm_executor`): seconds of the machine's monotonic clock."""


class Startup:
    """A stopwatch. A phase lasts from the end of the one before, so that together they are the whole start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of each phase that is over, in their order."""
        return dict(self._seconds)

    def reached(self, phase: Phase, at: float | None = None) -> None:
        """This phase, or one more stretch of it, is over: now, or since `at`, which another process of this machine noted."""
        end = max(self._last, self._clock() if at is None else at)
        self._seconds[phase] = self._seconds.get(phase, 0.0) + end - self._last
        self._last = end
