"""Whether a reply is right for a task: the rule behind every accuracy that this project reports."""

from dataclasses import dataclass

from autoglm_serving.screens.actions import Action, Finish, Swipe, Tap, Type, Unreadable, read_reply
from autoglm_serving.screens.records import RELATIVE, Screen, Task, point_in_pixels

SHORTEST_SWIPE = 100
"""A swipe shorter than a tenth of the screen is a slipped tap."""


@dataclass(frozen=True)
class Score:
    """The verdict and why."""

    right: bool
    reason: str


def score(screen: Screen, task: Task, reply: str) -> Score:
    """Judge one reply.

    A tap is right when its point lies in the target's box (exact element). A typed text and the message of a question must
    be the expected ones up to case and spaces at the ends. A swipe must have the expected direction.
    """
    given = read_reply(reply)
    if isinstance(given, Unreadable):
        return Score(False, given.reason)
    expected = read_reply(task.answer)
    if type(given) is not type(expected):
        return Score(False, f"{type(given).__name__} where {type(expected).__name__} is right")
    match given:
        case Tap(point):
            return _tap(screen, task, point)
        case Type(text) | Finish(text):
            same = _plain(text) == _plain(_text(expected))
            return Score(same, "the expected text" if same else f"the text is {text!r}, not {_text(expected)!r}")
        case Swipe():
            assert isinstance(expected, Swipe)
            return _swipe(given, expected)


def _tap(screen: Screen, task: Task, point: tuple[int, int]) -> Score:
    assert task.target is not None, "a tap has a target"
    if not all(0 <= each < RELATIVE for each in point):
        return Score(False, f"{point} is outside of the screen")
    x, y = point_in_pixels(point, screen.width, screen.height)
    left, top, right, bottom = screen.element(task.target).box
    inside = left <= x < right and top <= y < bottom
    return Score(inside, f"{point} is {'in' if inside else 'not in'} {task.target}")


def _swipe(given: Swipe, expected: Swipe) -> Score:
    if not all(0 <= each < RELATIVE for each in (*given.start, *given.end)):
        return Score(False, "the swipe leaves the screen")
    moved = direction(given)
    if moved is None:
        return Score(False, "the swipe is too short")
    same = moved == direction(expected)
    return Score(same, f"the finger moves {moved}, {'as' if same else 'not'} {direction(expected)}")


def direction(swipe: Swipe) -> str | None:
    """Where the finger moves: up, down, left or right; None when it hardly moves."""
    across, along = swipe.end[0] - swipe.start[0], swipe.end[1] - swipe.start[1]
    if max(abs(across), abs(along)) < SHORTEST_SWIPE:
        return None
    if abs(along) >= abs(across):
        return "up" if along < 0 else "down"
    return "left" if across < 0 else "right"


def _text(action: Action) -> str:
    match action:
        case Type(text) | Finish(text):
            return text
        case _:
            return ""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .。")
