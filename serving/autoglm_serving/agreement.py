"""Whether two answers ask for the same action: what a new revision's answers are held against.

An answer agrees when its last call has the same verb, the same places within a distance, and the same text where the text
is typed or names an app. Free words (a finish message, the reasoning before the call) may differ. Coordinates are
AutoGLM's: 0 to 999 on both axes, so the distance is comparable between screens.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

Point = tuple[int, int]
Difference = Literal["none", "action", "place", "text", "unreadable"]

_CALL = re.compile(r"\b(do|finish)\s*\(")
_ACTION = re.compile(r"""\baction\s*=\s*["']([^"']+)["']""")
_PLACE = re.compile(r"\b(element|start|end)\s*=\s*\[\s*(-?\d{1,5})\s*,\s*(-?\d{1,5})\s*\]")
_TEXT = re.compile(r"""\b(text|app)\s*=\s*(["'])(.*?)\2\s*[,)]""", re.DOTALL)


@dataclass(frozen=True)
class Action:
    """The part of a call that two answers must share. `places` by their names; `texts` are those that are carried out."""

    verb: str
    places: tuple[tuple[str, Point], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


def action_of(reply: str) -> Action | None:
    """The last call in a reply; None when there is none that names its action."""
    calls = list(_CALL.finditer(reply))
    if not calls:
        return None
    if calls[-1][1] == "finish":
        return Action("finish")
    call = reply[calls[-1].start() :]
    verb = _ACTION.search(call)
    if verb is None:
        return None
    places = sorted((found[1], (int(found[2]), int(found[3]))) for found in _PLACE.finditer(call))
    texts = sorted((found[1], found[3]) for found in _TEXT.finditer(call))
    return Action(verb[1], tuple(places), tuple(texts))


def difference(first: str, second: str, tolerance: int) -> Difference:
    """How two answers differ. Two that are both no action agree only when they are the same text."""
    one, other = action_of(first), action_of(second)
    if one is None or other is None:
        return "none" if one is other and first.strip() == second.strip() else "unreadable"
    if one.verb != other.verb:
        return "action"
    if [name for name, _ in one.places] != [name for name, _ in other.places]:
        return "place"
    if any(math.dist(a, b) > tolerance for (_, a), (_, b) in zip(one.places, other.places, strict=True)):
        return "place"
    return "none" if one.texts == other.texts else "text"


def text_of(body: bytes, *, streamed: bool) -> str | None:
    """The assistant's text in a chat completion, whole or as server-sent events; None where it is not one or broke off."""
    try:
        if not streamed:
            return _text(json.loads(body)["choices"][0]["message"]["content"])
        return _streamed(body)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def _streamed(body: bytes) -> str | None:
    parts: list[str] = []
    for line in body.decode("utf-8").splitlines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return "".join(parts)
        parts += [_text(choice["delta"].get("content")) for choice in json.loads(data).get("choices", ())[:1]]
    return None


def _text(content: Any) -> str:
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content
