"""Where a name is written, and what is asked about a picture for grounding."""

from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.screens.actions import Tap, read_reply
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Element, Screen, Task, TextLine
from autoglm_serving.screens.scoring import score
from autoglm_serving.training import windows
from autoglm_serving.training.grounding.recipe import PRESETS, Lesson, rate_at
from autoglm_serving.training.grounding.spots import findable, spots, written


def line(text: str, left: float, y: float, sign: float = 20.0) -> TextLine:
    return TextLine(text, tuple(left + sign * place for place in range(len(text) + 1)), y)


SCREEN = Screen(
    id="s",
    image="",
    width=1080,
    height=2400,
    kind="phone",
    template="list",
    theme="light",
    language="en",
    elements=(
        Element("row", "row", "Wi-Fi", (0, 400, 1080, 560)),
        Element("card", "card", "A long name of two lines", (40, 700, 500, 900)),
        Element("icon", "icon", "Back", (20, 60, 120, 160)),
    ),
    tasks=(
        Task("t0", "tap", "Tap Wi-Fi", "", "row"),
        Task("t1", "tap", "Tap the third thing", "", "icon"),
        Task("t2", "finish", "What is it?", 'finish(message="x")'),
    ),
    texts=(line("Wi-Fi", 60, 470), line("on", 900, 470), line("A long name", 60, 740), line("of two lines", 60, 800)),
)


def answered(screen: Screen) -> Screen:
    tasks = tuple(
        Task(task.id, task.type, task.instruction, task.answer or 'do(action="Tap", element=[1,1])', task.target)
        for task in screen.tasks
    )
    return Screen(**{**vars(screen), "tasks": tasks})


def test_a_name_is_where_it_is_written_not_in_the_middle_of_its_row() -> None:
    assert written(SCREEN, SCREEN.element("row")) == (60, 469, 160, 471)


def test_of_a_name_over_two_lines_the_wider_part_counts() -> None:
    assert written(SCREEN, SCREEN.element("card")) == (60, 799, 300, 801)


def test_a_symbol_is_written_nowhere() -> None:
    assert written(SCREEN, SCREEN.element("icon")) is None


@given(st.integers(0, 10_000), st.sampled_from([252, 336, 448]))
def test_cells_lie_in_the_picture_and_answers_hit_the_element(seed: int, side: int) -> None:
    screen = answered(SCREEN)
    window = windows.whole(screen, side)
    asked = spots(screen, window, 8, Dice(seed))
    assert asked
    for spot in asked:
        assert all(0 <= cell < window.tokens for cell in spot.cells)
        assert 0 <= spot.place[0] <= 1
        assert 0 <= spot.place[1] <= 1
        named = [each for each in screen.elements if each.text in spot.instruction]
        if named and isinstance(read_reply(spot.answer), Tap):
            task = Task("t", "tap", spot.instruction, spot.answer, named[0].id)
            assert score(screen, task, spot.answer).right, spot


@given(st.integers(0, 10_000))
def test_parts_of_a_screen_lie_in_it_and_ask_for_what_they_show(seed: int) -> None:
    screen = answered(SCREEN)
    window = windows.part(screen, 336, Dice(seed, "part"))
    left, top, right, bottom = window.box
    assert 0 <= left < right <= screen.width
    assert 0 <= top < bottom <= screen.height
    assert window.width % 28 == window.height % 28 == 0
    for spot in findable(screen, window, 12, Dice(seed)):
        assert spot.points
        assert all(0 <= cell < window.tokens for cell in spot.cells)
        y = window.box[1] + spot.place[1] * window.sides[1]
        assert any(abs(y - each.y) <= 1 for each in screen.texts) or spot.kind == "symbol"


def test_what_is_not_named_cannot_be_found() -> None:
    screen = answered(SCREEN)
    asked = spots(screen, windows.whole(screen, 336), 12, Dice(3))
    kinds = {spot.instruction: spot.kind for spot in asked}
    assert kinds["Tap Wi-Fi"] == "text"
    assert kinds["Tap the third thing"] == kinds["What is it?"] == "other"
    assert all(spot.points for spot in findable(screen, windows.whole(screen, 336), 12, Dice(3)))


def test_the_rate_rises_stays_and_falls() -> None:
    lesson = Lesson(1000, 1, 1e-3, falling=0.5)
    rates = [rate_at(lesson, step) for step in range(1000)]
    assert rates[0] < 1e-4
    assert rates[100] == rates[400] == 1e-3
    assert rates[-1] < 1e-4
    assert all(0 < rate_at(each.saying, 0) <= each.saying.rate for each in PRESETS.values())
