"""A manifest says the same when it is read back, and a broken line is named."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.screens.records import (
    Element,
    Screen,
    Task,
    TextLine,
    point_in_pixels,
    read_manifest,
    relative_point,
    write_line,
)

SCREEN = Screen(
    id="s",
    image="images/s.png",
    width=1080,
    height=2400,
    kind="phone",
    template="settings",
    theme="dark",
    language="zh",
    elements=(
        Element("e0", "toggle", "无线网络", (10, 20, 100, 60), "on"),
        Element("e1", "row", 'a "b"', (0, 0, 1, 1)),
    ),
    tasks=(
        Task("t0", "tap", "点击无线网络", 'do(action="Tap", element=[50,16])', "e0"),
        Task("t1", "finish", "?", "x"),
    ),
)


@pytest.mark.parametrize(
    "screen",
    [
        SCREEN,
        replace(SCREEN, session="a", step=0),
        replace(SCREEN, elements=(), tasks=()),
        replace(SCREEN, texts=(TextLine("网 b", (1.0, 20.5, 30.0, 41.0), 7.5),)),
    ],
)
def test_a_screen_is_the_same_after_writing_and_reading(screen: Screen) -> None:
    assert list(read_manifest([write_line(screen), "\n", write_line(screen)])) == [screen, screen]


def test_only_sessions_have_the_fields_of_sessions() -> None:
    assert {"session", "texts"}.isdisjoint(json.loads(write_line(SCREEN)))
    assert json.loads(write_line(replace(SCREEN, session="a", step=0)))["step"] == 0


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        write_line(SCREEN).replace("[10,20,100,60]", "[100,20,10,60]"),
        write_line(SCREEN).replace("[10,20,100,60]", "[10,20,100]"),
        write_line(SCREEN).replace('"role"', '"roll"'),
        write_line(SCREEN).replace('"kind"', '"sort"'),
        write_line(replace(SCREEN, texts=(TextLine("ab", (1.0, 2.0), 7.5),))),
    ],
)
def test_a_line_that_is_no_screen_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the manifest"):
        list(read_manifest([write_line(SCREEN), line]))


def test_an_element_is_found_by_its_id() -> None:
    assert SCREEN.element("e1").role == "row"
    with pytest.raises(KeyError):
        SCREEN.element("e2")


@given(
    width=st.integers(200, 3000),
    height=st.integers(200, 3000),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    across=st.integers(8, 400),
    down=st.integers(8, 400),
)
def test_the_middle_of_a_box_lies_in_the_box_after_rounding_to_thousandths(
    width: int, height: int, left: float, top: float, across: int, down: int
) -> None:
    x0, y0 = int(left * (width - 8)), int(top * (height - 8))
    box = (x0, y0, min(x0 + across, width), min(y0 + down, height))
    x, y = point_in_pixels(relative_point(box, width, height), width, height)
    assert box[0] <= x < box[2]
    assert box[1] <= y < box[3]
