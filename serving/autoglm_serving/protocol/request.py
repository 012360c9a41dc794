"""What is read from a request for a chat completion.

Requests are read tolerantly, because clients differ: unknown keys are dropped, null means absent, a number may be a
string. What is understood is bounded, and a value that cannot work is refused with the parameter's name and the remedy.
Images come inside the request as data URLs, or by URL where a deployment lists hosts; nothing is fetched here.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from autoglm_serving.config import Limits
from autoglm_serving.image_urls import is_remote
from autoglm_serving.wire import ApiError, api_error

MAX_MESSAGES = 512
MAX_PARTS = 64
MAX_TEXT = 1_000_000
"""Characters of all messages together: far above any context, far below what hurts."""
MAX_STOPS = 4
MAX_STOP_LENGTH = 256
MAX_JSON_VALUES = 250_000
"""Small values cost up to 60 times their bytes in memory, so they are counted before they are parsed."""
MAX_SHOWN = 100
"""Characters of a client's own value that an error message repeats."""

Role = Literal["system", "user", "assistant"]

_DATA_ONLY = "images are accepted only inside the request, as data URLs: data:image/png;base64,..."


class _Tolerant(BaseModel):
    """Unknown keys are dropped, and null means absent."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _clean(value: Any) -> Any:
    """Text without unpaired surrogates, which JSON can spell and UTF-8 cannot."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _data_url(value: Any) -> Any:
    if isinstance(value, str) and not (value[:5].lower() == "data:" or is_remote(value)):
        raise PydanticCustomError("not_a_data_url", _DATA_ONLY)
    return value


def _image_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _content(value: Any) -> Any:
    """OpenAI allows a plain string, and nothing at all in an assistant's turn."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _role(value: Any) -> Any:
    return "system" if value == "developer" else value


def _stop(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_clean)]


class TextContent(_Tolerant):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Tolerant):
    """Where an image is: inside the request, or at a web server."""

    url: Annotated[str, BeforeValidator(_data_url)]


class ImageContent(_Tolerant):
    """An image as a data URL, or a URL of one."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_image_url)]


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class ChatMessage(_Tolerant):
    """One turn, its parts in the client's order."""

    role: Annotated[Role, BeforeValidator(_role)]
    content: Annotated[tuple[Content, ...], BeforeValidator(_content), Field(max_length=MAX_PARTS)] = ()


class StreamOptions(_Tolerant):
    """What a stream carries beside the text."""

    include_usage: bool = False


class ChatRequest(_Tolerant):
    """A chat completion request, checked."""

    model: str = Field(min_length=1, max_length=512)
    messages: tuple[ChatMessage, ...] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, allow_inf_nan=False)
    stop: Annotated[
        tuple[Annotated[Text, Field(min_length=1, max_length=MAX_STOP_LENGTH)], ...],
        BeforeValidator(_stop),
        Field(max_length=MAX_STOPS),
    ] = ()
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def new_tokens(self, limit: int) -> int:
        """Tokens to generate at most: the client's wish, which is not above the limit, or the limit."""
        return self.max_completion_tokens or self.max_tokens or limit


def parse_chat(body: bytes, limits: Limits) -> ChatRequest:
    """Read a request body; every failure is an ApiError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise api_error("invalid_request", "the body must be a JSON object")
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0]) from None
    _check_turns(request, limits)
    _check_new_tokens(request, limits)
    return request


def parse_json(body: bytes) -> Any:
    """The JSON value of a body of bounded size; every failure is an ApiError."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_VALUES:
        raise api_error("invalid_request", f"the JSON has more than {MAX_JSON_VALUES} values: send less in one request")
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise api_error("invalid_request", "the body is not UTF-8: send JSON encoded in UTF-8") from None
    except RecursionError:
        raise api_error("invalid_request", "the JSON is nested too deeply") from None
    except ValueError:
        raise api_error("invalid_request", "the body is not valid JSON") from None


def _no_constant(_name: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _check_new_tokens(request: ChatRequest, limits: Limits) -> None:
    """Refuse what OpenAI refuses: an answer cut at another place than the client asked for would be a silent change."""
    for param in ("max_completion_tokens", "max_tokens"):
        wish = getattr(request, param)
        if wish is not None and wish > limits.max_new_tokens:
            raise api_error(
                "invalid_request",
                f"{param} is too large: {wish}; at most {limits.max_new_tokens} tokens are made here for one answer",
                param,
            )


def _check_turns(request: ChatRequest, limits: Limits) -> None:
    images = 0
    characters = 0
    for index, message in enumerate(request.messages):
        for place, part in enumerate(message.content):
            if isinstance(part, TextContent):
                characters += len(part.text)
            elif message.role != "user":
                param = f"messages[{index}].content[{place}]"
                raise api_error("invalid_request", "images belong in messages with the role user", param)
            else:
                images += 1
                if is_remote(part.image_url.url) and not limits.image_hosts:
                    param = f"messages[{index}].content[{place}].image_url.url"
                    raise api_error("invalid_request", _DATA_ONLY, param)
    if images > limits.max_images:
        raise api_error(
            "invalid_request", f"{images} images: at most {limits.max_images} are allowed in one request", "messages"
        )
    if characters > MAX_TEXT:
        raise api_error(
            "context_length_exceeded",
            f"the messages have {characters} characters: at most {MAX_TEXT} are allowed, shorten the history",
            "messages",
        )


_PLAIN = {
    "tuple_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "string_type": "must be a string",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
}
_TOO_LONG = {"messages": "messages", "content": "parts", "stop": "stop strings"}


def _refusal(error: ErrorDetails) -> ApiError:
    """What pydantic found, as one sentence with the parameter's name."""
    param = _param(error["loc"])
    context = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            message = f"{param} is missing"
        case "literal_error" if param == "n":
            message = "only n=1 is supported: send one request for each answer"
        case "literal_error" if param.endswith("role"):
            message = "the role must be system, developer, user or assistant"
        case "union_tag_invalid" | "union_tag_not_found":
            message = "a content part must have the type text or image_url"
        case "too_long":
            name = _TOO_LONG.get(param.rpartition(".")[2], "entries")
            message = f"{param}: at most {context.get('max_length')} {name} are allowed"
        case "not_a_data_url":
            message = _DATA_ONLY
        case kind:
            message = f"{param} {_PLAIN[kind]}" if kind in _PLAIN else f"{param}: {error['msg'].lower()}"
    return api_error("invalid_request", message[:400], param)


def _param(location: Sequence[int | str]) -> str:
    """`messages[2].content[0].image_url.url`; the names of union branches are left out."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif path.endswith("]") and step in ("text", "image_url") and path.rpartition("[")[0].endswith("content"):
            path += "\0"  # the branch of the union of parts; its own fields follow
        else:
            path += f".{step}" if path else step
    return path.replace("\0", "")


def shown(value: str) -> str:
    """A client's value, short enough to repeat in a message."""
    return value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "..."
