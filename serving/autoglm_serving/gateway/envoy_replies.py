"""Answers that Envoy makes itself, in the shape that OpenAI's clients read."""

from typing import Any

from autoglm_serving.wire import ApiError, ErrorCode, api_error, error_object

Json = dict[str, Any]

PICKER_DETAILS = "picker_"
"""Begins the details of every answer that the picker makes, so that Envoy leaves it as it is."""

_BY_FLAGS: tuple[tuple[tuple[str, ...], ApiError], ...] = (
    (("OM", "UO"), api_error("overloaded", "the gateway is full: try again")),
    (("UC", "UR", "LR", "UPE"), api_error("upstream_failed", "the model server failed before it answered")),
    (("UF",), api_error("upstream_failed", "the model server could not be reached")),
)
"""Envoy's response flags say more than its status: a broken connection is 503 to Envoy, and 502 to a client."""

_BY_STATUS: tuple[tuple[int, ErrorCode, str], ...] = (
    (400, "invalid_request", "the request is not valid HTTP"),
    (403, "invalid_request", "the request is not allowed"),
    (404, "not_found", "there is nothing at this path"),
    (408, "timeout", "the request was not received in time"),
    (413, "body_too_large", "the request body is larger than {buffer_bytes} bytes"),
    (426, "invalid_request", "the protocol version is not supported"),
    (431, "invalid_request", "the request headers are too large or too many"),
    (500, "internal_error", "the gateway failed"),
    (502, "upstream_failed", "the model server failed before it answered"),
    (503, "not_ready", "no model server could be reached"),
    (504, "timeout", "the model server did not answer in time"),
)


def local_replies(buffer_bytes: int) -> Json:
    """Answers that Envoy makes itself, in OpenAI's shape. The first mapper that matches wins."""
    by_flags = [
        {**_reply(error), "filter": {"response_flag_filter": {"flags": list(flags)}}, "status_code": error.status}
        for flags, error in _BY_FLAGS
    ]
    by_status = [
        {
            **_reply(ApiError(status, code, message.format(buffer_bytes=buffer_bytes))),
            "filter": {"status_code_filter": {"comparison": _equals(status)}},
        }
        for status, code, message in _BY_STATUS
    ]
    return {"mappers": [_picker_answers(), *by_flags, *by_status]}


def _picker_answers() -> Json:
    """What the picker answers passes as it is."""
    return {
        "filter": {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": f"response.code_details.startsWith('{PICKER_DETAILS}')",
                },
            }
        },
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": "application/json",
        },
    }


def _equals(status: int) -> Json:
    return {"op": "EQ", "value": {"default_value": status, "runtime_key": f"reply_{status}"}}


def _reply(error: ApiError) -> Json:
    return {
        "body_format_override": {"json_format": error_object(error), "content_type": "application/json"},
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in error.headers.items()
        ],
    }
