"""What is asked about a picture, and the very spot where it is written: closer than the box of its element.

A row of a list is as wide as the screen, its name is a few image tokens of it: attention shall go there. The answer's point
lies there too, always inside of the element.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.screens.actions import Tap, read_reply, tap
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import RELATIVE, Element, Screen, Task, TextLine
from autoglm_serving.screens.tasks import tap_frames
from autoglm_serving.training.windows import Window
from autoglm_serving.vision.sizing import TOKEN_SIDE

Area = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the screen."""


@dataclass(frozen=True)
class Spot:
    """An instruction, its answer, and what it names: `place` (x, y from 0 to 1 of the picture) and the image tokens there.

    `kind`: whether its name is written there, or a symbol stands for it, or the instruction does not name it at all. No
    `cells`: it is nowhere.
    """

    instruction: str
    answer: str
    kind: Literal["text", "symbol", "other"]
    place: tuple[float, float] = (0.0, 0.0)
    cells: tuple[int, ...] = ()

    @property
    def points(self) -> bool:
        """Whether it can be found by its name."""
        return bool(self.cells) and self.kind != "other"


def spots(screen: Screen, window: Window, count: int, dice: Dice) -> list[Spot]:
    """Up to `count`: half of them the screen's own tasks, the others its elements by their names."""
    own = [spot for task in dice.some(screen.tasks, len(screen.tasks)) if (spot := _own(screen, task, window))]
    asked = own[: count // 2]
    return [*asked, *_elements(screen, window, count - len(asked), dice)]


def findable(screen: Screen, window: Window, count: int, dice: Dice) -> list[Spot]:
    """Up to `count` that can be found by name; two in three, where there are so many, are any words of any text."""
    own = [spot for task in dice.some(screen.tasks, len(screen.tasks)) if (spot := _own(screen, task, window))]
    asked = own[: count // 2]
    while len(asked) < count * 2 // 3 and (spot := _words(screen, window, dice)) is not None:
        asked.append(spot)
    asked += _elements(screen, window, count - len(asked), dice)
    return [spot for spot in asked if spot.points]


def written(screen: Screen, element: Element) -> Area | None:
    """Where an element's name is written inside its box, the whole of it before a part, the widest first; else None."""
    name, best = element.text.strip(), None
    for line in screen.texts:
        if element.box[1] <= line.y <= element.box[3] and (found := _within(line, name, element)) is not None:
            best = max(found, best) if best is not None else found
    return best[2] if best is not None else None


def _within(line: TextLine, name: str, element: Element) -> tuple[bool, float, Area] | None:
    begin, text, all_of_it = line.text.find(name), line.text.strip(), True
    if begin < 0 or not name:
        # A long name goes over several lines, of which one may be found.
        if not text or text not in name or len(text) < min(_LEAST_PART, len(name)):
            return None
        begin, end, all_of_it = 0, len(line.text), False
    else:
        end = begin + len(name)
    left, right = max(element.box[0], line.ends[begin]), min(element.box[2], line.ends[end])
    return (all_of_it, right - left, (left, line.y - 1, right, line.y + 1)) if left < right else None


def _own(screen: Screen, task: Task, window: Window) -> Spot | None:
    """A task as it is in the window; None where that does not show what it is about."""
    everything = window.sides == (screen.width, screen.height)
    if task.target is None:
        return Spot(task.instruction, task.answer, "other") if everything else None
    element = screen.element(task.target)
    named = bool(element.text.strip()) and element.text.strip() in task.instruction
    if not window.holds(element.box) or not (named or everything):
        return None
    spot = _spot(screen, element, window, task.instruction)
    answer = spot.answer if isinstance(read_reply(task.answer), Tap) else task.answer
    return Spot(spot.instruction, answer, spot.kind if named else "other", spot.place, spot.cells)


def _elements(screen: Screen, window: Window, count: int, dice: Dice) -> list[Spot]:
    shown = [element for element in screen.elements if window.holds(element.box)]
    texts = Counter(element.text.strip() for element in shown)
    told = [each for each in shown if each.text.strip() and texts[each.text.strip()] == 1 and '"' not in each.text]
    return [_spot(screen, each, window, _asking(each.text.strip(), dice)) for each in dice.some(told, max(0, count))]


def _spot(screen: Screen, element: Element, window: Window, instruction: str) -> Spot:
    area = written(screen, element)
    left, top, right, bottom = area or element.box
    return Spot(
        instruction,
        _answer(place := _place(((left + right) / 2, (top + bottom) / 2), window)),
        "text" if area else "symbol",
        place,
        _cells(area or element.box, window),
    )


def _words(screen: Screen, window: Window, dice: Dice) -> Spot | None:
    """Some words that follow each other in a text, and are nowhere else; None after a few tries."""
    for _ in range(_TRIES if screen.texts else 0):
        line = dice.pick(screen.texts)
        name = _part(line.text, dice)
        begin = line.text.find(name)
        if not _LEAST_WORDS <= len(name) <= _MOST_WORDS or '"' in name:
            continue
        if sum(other.text.count(name) for other in screen.texts) != 1:
            continue
        area = (line.ends[begin], line.y - 1, line.ends[begin + len(name)], line.y + 1)
        if area[0] < window.box[0] or area[2] > window.box[2]:
            continue
        if window.box[1] <= line.y - _MARGIN and line.y + _MARGIN <= window.box[3]:
            place = _place(((area[0] + area[2]) / 2, line.y), window)
            return Spot(_asking(name, dice), _answer(place), "text", place, _cells(area, window))
    return None


def _part(text: str, dice: Dice) -> str:
    if not text:
        return ""
    if text.isascii():
        words = text.split(" ")
        begin = dice.below(len(words))
        return " ".join(words[begin : begin + dice.pick((1, 1, 2, 2, 3, 4, 9))]).strip()
    begin = dice.below(len(text))
    return text[begin : begin + dice.pick((2, 2, 3, 3, 4, 5, 6, 9))].strip()


def _asking(name: str, dice: Dice) -> str:
    return dice.pick(tap_frames("en" if name.isascii() else "zh")).format(name)


def _answer(place: tuple[float, float]) -> str:
    return tap((round(place[0] * (RELATIVE - 1)), round(place[1] * (RELATIVE - 1))))


def _place(point: tuple[float, float], window: Window) -> tuple[float, float]:
    width, height = window.sides
    return (point[0] - window.box[0]) / width, (point[1] - window.box[1]) / height


def _cells(area: Area, window: Window) -> tuple[int, ...]:
    """The image tokens, by row, that an area touches with more than its edge."""
    (left, top), (right, bottom) = _place(area[:2], window), _place(area[2:], window)
    across, along = window.width // TOKEN_SIDE, window.height // TOKEN_SIDE
    first, upper = min(across - 1, max(0, int(left * across + _EDGE))), min(along - 1, max(0, int(top * along)))
    last = min(across - 1, max(first, int(right * across - _EDGE)))
    lower = min(along - 1, max(upper, int(bottom * along)))
    return tuple(row * across + column for row in range(upper, lower + 1) for column in range(first, last + 1))


_EDGE = 0.15
"""Of an image token's width: so little of a name in it is no letter."""

_LEAST_PART = 4
"""Characters of a line that is a part of a longer name."""

_LEAST_WORDS, _MOST_WORDS = 2, 40
"""Characters of words that are asked for."""

_MARGIN = 4
"""Pixels of the screen around the middle of a line that a window must show."""

_TRIES = 12
