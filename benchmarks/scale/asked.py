"""What `operator_scale` was asked for by the environment, or what is wrong with it and what to write instead."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

SIZES, ARMS, STEADY = "AUTOGLM_SCALE", "AUTOGLM_SCALE_ARMS", "AUTOGLM_SCALE_STEADY"


class Wrong(ValueError):
    """The environment asks for what cannot be measured; the message names the variable and what to write."""


@dataclass(frozen=True)
class Asked:
    """The numbers of objects, which rise, the operators that go through them, and the seconds in which nothing happens."""

    sizes: tuple[int, ...]
    arms: tuple[str, ...]
    steady_s: float


def asked(environ: Mapping[str, str], known: Collection[str]) -> Asked:
    """What to measure, with operators of which `known` are there. Raises `Wrong`."""
    return Asked(
        sizes=_sizes(environ.get(SIZES, "10,100,1000")),
        arms=_arms(environ.get(ARMS, ",".join(known)), known),
        steady_s=_seconds(environ.get(STEADY, "60")),
    )


def _sizes(text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise Wrong(f"{SIZES}={text}: write numbers of objects above 0 with commas between them, such as 10,100,1000")
    sizes = tuple(map(int, words))
    rising = tuple(sorted(set(sizes)))
    if sizes != rising:  # objects are added from one number to the next, none is taken away
        raise Wrong(f"{SIZES}={text}: each number has to be above the one before: write {','.join(map(str, rising))}")
    return sizes


def _arms(text: str, known: Collection[str]) -> tuple[str, ...]:
    words = _words(text)
    unknown = sorted(set(words) - set(known))
    if unknown or not words:
        what = f"no operator is called {', '.join(unknown)}" if unknown else "no operator is named"
        raise Wrong(f"{ARMS}={text}: {what}: write one or more of {', '.join(known)} with commas between them")
    if len(set(words)) < len(words):
        raise Wrong(f"{ARMS}={text}: an operator is named twice: write {','.join(dict.fromkeys(words))}")
    return words


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise Wrong(f"{STEADY}={text}: write seconds above 0, such as 60")
    return seconds


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
