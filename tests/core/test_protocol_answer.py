"""Answers and errors are what OpenAI clients parse."""

import json
from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from autoglm_serving.protocol import DONE, Answer, Usage, error_event, event, model_list
from autoglm_serving.wire import RETRY_AFTER_SECONDS, STATUS, ApiError, api_error, error_body

ANSWER = Answer(id="chatcmpl-1", created=1_795_000_000, model="m", revision="rev-1")
USAGE = Usage(prompt_tokens=100, completion_tokens=20, image_tokens=80)


def test_a_whole_answer_is_a_chat_completion() -> None:
    read = ChatCompletion.model_validate(ANSWER.completion('do(action="点击")', "stop", USAGE), strict=True)
    assert read.choices[0].message.content == 'do(action="点击")'
    assert read.choices[0].message.role == "assistant"
    assert read.choices[0].finish_reason == "stop"
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (100, 20, 120)


def test_a_stream_names_the_role_first_and_the_reason_last() -> None:
    chunks = [ANSWER.first(), ANSWER.text("do("), ANSWER.text(")"), ANSWER.last("length")]
    read = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks]
    assert [chunk.choices[0].delta.role for chunk in read] == ["assistant", None, None, None]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in read) == "do()"
    assert [chunk.choices[0].finish_reason for chunk in read] == [None, None, None, "length"]
    assert len({chunk.id for chunk in read}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_in_a_chunk_without_choices_when_asked_for() -> None:
    asked = Answer("chatcmpl-1", 1, "m", "rev-1", include_usage=True)
    assert asked.text("x")["usage"] is None
    read = ChatCompletionChunk.model_validate(asked.usage(USAGE), strict=True)
    assert read.choices == []
    assert read.usage is not None
    assert read.usage.total_tokens == 120


def test_events_are_lines_of_utf8_json() -> None:
    line = event(ANSWER.text("微信\n\n"))
    assert line.startswith(b"data: {")
    assert line.endswith(b"}\n\n")
    assert line.count(b"\n") == 2
    assert json.loads(line[6:])["choices"][0]["delta"]["content"] == "微信\n\n"
    assert DONE == b"data: [DONE]\n\n"


def test_the_model_list_is_read_by_clients() -> None:
    listed: Any = model_list("autoglm-phone-9b", 1)
    assert listed["object"] == "list"
    assert Model.model_validate(listed["data"][0], strict=True).id == "autoglm-phone-9b"


@pytest.mark.parametrize("code", list(STATUS))
def test_every_error_has_openais_shape(code: Any) -> None:
    error = api_error(code, "what 做什么 to do", "messages")
    body = json.loads(error_body(error))
    assert body == {
        "error": {
            "message": "what 做什么 to do",
            "type": {404: "not_found_error"}.get(error.status)
            or ("server_error" if error.status >= 500 else "invalid_request_error"),
            "param": "messages",
            "code": code,
        }
    }
    assert json.loads(error_event(error)[6:]) == body


def test_only_errors_that_pass_say_when_to_come_back() -> None:
    assert {code for code in STATUS if api_error(code, "x").headers} == set(RETRY_AFTER_SECONDS)
    assert api_error("overloaded", "x").headers == {"retry-after": "1"}


def test_an_error_never_fails_to_be_written() -> None:
    assert json.loads(error_body(ApiError(400, "invalid_request", "bad \ud800", None)))["error"]["message"] == "bad ?"
