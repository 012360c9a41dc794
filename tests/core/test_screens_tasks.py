"""Every task has one meaning, and the answer that comes with it is right."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_serving.screens.actions import Swipe, Type, read_reply
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Box, Element, Screen, Task
from autoglm_serving.screens.scoring import score
from autoglm_serving.screens.tasks import MOST_TAPS, Seen, make_tasks, unambiguous

WIDTH, HEIGHT = 1000, 2000


def element(number: int, role: str, text: str, state: str = "") -> Element:
    return Element(f"e{number}", role, text, (100, 100 * number, 900, 100 * number + 90), state)


def page(*elements: Element, hidden: tuple[tuple[str, Box], ...] = (), lines: tuple[str, ...] | None = None) -> Seen:
    spoken = tuple(each.text for each in elements) if lines is None else lines
    return Seen(WIDTH, HEIGHT, elements, hidden, spoken)


def screen(seen: Seen, tasks: tuple[Task, ...]) -> Screen:
    return Screen("s", "s.png", WIDTH, HEIGHT, "phone", "x", "light", "en", seen.elements, tasks)


def clear(seen: Seen) -> list[str]:
    return [each.id for each in unambiguous(seen)]


def test_a_text_that_two_elements_have_names_neither() -> None:
    seen = page(element(0, "row", "Save"), element(1, "button", "save"), element(2, "row", "Stop"), lines=())
    assert clear(seen) == ["e2"]


def test_a_text_that_is_part_of_anothers_names_only_the_longer_one() -> None:
    assert clear(page(element(0, "row", "Wi-Fi"), element(1, "row", "Wi-Fi calling"))) == ["e1"]
    assert clear(page(element(0, "row", "音量"), element(1, "row", "媒体音量"))) == ["e1"]


def test_a_text_that_is_also_written_elsewhere_on_the_page_names_nothing() -> None:
    assert clear(page(element(0, "row", "Settings"), lines=("Settings", "Settings"))) == []
    assert clear(page(element(0, "icon", "Search"), lines=())) == ["e0"]


def test_digits_and_letters_are_told_apart_from_longer_texts_that_hold_them() -> None:
    seen = page(element(0, "key", "1"), element(1, "key", "11"), element(2, "key", "a"), element(3, "row", "Camera"))
    assert clear(seen) == ["e0", "e1", "e2", "e3"]


def test_an_element_without_text_has_no_task() -> None:
    assert clear(page(element(0, "row", ""))) == []


@pytest.mark.parametrize(("state", "kind"), [("", "Tap"), ("focused", "Type")])
def test_a_field_is_tapped_first_and_typed_into_when_it_has_the_focus(state: str, kind: str) -> None:
    seen = page(element(0, "field", "City", state))
    typed = [task for task in make_tasks(seen, "en", Dice(1)) if task.type == "type"]
    assert [type(read_reply(task.answer)).__name__ for task in typed] == [kind]
    assert (typed[0].target is None) == (kind == "Type")
    if kind == "Type":
        written = read_reply(typed[0].answer)
        assert isinstance(written, Type)
        assert f'"{written.text}"' in typed[0].instruction


@pytest.mark.parametrize("on", range(4))
def test_which_toggle_is_on_is_asked_only_when_exactly_one_of_several_is(on: int) -> None:
    seen = page(*(element(number, "toggle", f"Name {number}", "on" if number < on else "off") for number in range(3)))
    asked = [task for task in make_tasks(seen, "en", Dice(1)) if task.type == "toggle" and task.target is None]
    assert [task.answer for task in asked] == (['finish(message="Name 0")'] if on == 1 else [])


def test_one_toggle_alone_is_no_question() -> None:
    made = make_tasks(page(element(0, "toggle", "Wi-Fi", "on")), "en", Dice(1))
    assert [task.target for task in made] == ["e0"]


@pytest.mark.parametrize(("state", "words"), [("on", ("off", "Disable")), ("off", ("on", "Enable"))])
def test_a_toggle_is_asked_into_the_state_that_it_is_not_in(state: str, words: tuple[str, str]) -> None:
    for seed in range(10):
        made = make_tasks(page(element(0, "toggle", "NFC", state)), "en", Dice(seed))
        assert set(made[0].instruction.split()) & set(words)


def test_one_scrolls_only_to_what_is_out_of_sight_and_the_finger_moves_up_inside_the_list() -> None:
    area = (0, 400, 1000, 1800)
    seen = page(
        element(0, "row", "Zoo"), hidden=(("Zoo", area), ("Lake", area), ("Bank", area)), lines=("Bank", "Bank")
    )
    for seed in range(10):
        scrolls = [task for task in make_tasks(seen, "en", Dice(seed)) if task.type == "scroll"]
        assert len(scrolls) == 1
        assert "Lake" in scrolls[0].instruction
        moved = read_reply(scrolls[0].answer)
        assert isinstance(moved, Swipe)
        assert 900 > moved.start[1] > moved.end[1] > 200


def test_a_list_too_low_to_swipe_in_has_no_scroll_task() -> None:
    assert make_tasks(page(hidden=(("Lake", (0, 1000, 1000, 1200)),)), "en", Dice(0)) == ()


def test_what_is_selected_needs_no_tap() -> None:
    made = make_tasks(page(element(0, "tab", "News", "selected")), "zh", Dice(0))
    assert ("finish", 'finish(message="News")') in [(task.type, task.answer) for task in made]


ROLES = st.sampled_from(["row", "button", "icon", "field", "toggle", "checkbox", "radio", "tab", "key", "pin"])
TEXTS = st.sampled_from(["Save", "save", "Save all", "1", "11", "无线网络", "网络", "Rome", "Zoo", "Bank", ""])


@st.composite
def pages(draw: st.DrawFn) -> Seen:
    made = []
    for number in range(draw(st.integers(0, 12))):
        role = draw(ROLES)
        state = ""
        if role in ("toggle", "checkbox", "radio"):
            state = draw(st.sampled_from(["on", "off"]))
        elif role == "field":
            state = draw(st.sampled_from(["", "focused"]))
        made.append(replace(element(number, role, draw(TEXTS), state)))
    hidden = tuple((draw(TEXTS), (0, 300, 1000, 1900)) for _ in range(draw(st.integers(0, 3))))
    return page(*made, hidden=hidden)


@given(seen=pages(), seed=st.integers(0, 1000), language=st.sampled_from(["en", "zh"]))
@settings(deadline=None)
def test_every_answer_is_right_and_every_instruction_names_one_element(seen: Seen, seed: int, language: str) -> None:
    tasks = make_tasks(seen, language, Dice(seed))  # type: ignore[arg-type]
    whole = screen(seen, tasks)
    named = set(clear(seen))
    for task in tasks:
        assert score(whole, task, task.answer).right
        assert task.target is None or task.target in named
    assert len({task.id for task in tasks}) == len(tasks)
    assert sum(task.type == "tap" for task in tasks) <= MOST_TAPS
    assert tasks == make_tasks(seen, language, Dice(seed))  # type: ignore[arg-type]
