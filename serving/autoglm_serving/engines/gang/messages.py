"""What the ranks of a gang say to each other. Rank 0 leads: each call of its model is done by all ranks, each with its part.

The other ranks decide nothing: what to compute, what to keep and what to drop comes from rank 0, in order. Pixels and
vectors come over the process group, everything here over the control connection.
"""

from dataclasses import dataclass
from pathlib import Path

from autoglm_serving.engines.gang.seat import Seat
from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.model.errors import ModelInvalid, ModelNotFound

Ints = list["int | Ints"]
"""A tensor of whole numbers, row by row."""

Refusal = EngineOptionsInvalid | ModelInvalid | ModelNotFound
"""What an engine raises when its configuration or its model can never work."""
_REFUSALS = (EngineOptionsInvalid, ModelInvalid, ModelNotFound)


@dataclass(frozen=True)
class Task:
    """What a rank shall hold. The model folder was found and checked by rank 0, on the same machine."""

    seat: Seat
    model: Path
    options: TransformersOptions


@dataclass(frozen=True)
class Join:
    """Every rank has its part: enter the process group."""


@dataclass(frozen=True)
class Tower:
    """Encode images of these grids. Their pixels follow: a tensor of `shape`."""

    grids: Ints
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Embed:
    """Look tokens up."""

    ids: Ints


@dataclass(frozen=True)
class Forward:
    """Call the model, with tokens (`ids`) or with vectors that follow: a tensor of `shape`.

    `cache` numbers what an answer's keys and values are kept in; a number that is new is a new answer.
    """

    ids: Ints | None
    shape: tuple[int, ...] | None
    positions: Ints | None
    cache: int | None
    logits_to_keep: int


@dataclass(frozen=True)
class Reuse:
    """Put `taken` blocks of prefixes into a cache: those that these names find."""

    cache: int
    names: tuple[str, ...]
    taken: int


@dataclass(frozen=True)
class Keep:
    """Keep blocks of a cache as prefixes (`Prefixes.keep`)."""

    cache: int
    names: tuple[str, ...]
    first: int


@dataclass(frozen=True)
class Drop:
    """An answer is over."""

    cache: int


@dataclass(frozen=True)
class Ping:
    """Is anybody there? Answered at once, whatever the rank computes."""


Step = Join | Tower | Embed | Forward | Reuse | Keep | Drop
ToRank = Task | Step | Ping


@dataclass(frozen=True)
class Hello:
    """The first message of a rank's process."""

    rank: int


@dataclass(frozen=True)
class Loaded:
    """The rank's part of the model is in memory. `weight_bytes`: how much that is."""

    weight_bytes: int


@dataclass(frozen=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True)
class Failed:
    """The rank ends. `what`: the error's type and text. `refusal`: the error itself, if it says that this can never work."""

    what: str
    refusal: Refusal | None = None


def refusal(error: BaseException) -> Refusal | None:
    """The error as it travels: its text alone, because what it was raised from may not be known to another process."""
    kind = next((each for each in _REFUSALS if isinstance(error, each)), None)
    return kind(*map(str, error.args)) if kind is not None else None


FromRank = Hello | Loaded | Pong | Failed
