"""AutoGLM's replies read into actions: `do(action="Tap", element=[x,y])`, `do(action="Type", text="...")` and so on.

Syntax as Open-AutoGLM's prompt teaches it. A reply may think first: the last call in it counts.
"""

import re
from dataclasses import dataclass

Point = tuple[int, int]

_CALL = re.compile(r"\b(do|finish)\s*\(")
_ACTION = re.compile(r"""\baction\s*=\s*["']([^"']+)["']""")
_POINT = r"\s*=\s*\[\s*(-?\d{1,5})\s*,\s*(-?\d{1,5})\s*\]"
_TEXT = re.compile(r"""\b(?:text|message)\s*=\s*(["'])(.*)\1\s*\)""", re.DOTALL)


@dataclass(frozen=True)
class Tap:
    """Tap at a relative point."""

    point: Point


@dataclass(frozen=True)
class Type:
    """Type a text into the focused field."""

    text: str


@dataclass(frozen=True)
class Swipe:
    """Drag from one relative point to another."""

    start: Point
    end: Point


@dataclass(frozen=True)
class Finish:
    """The task is done; the message answers it."""

    message: str


@dataclass(frozen=True)
class Unreadable:
    """A reply that is none of the above, and why."""

    reason: str


Action = Tap | Type | Swipe | Finish | Unreadable


def tap(point: Point) -> str:
    """The reply that taps."""
    return f'do(action="Tap", element=[{point[0]},{point[1]}])'


def type_text(text: str) -> str:
    """The reply that types."""
    return f'do(action="Type", text="{text}")'


def swipe(start: Point, end: Point) -> str:
    """The reply that drags."""
    return f'do(action="Swipe", start=[{start[0]},{start[1]}], end=[{end[0]},{end[1]}])'


def finish(message: str) -> str:
    """The reply that ends the task."""
    return f'finish(message="{message}")'


def read_reply(reply: str) -> Action:
    """The action that a reply asks for."""
    calls = list(_CALL.finditer(reply))
    if not calls:
        return Unreadable("no do(...) or finish(...) in the reply")
    call = reply[calls[-1].start() :]
    text = _TEXT.search(call)
    if calls[-1][1] == "finish":
        return Finish(text[2]) if text else Unreadable("finish without a message")
    action = _ACTION.search(call)
    match action[1] if action else None:
        case "Tap":
            point = _point(call, "element")
            return Tap(point) if point else Unreadable("Tap without element=[x,y]")
        case "Type" | "Type_Name":
            return Type(text[2]) if text else Unreadable("Type without a text")
        case "Swipe":
            start, end = _point(call, "start"), _point(call, "end")
            return Swipe(start, end) if start and end else Unreadable("Swipe without start and end")
        case other:
            return Unreadable(f"action {other} is not known here")


def _point(call: str, name: str) -> Point | None:
    found = re.search(rf"\b{name}{_POINT}", call)
    return (int(found[1]), int(found[2])) if found else None
