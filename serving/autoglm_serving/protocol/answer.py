"""How answers are written: whole, as a stream of chunks, and the list of models."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from autoglm_serving.wire import ApiError, error_object

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request. `image_tokens` and `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "image_tokens": self.image_tokens},
        }


@dataclass(frozen=True)
class Answer:
    """What all chunks of one answer have in common. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    revision: str
    include_usage: bool = False

    def completion(self, text: str, finish_reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The whole answer at once."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage.as_json()}

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream: it names the role."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def text(self, text: str) -> dict[str, Any]:
        """A chunk of text. Clients read `delta.content` and nothing else."""
        return self._chunk({"content": text}, None)

    def last(self, finish_reason: FinishReason) -> dict[str, Any]:
        """The chunk that ends the text."""
        return self._chunk({}, finish_reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk after the last one, for clients that asked with `stream_options.include_usage`."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage.as_json()}

    def _chunk(self, delta: dict[str, str], finish_reason: FinishReason | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if self.include_usage else chunk

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.revision,
        }


DONE = b"data: [DONE]\n\n"


def encode(value: Any) -> bytes:
    """JSON in UTF-8, compact."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The event that ends a broken stream: clients raise on it, and no [DONE] follows."""
    return event(error_object(error))


def model_list(name: str, created: int) -> dict[str, Any]:
    """The answer of GET /v1/models."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "autoglm"}],
    }
