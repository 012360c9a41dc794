"""Tasks from what is on a screen, each with one right answer; only instructions that cannot mean two things."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoglm_serving.screens import words
from autoglm_serving.screens.actions import finish, swipe, tap, type_text
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Box, Element, Task, TaskType, relative_point
from autoglm_serving.screens.words import Language

MOST_TAPS = 8
_SPACE = re.compile("[\\s\u00b6\u00ad\u200b\u2060]+")  # and signs that take no room, or that headings end with
_STATEFUL = ("toggle", "checkbox", "radio")

_TAP: dict[Language, tuple[str, ...]] = {
    "en": ("Tap {}", "Click {}", "Tap on {}", "Press {}", "Select {}", 'Tap "{}"'),
    "zh": ("点击{}", "点一下{}", "请点击“{}”", "按一下{}", "选择{}", "点击“{}”"),
}
_OPEN: dict[Language, tuple[str, ...]] = {"en": ("Open {}", "Go to {}"), "zh": ("打开{}", "进入{}")}
_ICON: dict[Language, tuple[str, ...]] = {
    "en": ("Tap the {} icon", "Tap the {} button", "Click the {} icon"),
    "zh": ("点击{}图标", "点击{}按钮", "点一下{}图标"),
}
_BUTTON: dict[Language, tuple[str, ...]] = {
    "en": ("Press the {} button", "Tap the {} button"),
    "zh": ("点击{}按钮", "按下{}按钮"),
}
_CHECK: dict[tuple[Language, str], tuple[str, ...]] = {
    ("en", "off"): ("Check {}", "Tick {}"),
    ("en", "on"): ("Uncheck {}", "Clear the box {}"),
    ("zh", "off"): ("勾选{}", "选上{}"),
    ("zh", "on"): ("取消勾选{}", "去掉{}的勾"),
}
_SWITCH: dict[tuple[Language, str], tuple[str, ...]] = {
    ("en", "off"): ("Turn on {}", "Switch {} on", "Enable {}"),
    ("en", "on"): ("Turn off {}", "Switch {} off", "Disable {}"),
    ("zh", "off"): ("开启{}", "打开{}开关", "启用{}"),
    ("zh", "on"): ("关闭{}", "关掉{}开关", "停用{}"),
}
_WHICH: dict[Language, tuple[str, ...]] = {
    "en": ("Which toggle is on?", "Which switch is turned on?"),
    "zh": ("哪个开关是打开的？", "现在开着的是哪个开关？"),
}
_TYPE: dict[Language, tuple[str, ...]] = {
    "en": ('Type "{text}" in {field}', 'Enter "{text}" in the {field} field', 'Fill in {field} with "{text}"'),
    "zh": ("在{field}中输入“{text}”", "把{field}填成“{text}”", "在{field}一栏输入“{text}”"),
}
_SCROLL: dict[Language, tuple[str, ...]] = {
    "en": ("Scroll to {}", "Scroll down to {}", "Scroll until {} is visible"),
    "zh": ("滑动到{}", "向下滚动到{}", "滚动页面直到看见{}"),
}
_FINISH: dict[Language, tuple[str, ...]] = {
    "en": ("Select {}, and finish if it is selected already", "Make sure that {} is selected"),
    "zh": ("选中{}，如果已经选中就结束", "确认{}已被选中"),
}
_OPENABLE = ("row", "app", "card", "tab", "item", "menu")


def instruction_frames() -> list[str]:
    """Every wording of an instruction, with blanks in braces, in a fixed order."""
    tables: tuple[Mapping[Any, tuple[str, ...]], ...] = (
        _TAP, _OPEN, _ICON, _BUTTON, _CHECK, _SWITCH, _WHICH, _TYPE, _SCROLL, _FINISH,
    )  # fmt: skip
    return [frame for table in tables for frames in table.values() for frame in frames]


def tap_frames(language: Language) -> tuple[str, ...]:
    """Every wording that names an element by its text and is answered by a tap on it, with one blank."""
    switched = [frame for state in ("off", "on") for frame in (_SWITCH[language, state] + _CHECK[language, state])]
    return _TAP[language] * 2 + _OPEN[language] + _ICON[language] + _BUTTON[language] + tuple(switched)


@dataclass(frozen=True)
class Seen:
    """A page as it was read off. `hidden` are texts below a list with the list's area, `lines` all texts of the page.

    `prose` are the texts in which a name must not stand a second time; only documents have it.
    """

    width: int
    height: int
    elements: tuple[Element, ...]
    hidden: tuple[tuple[str, Box], ...]
    lines: tuple[str, ...]
    prose: tuple[str, ...] = ()


def make_tasks(seen: Seen, language: Language, dice: Dice) -> tuple[Task, ...]:
    """All tasks of a screen, in a fixed order, numbered from t0."""
    clear = unambiguous(seen)
    made = [
        *_taps(seen, clear, language, dice),
        *_types(seen, clear, language, dice),
        *_toggles(seen, clear, language, dice),
        *_scrolls(seen, language, dice),
        *_finishes(clear, language, dice),
    ]
    return tuple(
        Task(f"t{number}", kind, instruction, answer, target)
        for number, (kind, instruction, answer, target) in enumerate(made)
    )


_Made = tuple[TaskType, str, str, str | None]


def unambiguous(seen: Seen) -> list[Element]:
    """Elements whose text names them and nothing else on the page: no other element says it, alone or inside more text."""
    spoken = Counter(line.casefold() for line in seen.lines)
    texts = [each.text.casefold() for each in seen.elements]
    said = mentions(seen.prose)
    return [
        each
        for each, text in zip(seen.elements, texts, strict=True)
        if text and spoken[text] <= 1 and sum(_contains(other, text) for other in texts) == 1 and said(text) <= 1
    ]


def mentions(texts: Sequence[str]) -> Callable[[str], int]:
    """How often these texts, one after the other, say a name, also where it wraps or carries markup: space does not count."""
    bare = [_bare(each) for each in texts]
    alone, joined = Counter(bare), "".join(bare)

    def count(name: str) -> int:
        return alone[_bare(name)] if _exact(name) else joined.count(_bare(name))

    return count


def _bare(text: str) -> str:
    return _SPACE.sub("", text).casefold()


def _contains(text: str, part: str) -> bool:
    return text == part if _exact(part) else part in text


def _exact(name: str) -> bool:
    """Digits and single letters are named exactly ("1" is not meant by "10"); longer texts may not be part of others."""
    return len(name) == 1 or name.isdigit()


def _taps(seen: Seen, clear: Sequence[Element], language: Language, dice: Dice) -> list[_Made]:
    fit = [each for each in clear if each.role not in _STATEFUL]
    return [
        ("tap", dice.pick(_tap_phrases(each, language)).format(each.text), _tap_on(seen, each), each.id)
        for each in dice.some(fit, MOST_TAPS)
    ]


def _tap_phrases(element: Element, language: Language) -> tuple[str, ...]:
    match element.role:
        case "icon":
            return _ICON[language]
        case "button":
            return _TAP[language] + _BUTTON[language]
        case role if role in _OPENABLE:
            return _TAP[language] + _OPEN[language]
        case _:
            return _TAP[language]


def _types(seen: Seen, clear: Sequence[Element], language: Language, dice: Dice) -> list[_Made]:
    """AutoGLM taps a field before it types: the answer is to tap, unless the field has the focus."""
    made: list[_Made] = []
    for each in dice.some([each for each in clear if each.role == "field"], 2):
        text = dice.pick(dice.pick((words.CITIES, words.PEOPLE, words.PRODUCTS)))[0 if language == "en" else 1]
        instruction = dice.pick(_TYPE[language]).format(text=text, field=each.text)
        focused = each.state == "focused"
        answer = type_text(text) if focused else _tap_on(seen, each)
        made.append(("type", instruction, answer, None if focused else each.id))
    return made


def _toggles(seen: Seen, clear: Sequence[Element], language: Language, dice: Dice) -> list[_Made]:
    switches = [each for each in seen.elements if each.role == "toggle"]
    named = [each for each in clear if each.role in ("toggle", "checkbox")]
    made: list[_Made] = [
        ("toggle", dice.pick(_phrases(each, language)).format(each.text), _tap_on(seen, each), each.id)
        for each in dice.some(named, 3)
    ]
    lit = [each for each in switches if each.state == "on"]
    if len(switches) > 1 and len(lit) == 1:
        made.append(("toggle", dice.pick(_WHICH[language]), finish(lit[0].text), None))
    return made


def _phrases(element: Element, language: Language) -> tuple[str, ...]:
    return (_SWITCH if element.role == "toggle" else _CHECK)[language, element.state]


def _scrolls(seen: Seen, language: Language, dice: Dice) -> list[_Made]:
    """Things below the end of a list that nothing visible names."""
    shown = {each.text for each in seen.elements}
    spoken = Counter(line.casefold() for line in seen.lines)
    fit = [(text, area) for text, area in seen.hidden if text not in shown and spoken[text.casefold()] <= 1]
    made: list[_Made] = []
    for text, area in dice.some(fit, 1):
        left, top, right, bottom = area
        middle, tall = (left + right) // 2, bottom - top
        start = relative_point((middle, bottom - tall // 5, middle, bottom - tall // 5), seen.width, seen.height)
        end = relative_point((middle, top + tall // 5, middle, top + tall // 5), seen.width, seen.height)
        if start[1] - end[1] >= _LEAST_SWIPE:
            made.append(("scroll", dice.pick(_SCROLL[language]).format(text), swipe(start, end), None))
    return made


_LEAST_SWIPE = 150


def _finishes(clear: Sequence[Element], language: Language, dice: Dice) -> list[_Made]:
    """Something that is selected already needs no tap."""
    chosen = [each for each in clear if each.state == "selected" or (each.role == "radio" and each.state == "on")]
    return [
        ("finish", dice.pick(_FINISH[language]).format(each.text), finish(each.text), None)
        for each in dice.some(chosen, 1)
    ]


def _tap_on(seen: Seen, element: Element) -> str:
    return tap(relative_point(element.box, seen.width, seen.height))
