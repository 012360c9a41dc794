"""Requests and manifests gone wrong in thousands of ways, the same ones in every run."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_KEYS = [
    *("model", "messages", "role", "content", "type", "text", "image_url", "url", "stream", "stream_options", "stop"),
    *("include_usage", "n", "seed", "max_tokens", "max_completion_tokens", "temperature", "top_p", "frequency_penalty"),
    *("tools", "__class__", "你好"),
]
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**9, 2**64, -(2**63), 0.5, 1e308, -0.0, "", "a", "5", "user", "text", "image_url",
    "\ud800", "\0", "你好😀", "x" * 300, "data:image/png;base64,", "data:image/png;base64,AAAA", "data:,", "http://127.0.0.1/",
    "file:///etc/passwd", [], {}, [[]], [None], [{}], {"": {}}, {"url": {}}, {"type": "text"}, [1, "a", {"type": "image_url"}],
)  # fmt: skip


DEPTH = 10_000
"""Of a value in every fiftieth body: far above what recursion takes."""
_DEEP = "<deep>"


def mutated(seeds: list[Any], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` bodies: requests with changed values, some of them nested very deeply, and requests with changed bytes."""
    chance = random.Random(seed)
    for index in range(count):
        value = copy.deepcopy(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            _change_value(value, chance)
        if index % 50 == 1:
            yield _deep(value, chance)
            continue
        body = json.dumps(value).encode()
        yield _change_bytes(body, chance) if index % 4 == 0 else body


def changed(seed: Any, chance: random.Random) -> Any:
    """A copy with a few values that are something else."""
    value = copy.deepcopy(seed)
    for _ in range(chance.randint(1, 3)):
        _change_value(value, chance)
    return value


def _change_value(value: Any, chance: random.Random) -> None:
    container = chance.choice(list(_containers(value)))
    new = copy.deepcopy(chance.choice(_VALUES))
    if isinstance(container, dict):
        key = chance.choice([*container, *container, chance.choice(_KEYS)])
        if key in container and chance.random() < 0.2:
            del container[key]
        else:
            container[key] = _nest(new, chance) if chance.random() < 0.1 else new
    elif container and chance.random() < 0.3:
        container.extend(
            copy.deepcopy(chance.choice(container)) for _ in range(chance.choice((1, 1, 1, 1, 1, 1, 1, 70, 70, 600)))
        )
    else:
        container.insert(0, new)


def _nest(value: Any, chance: random.Random) -> Any:
    for _ in range(chance.choice((3, 30, 300))):
        value = [value] if chance.random() < 0.5 else {chance.choice(_KEYS): value}
    return value


def _deep(value: Any, chance: random.Random) -> bytes:
    """Made as text: what nests so deeply can be neither copied nor written by Python."""
    container = chance.choice([each for each in _containers(value) if isinstance(each, dict)])
    container[chance.choice([*container, *_KEYS])] = _DEEP
    begin, end = chance.choice(((b"[", b"]"), (b'{"":', b"}"), (b'[{"type":', b"}]")))
    ends = chance.choice((DEPTH, DEPTH, DEPTH - 1, 0))
    return json.dumps(value).encode().replace(b'"<deep>"', begin * DEPTH + b"1" + end * ends)


def _change_bytes(body: bytes, chance: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 6)] = chance.randbytes(chance.randint(0, 6))
    return bytes(data)


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _containers(inner)
    elif isinstance(value, list):
        yield value
        for inner in value:
            yield from _containers(inner)
