"""Reuse of what a model has computed for the beginning of a prompt, in blocks of tokens.

A block's name is a hash of everything before it and in it: the tenant, the tokens, and for image tokens which image they are
of. So equal names mean equal keys and values, and a prompt of another tenant finds nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from autoglm_serving.vision.cache import ByteCache, CacheFigures

Value = TypeVar("Value")


@dataclass(frozen=True)
class ImageSpan:
    """The tokens of one image inside a prompt: where they begin, how many, and which image."""

    start: int
    length: int
    name: str

    @property
    def end(self) -> int:
        return self.start + self.length


def block_names(ids: Sequence[int], images: Sequence[ImageSpan], tenant: str, block: int) -> tuple[str, ...]:
    """The names of all whole blocks of `block` tokens, in order."""
    if block < 1:
        raise ValueError("a block needs a token")
    digest = hashlib.sha256(b"prefix of tenant " + tenant.encode()).digest()
    names: list[str] = []
    for start in range(0, len(ids) - block + 1, block):
        hasher = hashlib.sha256(digest)
        hasher.update(b"".join(index.to_bytes(8, "big") for index in ids[start : start + block]))
        for image in images:
            if image.start < start + block and start < image.end:
                hasher.update(f"{image.start - start} {image.length} {image.name};".encode())
        digest = hasher.digest()
        names.append(digest.hex())
    return tuple(names)


class PrefixCache(Generic[Value]):
    """Blocks by name, at most `capacity` bytes together. For one thread.

    The end of a prompt goes before its beginning: without the beginning nobody could find the end.
    """

    def __init__(self, capacity: int) -> None:
        self._blocks: ByteCache[Value] = ByteCache(capacity)

    def run(self, names: Sequence[str]) -> list[Value]:
        """The blocks from the first name on, up to the first that is not there."""
        found: list[Value] = []
        for name in names:
            value = self._blocks.get(name)
            if value is None:
                break
            found.append(value)
        self._keep_order(names[: len(found)])
        return found

    def holds(self, name: str) -> bool:
        """Whether a block is there."""
        return self._blocks.holds(name)

    def put(self, names: Sequence[str], value: Value, size: int) -> None:
        """Keep the block of the last name; the others are those before it in its prompt."""
        self._blocks.put(names[-1], value, size)
        self._keep_order(names)

    @property
    def figures(self) -> CacheFigures:
        """What the cache holds and did, counted in blocks. Every prompt that is read further than it is known has one miss."""
        return self._blocks.figures

    def _keep_order(self, names: Sequence[str]) -> None:
        for name in reversed(names):
            self._blocks.touch(name)
