"""The footprint of a call: what it costs a replica, and under which names a replica may already hold parts of it.

A prompt is cut into blocks: an image is one, a turn's text is one or several. The key of a block names everything up to
its end, so two prompts share exactly the leading blocks whose keys are equal; an image has also a name of its own,
because a replica may hold its encoding whatever stood before it. The ingress computes all of it once per call.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 3
"""Between Chinese (1.5) and English (4). Costs are compared with each other, so the ratio matters little."""
TEXT_BLOCK = 2048
"""Characters of one block of text: a prefix is known to this grain."""
NAME_BYTES = 8
"""Names are 64 bits of a SHA-256: they travel in every report, and a false match costs time, never a wrong answer."""


@dataclass(frozen=True)
class TextPiece:
    """Text of one turn, with the turn's role."""

    role: str
    text: str


@dataclass(frozen=True)
class ImagePiece:
    """An image by the name of its content, with the tokens it will have."""

    role: str
    name: str
    tokens: int


@dataclass(frozen=True)
class Block:
    """One block of a prompt. `image` is the image's own name; None for text."""

    key: str
    tokens: int
    image: str | None = None


@dataclass(frozen=True)
class Footprint:
    """A call as the router sees it. `new_tokens` is the longest answer that the call allows."""

    blocks: tuple[Block, ...]
    new_tokens: int

    @property
    def image_tokens(self) -> int:
        return sum(block.tokens for block in self.blocks if block.image is not None)

    @property
    def prompt_tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)


def image_name(content: bytes, tenant: str = "") -> str:
    """The name of an image's content, different for each tenant, so that nobody can probe for another's images."""
    return _digest(_digest(b"", tenant.encode()), content).hex()


def footprint(pieces: Iterable[TextPiece | ImagePiece], new_tokens: int, tenant: str = "") -> Footprint:
    """The blocks of a prompt in order. Pieces are told apart by their length, so no two prompts share a key by chance."""
    key = _digest(b"", tenant.encode())
    blocks: list[Block] = []
    for piece in pieces:
        key = _digest(key, piece.role.encode())
        if isinstance(piece, ImagePiece):
            key = _digest(key, b"\0image" + piece.name.encode())
            blocks.append(Block(key.hex(), piece.tokens, piece.name))
            continue
        for start in range(0, len(piece.text), TEXT_BLOCK):
            part = piece.text[start : start + TEXT_BLOCK]
            key = _digest(key, part.encode(errors="replace"))
            blocks.append(Block(key.hex(), 1 + len(part) // CHARACTERS_PER_TOKEN))
    return Footprint(tuple(blocks), new_tokens)


def _digest(before: bytes, content: bytes) -> bytes:
    return hashlib.sha256(before + len(content).to_bytes(8, "big") + content).digest()[:NAME_BYTES]
