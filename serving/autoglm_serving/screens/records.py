"""The manifest of a folder of screens: one JSON object a line, the same bytes for the same screens."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

TaskType = Literal["tap", "type", "toggle", "scroll", "finish"]
Kind = Literal["phone", "tablet", "desktop", "kiosk"]

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture; right and bottom are outside."""

RELATIVE = 1000
"""AutoGLM's coordinates run from 0 to 999 over each side of the picture."""


@dataclass(frozen=True)
class Element:
    """Something to tap. `state` is on, off, focused, selected or empty."""

    id: str
    role: str
    text: str
    box: Box
    state: str = ""


@dataclass(frozen=True)
class Task:
    """An instruction and one right answer. `target` is the id of the element that the answer's point must hit, if any."""

    id: str
    type: TaskType
    instruction: str
    answer: str
    target: str | None = None


@dataclass(frozen=True)
class TextLine:
    """A text on one line. `ends`: where its signs begin and end, len(text) + 1 places; `y`: its middle. In pixels."""

    text: str
    ends: tuple[float, ...]
    y: float


@dataclass(frozen=True)
class Screen:
    """One picture with everything known about it. Screens of one session have its name and count their steps from 0.

    `texts` is every text that can be seen, sign by sign; only screens to train on have it. `source` is the name of the HTML
    document that is shown, where it is one.
    """

    id: str
    image: str
    width: int
    height: int
    kind: Kind
    template: str
    theme: str
    language: str
    elements: tuple[Element, ...]
    tasks: tuple[Task, ...]
    session: str | None = None
    step: int | None = None
    texts: tuple[TextLine, ...] = ()
    source: str | None = None

    def element(self, name: str) -> Element:
        """The element with this id; KeyError when there is none."""
        for each in self.elements:
            if each.id == name:
                return each
        raise KeyError(name)


def relative_point(box: Box, width: int, height: int) -> tuple[int, int]:
    """The middle of a box in AutoGLM's coordinates."""
    x = (box[0] + box[2]) * RELATIVE // (2 * width)
    y = (box[1] + box[3]) * RELATIVE // (2 * height)
    return min(max(x, 0), RELATIVE - 1), min(max(y, 0), RELATIVE - 1)


def point_in_pixels(point: tuple[int, int], width: int, height: int) -> tuple[float, float]:
    """Where a relative point lies in the picture, as Open-AutoGLM's client computes it: x / 1000 * width."""
    return point[0] * width / RELATIVE, point[1] * height / RELATIVE


_OPTIONAL = ("session", "step", "source")


def write_line(screen: Screen) -> str:
    """One line of the manifest, with its newline. Fields that only some screens have are left out elsewhere."""
    value = {key: each for key, each in asdict(screen).items() if key not in (*_OPTIONAL, "texts")}
    value |= {key: each for key in _OPTIONAL if (each := getattr(screen, key)) is not None}
    if screen.texts:
        value["texts"] = [[line.text, line.ends, line.y] for line in screen.texts]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_manifest(lines: Iterable[str]) -> Iterator[Screen]:
    """The screens of a manifest, in its order. Raises ValueError that names the line when one is broken."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _screen(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} of the manifest is no screen: {error!r}") from error


def _screen(value: dict[str, Any]) -> Screen:
    elements = tuple(Element(**{**each, "box": _box(each["box"])}) for each in value["elements"])
    tasks = tuple(Task(**each) for each in value["tasks"])
    texts = tuple(_text_line(*each) for each in value.get("texts", ()))
    return Screen(**{**value, "elements": elements, "tasks": tasks, "texts": texts})


def _text_line(text: str, ends: list[float], y: float) -> TextLine:
    if len(ends) != len(text) + 1:
        raise ValueError(f"{text!r} has {len(text)} signs and {len(ends)} ends instead of one more")
    return TextLine(text, tuple(ends), y)


def _box(value: list[int]) -> Box:
    left, top, right, bottom = value
    if not (left < right and top < bottom):
        raise ValueError(f"{value} is no box")
    return left, top, right, bottom
