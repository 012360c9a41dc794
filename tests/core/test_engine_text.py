"""The text rules that every engine shares."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_serving.engines.text import TextStream

# One id per byte, and one that has no bytes, as a control token has.
CONTROL = 1000
PIECES = {**{byte: bytes([byte]) for byte in range(256)}, CONTROL: b""}

prove = settings(max_examples=300, deadline=None, derandomize=True)


def deltas(text: str, stop: tuple[str, ...] = ()) -> list[str]:
    """What a client would get, byte by byte."""
    stream = TextStream(PIECES, stop)
    out = []
    for byte in text.encode():
        step = stream.push([byte])
        out.append(step.text)
        if step.stopped:
            return out
    return [*out, stream.finish()]


def test_ascii_text_is_sent_at_once() -> None:
    stream = TextStream(PIECES)
    assert [stream.push([byte]).text for byte in b"do(x)"] == ["d", "o", "(", "x", ")"]


def test_a_character_is_never_sent_in_halves() -> None:
    stream = TextStream(PIECES)
    assert [stream.push([byte]).text for byte in "你".encode()] == ["", "", "你"]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    stream = TextStream(PIECES)
    assert stream.push(list(b"ok") + list("你".encode()[:2])).text == "ok"
    assert stream.finish() == ""


def test_impossible_bytes_become_replacement_characters_and_do_not_hold_back_what_follows() -> None:
    stream = TextStream(PIECES)
    assert stream.push([0xFF, 0xFE, ord("a")]).text == "\ufffd\ufffda"


def test_control_tokens_and_unknown_ids_are_never_seen() -> None:
    stream = TextStream(PIECES)
    assert stream.push([ord("a"), CONTROL, 99999, ord("b")]).text == "ab"


@pytest.mark.parametrize(
    "reply",
    [
        'do(action="Tap", element=[499,182])',
        'do(action="Type", text="hi")',
        'finish(message="任务完成")',
    ],
)
def test_a_closing_answer_tag_is_cut_even_when_it_comes_in_pieces(reply: str) -> None:
    assert "".join(deltas(reply + "</answer>")) == reply
    assert "".join(deltas(reply + "</answer>\n")) == reply


def test_a_closing_answer_tag_ends_the_answer() -> None:
    stream = TextStream(PIECES)
    assert stream.push(list(b"a</answer>b")).stopped
    assert stream.push(list(b"more")).text == ""


def test_text_that_only_begins_like_the_tag_is_sent_in_the_end() -> None:
    assert "".join(deltas("a</answ")) == "a</answ"
    assert "".join(deltas("1 < 2 </b> </answe r")) == "1 < 2 </b> </answe r"


def test_the_earliest_of_several_stop_strings_ends_the_answer_and_is_not_sent() -> None:
    assert "".join(deltas("one two three", stop=("three", "two"))) == "one "


def test_an_empty_stop_string_stops_nothing() -> None:
    assert "".join(deltas("abc", stop=("",))) == "abc"


def test_a_stop_string_is_never_shown_in_part() -> None:
    assert all("#" not in delta for delta in deltas("text ###", stop=("###",)))


@prove
@given(st.text(max_size=60), st.lists(st.sampled_from(["##", "停", "ab", "</answer>"]), max_size=3), st.randoms())
def test_the_deltas_do_not_depend_on_how_the_bytes_were_split(
    text: str, stops: list[str], chance: random.Random
) -> None:
    data = text.encode("utf-8", "ignore")
    stream, whole = TextStream(PIECES, stops), TextStream(PIECES, stops)
    parts = []
    start = 0
    while start < len(data):
        end = start + chance.randint(1, 5)
        parts.append(stream.push(list(data[start:end])).text)
        start = end
    parts.append(stream.finish())
    assert "".join(parts) == whole.push(list(data)).text + whole.finish()


@prove
@given(st.text(max_size=60))
def test_without_stop_strings_nothing_is_lost(text: str) -> None:
    kept = text.encode("utf-8", "ignore").decode()
    expected = kept.split("</answer>", maxsplit=1)[0]
    assert "".join(deltas(kept)) == expected
