"""OpenAI's chat completions: what is read from a request, and how answers are written."""

from autoglm_serving.protocol.answer import DONE, Answer, Usage, encode, error_event, event, model_list
from autoglm_serving.protocol.request import (
    ChatMessage,
    ChatRequest,
    ImageContent,
    TextContent,
    parse_chat,
    parse_json,
    shown,
)

__all__ = [
    "DONE",
    "Answer",
    "ChatMessage",
    "ChatRequest",
    "ImageContent",
    "TextContent",
    "Usage",
    "encode",
    "error_event",
    "event",
    "model_list",
    "parse_chat",
    "parse_json",
    "shown",
]
