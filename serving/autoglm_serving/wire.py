"""Errors as OpenAI clients read them, shared by the application and the gateway.

Every refusal is an `ApiError`: a status, a code from a closed list, the parameter at fault and a sentence that says the
remedy. Nothing else may reach a client, so no exception text, path or address can leak.
"""

import json
from typing import Literal

ErrorCode = Literal[
    "invalid_request",
    "invalid_image",
    "image_too_large",
    "body_too_large",
    "context_length_exceeded",
    "model_not_found",
    "not_found",
    "method_not_allowed",
    "timeout",
    "overloaded",
    "not_ready",
    "upstream_failed",
    "internal_error",
]

STATUS: dict[ErrorCode, int] = {
    "invalid_request": 400,
    "invalid_image": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "image_too_large": 413,
    "body_too_large": 413,
    "internal_error": 500,
    "upstream_failed": 502,
    "overloaded": 503,
    "not_ready": 503,
    "timeout": 504,
}
RETRY_AFTER_SECONDS: dict[ErrorCode, int] = {"overloaded": 1, "not_ready": 5}


class ApiError(Exception):
    """A refusal that a client may see. `message` must be fit for strangers."""

    def __init__(self, status: int, code: ErrorCode, message: str, param: str | None = None) -> None:
        super().__init__(status, code, message, param)
        self.status = status
        self.code: ErrorCode = code
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def retry_after(self) -> int | None:
        """Seconds after which a retry makes sense, or None when a retry cannot help."""
        return RETRY_AFTER_SECONDS.get(self.code)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to this error."""
        seconds = self.retry_after
        return {} if seconds is None else {"retry-after": str(seconds)}


def api_error(code: ErrorCode, message: str, param: str | None = None) -> ApiError:
    """The error `code` with its usual status."""
    return ApiError(STATUS[code], code, message, param)


def error_type(status: int) -> str:
    """OpenAI's `type` for a status: clients branch on the status, people read this."""
    if status == 404:
        return "not_found_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_object(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The JSON value of an error answer."""
    return {
        "error": {
            "message": error.message,
            "type": error_type(error.status),
            "param": error.param,
            "code": error.code,
        }
    }


def error_body(error: ApiError) -> bytes:
    """The body of an error answer, in UTF-8."""
    return json.dumps(error_object(error), ensure_ascii=False).encode("utf-8", errors="replace")
