"""Which answers ask for the same action, and how an answer is read from a chat completion."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.agreement import action_of, difference, text_of

TAP = 'do(action="Tap", element=[500,200])'


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (TAP, "none"),
        ('The button is at the top. do(action="Tap", element=[500, 200])', "none"),
        ("<think>do(action='Back')</think><answer>do(action='Tap', element=[500,200])</answer>", "none"),
        ('do(action="Tap", element=[512,216])', "none"),
        ('do(action="Tap", element=[513,216])', "place"),
        ('do(action="Tap")', "place"),
        ('do(action="Long Press", element=[500,200])', "action"),
        ('do(action="Double Tap", element=[500,200])', "action"),
        ('finish(message="tapped")', "action"),
        ("I cannot see the button.", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_a_tap_agrees_with_a_tap_nearby_and_with_nothing_else(other: str, found: str) -> None:
    assert difference(TAP, other, 20) == found
    assert difference(other, TAP, 20) == found


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ('do(action="Type", text="hi")', 'do(action="Type", text="hi")', "none"),
        ('do(action="Type", text="hi")', 'do(action="Type", text="ho")', "text"),
        ('do(action="Launch", app="微信")', 'do(action="Launch", app="微信")', "none"),
        ('do(action="Launch", app="微信")', 'do(action="Launch", app="支付宝")', "text"),
        ('finish(message="done")', 'finish(message="all done")', "none"),
        ('do(action="Back")', 'do(action="Home")', "action"),
        (
            'do(action="Swipe", start=[500,800], end=[500,200])',
            'do(action="Swipe", start=[505,790], end=[500,210])',
            "none",
        ),
        (
            'do(action="Swipe", start=[500,800], end=[500,200])',
            'do(action="Swipe", start=[500,200], end=[500,800])',
            "place",
        ),
        ("the same noise", " the same noise\n", "none"),
        ("noise", "other noise", "unreadable"),
    ],
)
def test_texts_that_are_carried_out_must_be_equal_and_free_words_need_not(one: str, other: str, found: str) -> None:
    assert difference(one, other, 20) == found


def test_the_last_call_counts() -> None:
    found = action_of('first do(action="Back") then do(action="Tap", element=[1,2])')
    assert found is not None
    assert (found.verb, found.places) == ("Tap", (("element", (1, 2)),))


def test_text_is_read_from_a_whole_answer_and_from_a_stream() -> None:
    whole = json.dumps({"choices": [{"message": {"content": TAP}}]}).encode()
    assert text_of(whole, streamed=False) == TAP
    chunks: list[Any] = [{"choices": [{"delta": {"role": "assistant"}}]}]
    chunks += [{"choices": [{"delta": {"content": part}}]} for part in (TAP[:9], TAP[9:])]
    chunks += [{"choices": [], "usage": {"total_tokens": 3}}]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    assert text_of((stream + "data: [DONE]\n\n").encode(), streamed=True) == TAP
    assert text_of(stream.encode(), streamed=True) is None, "an answer that broke off is no answer"


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_break_the_reading(body: bytes, streamed: bool) -> None:
    assert text_of(body, streamed=streamed) is None or streamed is True or isinstance(json.loads(body), dict)


@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 999))
def test_comparing_is_symmetric_and_every_answer_agrees_with_itself(one: str, other: str, tolerance: int) -> None:
    assert difference(one, one, tolerance) == "none"
    assert difference(one, other, tolerance) == difference(other, one, tolerance)
