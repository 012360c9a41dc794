"""The picker's messages to Envoy: header changes and immediate answers."""

import json
from collections.abc import Iterable, Mapping

from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway.envoy_replies import PICKER_DETAILS
from autoglm_serving.wire import ApiError, error_body


def change_headers(set_: Mapping[str, str], remove: Iterable[str] = ()) -> envoy.HeaderMutation:
    """Set these headers, whatever was there, and remove those."""
    return envoy.HeaderMutation(
        set_headers=[
            envoy.HeaderValueOption(
                header=envoy.HeaderValue(key=name, raw_value=value.encode()),
                append_action=envoy.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in set_.items()
        ],
        remove_headers=list(remove),
    )


def request_headers(remove: Iterable[str]) -> envoy.ProcessingResponse:
    """Let the request's headers pass, without some."""
    common = envoy.CommonResponse(header_mutation=change_headers({}, remove))
    return envoy.ProcessingResponse(request_headers=envoy.HeadersResponse(response=common))


def request_body(set_: Mapping[str, str]) -> envoy.ProcessingResponse:
    """Let the request's body pass, with these headers."""
    common = envoy.CommonResponse(header_mutation=change_headers(set_))
    return envoy.ProcessingResponse(request_body=envoy.BodyResponse(response=common))


def response_headers(set_: Mapping[str, str], remove: Iterable[str] = ()) -> envoy.ProcessingResponse:
    """Let the answer's headers pass, with these and without some."""
    common = envoy.CommonResponse(header_mutation=change_headers(set_, remove))
    return envoy.ProcessingResponse(response_headers=envoy.HeadersResponse(response=common))


def response_trailers() -> envoy.ProcessingResponse:
    """Let the answer's trailers pass."""
    return envoy.ProcessingResponse(response_trailers=envoy.TrailersResponse())


def json_answer(status: int, value: object, set_: Mapping[str, str] | None = None) -> envoy.ProcessingResponse:
    """Answer the client now."""
    return _immediate(status, json.dumps(value, ensure_ascii=False).encode(), set_ or {})


def error_answer(error: ApiError, set_: Mapping[str, str] | None = None) -> envoy.ProcessingResponse:
    """Answer the client now with an error in OpenAI's shape."""
    return _immediate(error.status, error_body(error), {**(set_ or {}), **error.headers}, details=error.code)


def _immediate(status: int, body: bytes, set_: Mapping[str, str], details: str = "answer") -> envoy.ProcessingResponse:
    return envoy.ProcessingResponse(
        immediate_response=envoy.ImmediateResponse(
            status=envoy.HttpStatus(code=status),
            headers=change_headers({"content-type": "application/json", **set_}),
            body=body,
            details=PICKER_DETAILS + details,
        )
    )


def header_values(headers: envoy.HeaderMap) -> dict[str, str]:
    """Headers as text; for repeated ones the last value."""
    return {
        header.key: (header.raw_value or header.value.encode()).decode("utf-8", "replace") for header in headers.headers
    }
