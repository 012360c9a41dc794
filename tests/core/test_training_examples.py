"""Windows, questions and packed rows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.screens.actions import read_reply, tap
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Screen, Task
from autoglm_serving.screens.scoring import score
from autoglm_serving.training import windows
from autoglm_serving.training.examples import Asked, character_weights, pack, questions, token_weights
from autoglm_serving.vision.sizing import MIN_PIXELS
from support.screens import screen

SCREEN = screen(1, 1080, 2400)


@given(st.integers(0, 10_000), st.sampled_from([112, 168, 252, 448]))
def test_windows_lie_in_the_screen_and_have_its_scale(seed: int, side: int) -> None:
    window = windows.choose(SCREEN, side, 0.3, Dice(seed))
    left, top, right, bottom = window.box
    assert 0 <= left < right <= SCREEN.width
    assert 0 <= top < bottom <= SCREEN.height
    assert 0.29 * SCREEN.width <= right - left
    assert 0.29 * SCREEN.height <= bottom - top
    assert window.width % 28 == window.height % 28 == 0
    scale = max(side / SCREEN.width, math.sqrt(MIN_PIXELS / ((right - left) * (bottom - top))))
    for shown, part in ((window.width, right - left), (window.height, bottom - top)):
        assert abs(shown - part * scale) <= 28


@given(st.integers(0, 10_000))
def test_the_cells_of_an_element_lie_on_it(seed: int) -> None:
    window = windows.choose(SCREEN, 168, 0.3, Dice(seed))
    for element in SCREEN.elements:
        if not window.holds(element.box):
            continue
        cells = window.cells(element.box)
        assert cells
        assert all(0 <= cell < window.tokens for cell in cells)
        left, top, right, bottom = window.inside(element.box)
        across = window.width // 28
        for cell in cells if len(cells) > 1 else ():
            x = (cell % across + 0.5) * 28 / window.width * window.sides[0]
            y = (cell // across + 0.5) * 28 / window.height * window.sides[1]
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1


def test_a_whole_screen_is_asked_its_own_tasks_with_their_answers() -> None:
    asked = questions(SCREEN, windows.whole(SCREEN, 252), 40, Dice(0))
    answers = {each.instruction: each.answer for each in asked}
    for task in SCREEN.tasks:
        assert answers[task.instruction] == task.answer


@given(st.integers(0, 5_000))
def test_answers_in_a_window_are_right_in_the_window(seed: int) -> None:
    dice = Dice(seed)
    window = windows.choose(SCREEN, 168, 0.3, dice)
    width, height = window.sides
    asked = questions(SCREEN, window, 10, dice)
    assert len(asked) <= 10
    for each in asked:
        if each.box is None or not each.answer.startswith("do("):
            continue
        assert window.holds(each.box)
        element = next(element for element in SCREEN.elements if element.box == each.box)
        moved = type(element)(element.id, element.role, element.text, window.inside(element.box))
        there = Screen("w", "", width, height, "phone", "t", "light", "en", (moved,), ())
        assert score(there, Task("t", "tap", "", each.answer, moved.id), each.answer).right


def test_a_window_does_not_ask_what_only_the_whole_screen_tells() -> None:
    lower = windows.Window((0, 1000, 1080, 2400), 168, 224)
    asked = questions(SCREEN, lower, 40, Dice(0))
    told = {each.instruction for each in asked}
    assert told
    assert "Scroll down" not in told
    assert "Which is the first?" not in told
    assert not any(SCREEN.elements[0].text in instruction for instruction in told)


def test_what_the_picture_decides_counts_and_the_frame_hardly() -> None:
    answer = tap((75, 480))
    weights = character_weights(answer)
    x, y = answer.index("75"), answer.index("480")
    assert weights[x : x + 2] == [0.6, 0.25]
    assert weights[x + 2] == 1, "the comma says that there is no third digit"
    assert weights[y : y + 3] == [1.0, 0.6, 0.25]
    assert weights[y + 3] == weights[answer.index("element")] == 0.1
    message = 'finish(message="on")'
    start = message.index("on")
    assert character_weights(message)[start : start + 3] == [1, 1, 1]


def test_a_token_weighs_as_its_heaviest_character_and_must_spell_the_answer() -> None:
    answer = 'finish(message="开")'
    pieces = {0: b'finish(message="', 1: "开".encode()[:2], 2: "开".encode()[2:], 3: b'")'}
    assert token_weights(answer, [0, 1, 2, 3], pieces) == [0.3, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="spell"):
        token_weights(answer, [0, 1, 2], pieces)


def test_a_packed_row_keeps_questions_apart_and_starts_each_at_the_picture() -> None:
    row = pack([7, 8], [Asked((1, 2), (3,), (0.5,), (4,)), Asked((5,), (6, 9), (1.0, 0.1))])
    assert row.ids == (7, 8, 1, 2, 3, 5, 6, 9)
    assert row.segments == (0, 0, 1, 1, 1, 2, 2, 2)
    assert row.offsets == (0, 0, 0, 1, 2, 0, 1, 2)
    assert list(row.weights) == [0, 0, 0, 0, 0.5, 0, 1.0, 0.1]
    assert row.asks == ((3, (4,)),), "a question without a place points nowhere"


def test_every_answer_of_the_drawn_screens_can_be_read() -> None:
    for task in SCREEN.tasks:
        assert score(SCREEN, task, task.answer).right
        assert type(read_reply(task.answer)).__name__ in ("Tap", "Finish", "Swipe")
