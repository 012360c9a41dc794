"""What the picker reads from a request body: the model, the text's length, the images' sizes. Pure; nothing is decoded.

The application checks the whole request again. Here only what a decision needs is read, and what could hurt is refused.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autoglm_serving.config import Limits
from autoglm_serving.image_urls import check_url, is_remote
from autoglm_serving.images import ImageSize, check_size, read_size
from autoglm_serving.wire import api_error

MAX_JSON_MARKS = 200_000
"""Commas and brackets in one body: 16 MiB of `[],[],` would otherwise become gigabytes of objects."""

ASSUMED_SIZE = ImageSize(1080, 2400, "jpeg")
"""Of an image that the application will fetch: a phone's screen. Only costs are predicted from it."""


@dataclass(frozen=True)
class Body:
    """A request body, parsed but not yet judged by a route's limits."""

    model: str
    streams: bool
    value: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Facts:
    """What the body says about the cost of the request."""

    text_characters: int
    images: tuple[ImageSize, ...]
    session: str = ""
    """What the requests of one session have in common: the body's `user`, else the first text that a user sent."""


def parse(raw: bytes) -> Body:
    """Parse a body of bounded size. Raises ApiError `invalid_request`."""
    if not raw:
        raise api_error("invalid_request", "the request body is empty")
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_MARKS:
        raise api_error("invalid_request", "the request body has too many parts")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise api_error("invalid_request", "the request body is not valid JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise api_error("invalid_request", "the request body must be a JSON object")
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise api_error("invalid_request", "name the model to use", "model")
    return Body(model, value.get("stream") is True, value, len(raw))


def read(body: Body, limits: Limits) -> Facts:
    """Read texts and images under a route's limits. Raises ApiError."""
    messages = body.value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise api_error("invalid_request", "messages must be a list with at least one message", "messages")
    characters = 0
    images: list[ImageSize] = []
    for place, part in _parts(messages):
        if isinstance(part, str):
            characters += len(part)
        elif isinstance(part, dict) and part.get("type") == "image_url":
            if len(images) == limits.max_images:
                raise api_error("invalid_request", f"at most {limits.max_images} images are allowed", "messages")
            images.append(_image(part, place, limits))
        elif isinstance(part, dict):
            characters += len(text) if isinstance(text := part.get("text"), str) else 0
    return Facts(characters, tuple(images), _session(body.value, messages))


def _session(value: dict[str, Any], messages: list[Any]) -> str:
    user = value.get("user")
    if isinstance(user, str) and user:
        return user
    asked = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    parts = [part for _, part in _parts(asked[:1])]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return next((text for text in texts if isinstance(text, str)), "")


def _parts(messages: list[Any]) -> Iterator[tuple[str, object]]:
    for at, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            for index, part in enumerate(content):
                yield f"messages[{at}].content[{index}]", part
        else:
            yield f"messages[{at}].content", content


def _image(part: dict[str, Any], place: str, limits: Limits) -> ImageSize:
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str):
        raise api_error("invalid_request", "image_url needs a url", f"{place}.image_url")
    if limits.image_hosts and is_remote(url):
        check_url(url, limits.image_hosts, f"{place}.image_url")
        return ASSUMED_SIZE
    size = read_size(url, f"{place}.image_url")
    check_size(size, limits, f"{place}.image_url")
    return size
