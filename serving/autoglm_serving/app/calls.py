"""What the ingress and the engine replicas say to each other: one call out, events back.

Both sides are processes of one application; the values travel pickled. Failures travel as values, not as exceptions, so
that no exception text leaves a replica.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from autoglm_serving.engines.interface import Delta, TextPart
from autoglm_serving.images import ImageSize
from autoglm_serving.replica_routing.footprint import Footprint
from autoglm_serving.wire import ApiError, ErrorCode, api_error

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class EncodedImage:
    """An image as the client sent it, with the size its header claims. `param` is its place in the request."""

    data: bytes
    size: ImageSize
    param: str


@dataclass(frozen=True)
class Turn:
    """One message, its parts in the client's order."""

    role: Role
    parts: tuple[TextPart | EncodedImage, ...]


@dataclass(frozen=True)
class Call:
    """One generation asked of a replica. `max_pixels` bounds each image; None is the model's own bound.

    `tenant` says whose caches it uses. `streamed`: the client reads the answer while it grows.
    `footprint` says what the call costs and what of it a replica may hold already; the router and the replica read it.
    """

    request_id: str
    turns: tuple[Turn, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    frequency_penalty: float
    stop: tuple[str, ...]
    seed: int | None
    max_pixels: int | None
    footprint: Footprint
    tenant: str = ""
    streamed: bool = True

    @property
    def size(self) -> int:
        """Bytes of its content, at most."""
        return sum(
            4 * len(part.text) if isinstance(part, TextPart) else len(part.data)
            for turn in self.turns
            for part in turn.parts
        )


@dataclass(frozen=True)
class Accepted:
    """The first event of a call whose first delta takes long: a replica works on it."""


@dataclass(frozen=True)
class Failure:
    """The last event of a call that a replica refused or lost. `elsewhere`: another replica may well answer it."""

    code: ErrorCode
    message: str
    param: str | None = None
    elsewhere: bool = False

    def error(self) -> ApiError:
        """The error as the client sees it."""
        return api_error(self.code, self.message, self.param)


Event = Accepted | Delta | Failure


class ReplicaLost(Exception):
    """The replica, or its engine, ended before the answer did. Nothing is wrong with the request."""


class Backend(Protocol):
    """The engine replicas as the HTTP side sees them."""

    def generate(self, call: Call) -> AsyncGenerator[Delta, None]:
        """One attempt on one replica. Raises ApiError (final) or ReplicaLost. Closing it cancels the generation."""

    async def healthy(self) -> bool:
        """Whether a replica has shown a sign of life recently."""
