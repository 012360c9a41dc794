"""Encoders apart from engine replicas: how many, which one for which image, and when to do without. Pure.

All times are the caller's monotonic clock in seconds.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Sequence

RATE_WINDOW_S = 15.0
"""For so long an arrival counts in the rate: a burst of one agent's pictures does not look like load."""


RATE = "image_tokens_per_s"
"""The figure that encoders report, and are scaled by."""


class Arrivals:
    """Image tokens that arrived lately at one encoder."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, tokens: int, now: float) -> None:
        """An image of so many tokens has arrived, whatever becomes of it."""
        self._seen.append((now, tokens))
        self._tokens += tokens
        self._forget(now)

    def rate(self, now: float) -> float:
        """Image tokens a second. An encoder that has just begun counts as if it had been idle for the rest of the window."""
        self._forget(now)
        return self._tokens / self._window_s

    def _forget(self, now: float) -> None:
        while self._seen and now - self._seen[0][0] >= self._window_s:
            self._tokens -= self._seen.popleft()[1]


def encoders_for(rates: Iterable[float], tokens_per_s: int) -> int:
    """Encoders for what arrives at all of them together, at least one."""
    return max(1, math.ceil(sum(rates) / tokens_per_s - 1e-9))


def order(name: str, encoders: Sequence[str]) -> list[str]:
    """Encoders in the order in which to ask them for one image.

    The same image goes to the same encoder, which may have it still. When encoders come or go, only the images move whose
    first encoder it is (rendezvous hashing).
    """
    return sorted(encoders, key=lambda encoder: hashlib.sha256(f"{encoder}\n{name}".encode()).digest())


class Patience:
    """Whether to ask encoders at all: after one did not answer, nobody waits for another one for a while."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._until = -math.inf

    def asks(self, now: float) -> bool:
        """Whether to ask now. After a pause one caller tries, and the others wait for how it ends."""
        if now < self._until:
            return False
        if self._until > -math.inf:
            self._until = now + self._pause_s
        return True

    def answered(self) -> None:
        """An encoder has answered."""
        self._until = -math.inf

    def failed(self, now: float) -> None:
        """An encoder has not answered in time, or is gone."""
        self._until = now + self._pause_s
