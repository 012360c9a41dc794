"""Requests are read tolerantly, and every refusal names the parameter and the remedy."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoglm_serving.config import Limits
from autoglm_serving.protocol import ChatRequest, ImageContent, TextContent, parse_chat
from autoglm_serving.wire import ApiError, error_body
from support.mutations import mutated

LIMITS = Limits()
PNG = "data:image/png;base64,iVBORw0KGgo="


def request(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **changes}


def parse(value: Any) -> ChatRequest:
    return parse_chat(json.dumps(value).encode(), LIMITS)


def refusal(value: Any) -> ApiError:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ApiError) as caught:
        parse_chat(body, LIMITS)
    return caught.value


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_request_of_the_vendors_client_is_understood() -> None:
    chat = parse(
        {
            "model": "autoglm-phone-9b",
            "messages": [
                {"role": "system", "content": "今天的日期是: 2026年11月26日"},
                {"role": "user", "content": [image(PNG), {"type": "text", "text": "打开微信\n\n{}"}]},
                {"role": "assistant", "content": "<think>x</think><answer>do()</answer>"},
                {"role": "user", "content": [{"type": "text", "text": "** Screen Info **"}]},
            ],
            "stream": True,
            "max_tokens": 3000,
            "temperature": 0.0,
            "top_p": 0.85,
            "frequency_penalty": 0.2,
        }
    )
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user"]
    assert isinstance(chat.messages[1].content[0], ImageContent)
    assert chat.messages[0].content == (TextContent(type="text", text="今天的日期是: 2026年11月26日"),)
    assert (chat.stream, chat.max_tokens, chat.top_p, chat.frequency_penalty) == (True, 3000, 0.85, 0.2)


def test_absent_and_null_values_take_the_defaults() -> None:
    nulls = dict.fromkeys(
        ["max_tokens", "temperature", "top_p", "stop", "seed", "n", "stream", "stream_options", "tools"]
    )
    for chat in (parse(request()), parse(request(**nulls))):
        assert (chat.temperature, chat.top_p, chat.frequency_penalty, chat.stop, chat.n) == (0.0, 1.0, 0.0, (), 1)
        assert (chat.stream, chat.seed, chat.stream_options.include_usage) == (False, None, False)
        assert chat.new_tokens(LIMITS.max_new_tokens) == LIMITS.max_new_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "u", "metadata": {"a": [1, {"b": None}]}, "logit_bias": {}, "chat_template_kwargs": {"x": 1}},
        {"messages": [{"role": "user", "content": "hi", "name": "n", "tool_calls": []}]},
        {"messages": user([{"type": "text", "text": "hi", "cache_control": {}}])},
        {"messages": user([{"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}])},
        {"messages": user([{"type": "image_url", "image_url": PNG}])},
        {"messages": [{"role": "developer", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant"}]},
        {"stop": "x"},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": []},
        {"max_tokens": "12"},
        {"max_tokens": 12.0},
        {"stream_options": {"include_usage": True, "other": 1}},
        {"n": 1},
        {"presence_penalty": 3},
    ],
)
def test_what_clients_send_beside_is_accepted(changes: dict[str, Any]) -> None:
    assert parse(request(**changes)).model == "m"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": LIMITS.max_new_tokens}, LIMITS.max_new_tokens),
        ({}, LIMITS.max_new_tokens),
    ],
)
def test_the_number_of_new_tokens_is_bounded_by_the_deployment(changes: dict[str, Any], wanted: int) -> None:
    assert parse(request(**changes)).new_tokens(LIMITS.max_new_tokens) == wanted


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"model": None}, "model", "missing"),
        ({"model": ""}, "model", "must not be empty"),
        ({"model": 3}, "model", "must be a string"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": []}, "messages", "must not be empty"),
        ({"messages": "hi"}, "messages", "must be a list"),
        ({"messages": ["hi"]}, "messages[0]", "must be an object"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "system, developer, user or assistant"),
        ({"messages": user("x") * 513}, "messages", "at most 512"),
        ({"messages": user([{"type": "text", "text": "x"}] * 65)}, "messages[0].content", "at most 64"),
        ({"messages": user({"a": 1})}, "messages[0].content", "must be a list"),
        ({"messages": user([3])}, "messages[0].content[0]", "must be an object"),
        ({"messages": user([{"type": "input_audio"}])}, "messages[0].content[0]", "text or image_url"),
        ({"messages": user([{"text": "x"}])}, "messages[0].content[0]", "text or image_url"),
        ({"messages": user([{"type": "text"}])}, "messages[0].content[0].text", "missing"),
        ({"messages": user([{"type": "image_url"}])}, "messages[0].content[0].image_url", "missing"),
        ({"messages": user([image(None)])}, "messages[0].content[0].image_url.url", "missing"),
        ({"messages": user([image(PNG)] * 11)}, "messages", "at most 10"),
        ({"messages": [{"role": "system", "content": [image(PNG)]}]}, "messages[0].content[0]", "role user"),
        ({"max_tokens": 10**9}, "max_tokens", str(LIMITS.max_new_tokens)),
        ({"max_tokens": 5, "max_completion_tokens": 10**9}, "max_completion_tokens", "too large"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": -5}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "whole number"),
        ({"max_tokens": "many"}, "max_tokens", "whole number"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"frequency_penalty": 3}, "frequency_penalty", "less than or equal to 2"),
        ({"stop": ["x"] * 5}, "stop", "at most 4"),
        ({"stop": ""}, "stop[0]", "must not be empty"),
        ({"stop": [1]}, "stop[0]", "must be a string"),
        ({"stop": "x" * 257}, "stop[0]", "at most 256"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"n": 2}, "n", "only n=1"),
        ({"n": 10**9}, "n", "only n=1"),
        ({"stream": "maybe"}, "stream", "true or false"),
        ({"stream_options": 3}, "stream_options", "must be an object"),
    ],
)
def test_what_cannot_work_is_refused_with_parameter_and_remedy(changes: dict[str, Any], param: str, words: str) -> None:
    error = refusal(request(**changes))
    assert (error.status, error.code, error.param) == (400, "invalid_request", param)
    assert words in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "//host/a.png",
        "ftp://host/a",
        "unix:/run/x.sock",
        "/etc/passwd",
        "",
        " data:image/png;base64,iVBORw0KGgo=",
    ],
)
def test_no_image_is_ever_fetched(url: str) -> None:
    error = refusal(request(messages=user([image(url)])))
    assert (error.status, error.code, error.param) == (400, "invalid_request", "messages[0].content[0].image_url.url")
    assert "data URLs" in error.message
    assert "passwd" not in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"temperature": Infinity}', "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b"[" + b"{}," * 200_000 + b"{}]", "more than 250000 values"),
    ],
    ids=str,
)
def test_a_body_that_is_no_request_is_refused(body: bytes, words: str) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, "invalid_request")
    assert words in error.message


def test_a_text_that_no_context_can_hold_is_refused_early() -> None:
    error = refusal(request(messages=user("x" * 1_000_001)))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "shorten" in error.message


def test_a_byte_order_mark_is_forgiven() -> None:
    assert parse_chat(b"\xef\xbb\xbf" + json.dumps(request()).encode(), LIMITS).model == "m"


def test_unpaired_surrogates_become_replacement_characters() -> None:
    chat = parse_chat(
        rb'{"model":"m","messages":[{"role":"user","content":"\ud800\u4f60\ud83d\ude00"}],"stop":"\udc00"}', LIMITS
    )
    assert chat.messages[0].content == (TextContent(type="text", text="\ufffd你😀"),)
    assert chat.stop == ("\ufffd",)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SEEDS: list[Any] = [
    request(stream=True, stream_options={"include_usage": True}, stop=["a"], seed=1, max_tokens=3, n=1),
    request(messages=[{"role": "system", "content": "s"}, *user([image(PNG), {"type": "text", "text": "打开"}])]),
    request(messages=[*user("a"), {"role": "assistant", "content": None}, *user([{"type": "text", "text": "b"}])]),
]


def check(body: bytes) -> bool:
    """Whether the body is accepted; else an ApiError refuses it that can be written down. Anything else is raised."""
    chat: ChatRequest | None = None
    refused: ApiError | None = None
    try:
        chat = parse_chat(body, LIMITS)
    except ApiError as error:
        refused = error
    if chat is not None:
        assert 1 <= chat.new_tokens(LIMITS.max_new_tokens) <= LIMITS.max_new_tokens
        texts = [part.text for turn in chat.messages for part in turn.content if isinstance(part, TextContent)]
        assert "".join(texts).encode().decode() == "".join(texts)
        return True
    assert refused is not None
    assert refused.status == 400
    message = json.loads(error_body(refused))["error"]["message"]
    assert 0 < len(message) <= 500
    assert not any(word in message for word in ("Traceback", "pydantic", "autoglm_serving", "site-packages", ".py"))
    return False


fuzz = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@fuzz
@given(json_values)
def test_any_json_is_accepted_or_refused(value: Any) -> None:
    check(json.dumps(value).encode())


@fuzz
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    check(body)


def test_thousands_of_changed_requests_are_accepted_or_refused() -> None:
    accepted = sum(check(body) for body in mutated(SEEDS, 4000))
    assert 200 < accepted < 3800
