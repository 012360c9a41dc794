"""A reply is right when a client that follows it does what the task asks, and in no other case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.screens import actions
from autoglm_serving.screens.records import Element, Screen, Task
from autoglm_serving.screens.scoring import direction, score

TAP = Task("t0", "tap", "Tap Save", 'do(action="Tap", element=[200,75])', "e0")
TYPE = Task("t1", "type", 'Type "Rome"', 'do(action="Type", text="Rome")')
WHICH = Task("t2", "toggle", "Which toggle is on?", 'finish(message="Bluetooth")')
SCROLL = Task("t3", "scroll", "Scroll to Zoo", 'do(action="Swipe", start=[500,800], end=[500,300])')
SCREEN = Screen(
    id="s",
    image="s.png",
    width=1000,
    height=2000,
    kind="phone",
    template="x",
    theme="light",
    language="en",
    elements=(Element("e0", "button", "Save", (100, 100, 300, 200)), Element("e1", "button", "Stop", (0, 0, 100, 100))),
    tasks=(TAP, TYPE, WHICH, SCROLL),
)


@pytest.mark.parametrize("task", SCREEN.tasks, ids=lambda task: task.type)
def test_a_tasks_own_answer_is_right(task: Task) -> None:
    assert score(SCREEN, task, task.answer).right


@pytest.mark.parametrize(
    ("task", "reply"),
    [
        (TAP, '<think>The button is at the top.</think>\n<answer>do(action="Tap", element=[100,50])</answer>'),
        (TAP, "do(action='Tap', element=[ 299 , 99 ])"),
        (TAP, 'I could do(action="Swipe", start=[1,1], end=[2,2]) but do(action="Tap", element=[200,75])'),
        (TYPE, 'do(action="Type", text=" rome ")'),
        (WHICH, 'finish(message="bluetooth.")'),
        (SCROLL, 'do(action="Swipe", start=[100,900], end=[120,500])'),
    ],
)
def test_another_wording_of_the_right_action_is_right(task: Task, reply: str) -> None:
    assert score(SCREEN, task, reply).right, score(SCREEN, task, reply).reason


@pytest.mark.parametrize(
    ("task", "reply", "reason"),
    [
        (TAP, "", "no do"),
        (TAP, "tap [200,75]", "no do"),
        (TAP, 'do(action="Tap")', "without element"),
        (TAP, 'do(action="Tap", element=[200])', "without element"),
        (TAP, 'do(action="Fly", element=[200,75])', "Fly is not known"),
        (TAP, 'do(action="Tap", element=[300,75])', "not in e0"),
        (TAP, 'do(action="Tap", element=[200,100])', "not in e0"),
        (TAP, 'do(action="Tap", element=[50,25])', "not in e0"),
        (TAP, 'do(action="Tap", element=[-1,75])', "outside"),
        (TAP, 'do(action="Tap", element=[200,1000])', "outside"),
        (TAP, 'finish(message="Save")', "Finish where Tap"),
        (TYPE, 'do(action="Type", text="Roma")', "'Roma'"),
        (TYPE, 'do(action="Type")', "without a text"),
        (WHICH, 'finish(message="Wi-Fi and Bluetooth")', "not 'Bluetooth'"),
        (WHICH, "finish()", "without a message"),
        (SCROLL, 'do(action="Swipe", start=[500,300], end=[500,800])', "moves down"),
        (SCROLL, 'do(action="Swipe", start=[500,500], end=[500,450])', "too short"),
        (SCROLL, 'do(action="Swipe", start=[500,800], end=[500,-300])', "leaves"),
        (SCROLL, 'do(action="Swipe", start=[500,800])', "without start and end"),
    ],
)
def test_a_wrong_reply_is_wrong_and_says_why(task: Task, reply: str, reason: str) -> None:
    verdict = score(SCREEN, task, reply)
    assert not verdict.right
    assert reason in verdict.reason


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(reply: str) -> None:
    for task in SCREEN.tasks:
        assert score(SCREEN, task, reply).reason


@given(st.tuples(st.integers(0, 999), st.integers(0, 999)), st.tuples(st.integers(0, 999), st.integers(0, 999)))
def test_what_is_written_is_read_back(start: tuple[int, int], end: tuple[int, int]) -> None:
    assert actions.read_reply(actions.tap(start)) == actions.Tap(start)
    assert actions.read_reply(actions.swipe(start, end)) == actions.Swipe(start, end)
    assert actions.read_reply(actions.type_text(f"{start}")) == actions.Type(f"{start}")
    assert actions.read_reply(actions.finish(f'"{end}"')) == actions.Finish(f'"{end}"')


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((500, 800), (500, 200), "up"),
        ((500, 200), (480, 800), "down"),
        ((800, 500), (200, 510), "left"),
        ((200, 500), (800, 510), "right"),
        ((500, 500), (560, 560), None),
    ],
)
def test_a_swipe_has_the_direction_of_the_finger(
    start: tuple[int, int], end: tuple[int, int], expected: str | None
) -> None:
    assert direction(actions.Swipe(start, end)) == expected
