"""What is asked about a picture while training, and which parts of an answer count.

Beside a screen's own tasks every element gives two more: find this text (a tap), and read what is here (a message). They
need no instruction writer, and they are what grounding is made of.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoglm_serving.screens.actions import Tap, finish, read_reply, tap
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Box, Element, Screen, Task, relative_point
from autoglm_serving.screens.tasks import tap_frames
from autoglm_serving.training.windows import Window

SYSTEM = "You operate a screen. Answer with one action."
"""Short: every token of it is in front of every answer. The model was not trained on Open-AutoGLM's long prompt."""

FRAME_WEIGHT = 0.1
"""Of the characters that are the same in every answer."""

PLACE_WEIGHTS = (0.25, 0.6, 1.0)
"""Of a coordinate's units, tens and hundreds: the units decide nothing on a button of 40 pixels."""

LONGEST_READ = 24
"""Characters of a text that the model is asked to read."""

_READ = ("Read [{x},{y}]", "读取[{x},{y}]")
_NUMBER = re.compile(r"(?<=[\[,])\d{1,3}(?=[\],])")
_CONTENT = re.compile(r'(?:text|message)="(.*)"\)', re.DOTALL)
_KIND = re.compile(r'^(?:do\(action="\w+"|finish)')


@dataclass(frozen=True)
class Question:
    """An instruction and its answer. `box` is the element in pixels of the screen that it is about, if there is one."""

    instruction: str
    answer: str
    box: Box | None = None


def questions(screen: Screen, window: Window, count: int, dice: Dice) -> list[Question]:
    """Up to `count` questions: about half of them the screen's own tasks, the others six finds to one reading."""
    shown = [element for element in screen.elements if window.holds(element.box)]
    own = [made for task in screen.tasks if (made := _own(screen, task, window)) is not None]
    asked = dice.some(own, max(1, count // 2))
    texts = Counter(element.text.strip() for element in shown)
    telling = [each for each in shown if each.text.strip() and texts[each.text.strip()] == 1 and '"' not in each.text]
    for element in dice.some(telling, count - len(asked)):
        asked.append(
            _read(element, window, dice) if _readable(element) and dice.chance(15) else _find(element, window, dice)
        )
    return asked


def _own(screen: Screen, task: Task, window: Window) -> Question | None:
    """A task as it is in a window; None where the window does not show what it is about.

    A window hides what "the third row" means, so there only instructions count that name their target's text.
    """
    everything = window.sides == (screen.width, screen.height)
    if task.target is None:
        return Question(task.instruction, task.answer) if everything else None
    target = screen.element(task.target)
    named = bool(target.text.strip()) and target.text.strip() in task.instruction
    if not everything and not (window.holds(target.box) and named):
        return None
    if isinstance(read_reply(task.answer), Tap):
        return Question(task.instruction, tap(_point(target.box, window)), target.box)
    return Question(task.instruction, task.answer, target.box)


def _find(element: Element, window: Window, dice: Dice) -> Question:
    text = element.text.strip()
    instruction = dice.pick(tap_frames("en" if text.isascii() else "zh")).format(text)
    return Question(instruction, tap(_point(element.box, window)), element.box)


def _read(element: Element, window: Window, dice: Dice) -> Question:
    x, y = _point(element.box, window)
    return Question(dice.pick(_READ).format(x=x, y=y), finish(element.text.strip()), element.box)


def _readable(element: Element) -> bool:
    return len(element.text.strip()) <= LONGEST_READ and "\n" not in element.text.strip()


def _point(box: Box, window: Window) -> tuple[int, int]:
    return relative_point(window.inside(box), *window.sides)


def character_weights(answer: str) -> list[float]:
    """The weight of every character: what the picture decides counts, the frame hardly."""
    weights = [FRAME_WEIGHT] * len(answer)
    if kind := _KIND.match(answer):
        weights[: kind.end()] = [0.3] * kind.end()
    if content := _CONTENT.search(answer):
        start, end = content.span(1)
        weights[start : end + 1] = [1.0] * (end + 1 - start)  # with the quotation mark that ends it
        return weights
    for number in _NUMBER.finditer(answer):
        length = number.end() - number.start()
        for place in range(length):
            weights[number.start() + place] = PLACE_WEIGHTS[length - 1 - place]
        weights[number.end()] = max(PLACE_WEIGHTS) if length < len(PLACE_WEIGHTS) else FRAME_WEIGHT
    return weights


def token_weights(answer: str, ids: Sequence[int], pieces: Mapping[int, bytes]) -> list[float]:
    """The weight of every token: the largest of its characters. `pieces` are the bytes of the ids."""
    by_byte = [
        weight for letter, weight in zip(answer, character_weights(answer), strict=True) for _ in letter.encode()
    ]
    weights, start = [], 0
    for index in ids:
        end = start + len(pieces[index])
        weights.append(max(by_byte[start:end], default=FRAME_WEIGHT))
        start = end
    if start != len(by_byte):
        raise ValueError(f"the tokens of {answer!r} do not spell it")
    return weights


@dataclass(frozen=True)
class Asked:
    """A question as tokens. `words` are the tokens of the element's text, `cells` the image tokens that show it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weights: tuple[float, ...]
    cells: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One picture and all that is asked about it, as one sequence.

    Every question sees the prefix (system text and picture) and itself, so that the picture is computed once. `segments`: 0
    for the prefix, 1, 2, ... for the questions. `offsets`: the position after the prefix. `weights`: of predicting this very
    token from the one before it.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    offsets: tuple[int, ...]
    weights: tuple[float, ...]
    asks: tuple[tuple[int, tuple[int, ...]], ...]
    """(place of the last token of a prompt, cells that it points at) of the questions that have a place."""


def pack(prefix: Sequence[int], asked: Sequence[Asked]) -> Row:
    """Put the questions behind their common prefix."""
    ids, segments, offsets, weights = list(prefix), [0] * len(prefix), [0] * len(prefix), [0.0] * len(prefix)
    asks: list[tuple[int, tuple[int, ...]]] = []
    for number, each in enumerate(asked, 1):
        if each.cells:
            asks.append((len(ids) + len(each.prompt) - 1, each.cells))
        length = len(each.prompt) + len(each.answer)
        ids += [*each.prompt, *each.answer]
        segments += [number] * length
        offsets += range(length)
        weights += [0.0] * len(each.prompt) + list(each.weights)
    return Row(tuple(ids), tuple(segments), tuple(offsets), tuple(weights), tuple(asks))
