"""What the picker reads from a body, and what it refuses there."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.config import Limits
from autoglm_serving.gateway.facts import MAX_JSON_MARKS, parse, read
from autoglm_serving.wire import ApiError
from support.gateway import image_url, question


def facts(body: dict[str, Any], limits: Limits = Limits()) -> Any:  # noqa: B008
    return read(parse(json.dumps(body).encode()), limits)


def refusal(raw: bytes, limits: Limits = Limits()) -> ApiError:  # noqa: B008
    with pytest.raises(ApiError) as caught:
        read(parse(raw), limits)
    return caught.value


def test_model_text_and_images_are_read() -> None:
    body = question("你好", [image_url(1080, 2400), image_url(28, 28)], stream=True)
    body["messages"].insert(0, {"role": "system", "content": "be brief"})
    parsed = parse(json.dumps(body).encode())
    assert (parsed.model, parsed.streams) == ("autoglm-phone-9b", True)
    found = read(parsed, Limits())
    assert found.text_characters == len("你好") + len("be brief")
    assert [(size.width, size.height) for size in found.images] == [(1080, 2400), (28, 28)]


def test_an_image_url_may_be_a_plain_string() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image_url()}]}]}
    assert len(facts(body).images) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": 3}',
        b'{"model": ""}',
        b'{"messages": []}',
        b'{"model": "m"}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": "hi"}',
        b'{"model": "m", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "m", "n": ' + b"9" * 10_000 + b"}",
        b"[" + b"[]," * MAX_JSON_MARKS + b"[]]",
    ],
)
def test_a_body_that_is_no_chat_request_is_refused(raw: bytes) -> None:
    error = refusal(raw)
    assert (error.status, error.code) == (400, "invalid_request")


def test_a_bad_image_is_named_by_its_place() -> None:
    error = refusal(json.dumps(question("x", [image_url(), "data:image/png;base64,AAAA"])).encode())
    assert (error.code, error.param) == ("invalid_image", "messages[0].content[1].image_url")


def test_too_many_images_are_refused() -> None:
    body = json.dumps(question("x", [image_url()] * 3)).encode()
    assert len(read(parse(body), Limits(max_images=3)).images) == 3
    assert "at most 2 images" in refusal(body, Limits(max_images=2)).message


def test_a_huge_image_names_the_limit() -> None:
    error = refusal(json.dumps(question("x", [image_url(9000, 9000)])).encode())
    assert (error.status, error.code) == (413, "image_too_large")
    assert "50000000" in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "content", "text", "image_url", "url"]), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_messages_end_in_facts_or_in_api_error(messages: Any) -> None:
    for value in (messages, [messages], [{"content": messages}], [{"content": [messages]}]):
        try:
            facts({"model": "m", "messages": value})
        except ApiError as error:
            if error.status not in (400, 413):
                raise
