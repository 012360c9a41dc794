"""The picker's messages to Envoy: header changes and immediate answers."""

import json
from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.type.v3 import http_status_pb2

from autoglm_serving.gateway.envoy_replies import PICKER_DETAILS
from autoglm_serving.wire import ApiError, error_body


def change_headers(set_: Mapping[str, str], remove: Iterable[str] = ()) -> ext_proc.HeaderMutation:
    """Set these headers, whatever was there, and remove those."""
    return ext_proc.HeaderMutation(
        set_headers=[
            base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, raw_value=value.encode()),
                append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in set_.items()
        ],
        remove_headers=list(remove),
    )


def request_headers(remove: Iterable[str]) -> ext_proc.ProcessingResponse:
    """Let the request's headers pass, without some."""
    common = ext_proc.CommonResponse(header_mutation=change_headers({}, remove))
    return ext_proc.ProcessingResponse(request_headers=ext_proc.HeadersResponse(response=common))


def request_body(set_: Mapping[str, str]) -> ext_proc.ProcessingResponse:
    """Let the request's body pass, with these headers."""
    common = ext_proc.CommonResponse(header_mutation=change_headers(set_))
    return ext_proc.ProcessingResponse(request_body=ext_proc.BodyResponse(response=common))


def response_headers(set_: Mapping[str, str], remove: Iterable[str] = ()) -> ext_proc.ProcessingResponse:
    """Let the answer's headers pass, with these and without some."""
    common = ext_proc.CommonResponse(header_mutation=change_headers(set_, remove))
    return ext_proc.ProcessingResponse(response_headers=ext_proc.HeadersResponse(response=common))


def response_trailers() -> ext_proc.ProcessingResponse:
    """Let the answer's trailers pass."""
    return ext_proc.ProcessingResponse(response_trailers=ext_proc.TrailersResponse())


def json_answer(status: int, value: object, set_: Mapping[str, str] | None = None) -> ext_proc.ProcessingResponse:
    """Answer the client now."""
    return _immediate(status, json.dumps(value, ensure_ascii=False).encode(), set_ or {})


def error_answer(error: ApiError, set_: Mapping[str, str] | None = None) -> ext_proc.ProcessingResponse:
    """Answer the client now with an error in OpenAI's shape."""
    return _immediate(error.status, error_body(error), {**(set_ or {}), **error.headers}, details=error.code)


def _immediate(
    status: int, body: bytes, set_: Mapping[str, str], details: str = "answer"
) -> ext_proc.ProcessingResponse:
    return ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=http_status_pb2.HttpStatus(code=status),
            headers=change_headers({"content-type": "application/json", **set_}),
            body=body,
            details=PICKER_DETAILS + details,
        )
    )


def header_values(headers: base_pb2.HeaderMap) -> dict[str, str]:
    """Headers as text; for repeated ones the last value."""
    return {
        header.key: (header.raw_value or header.value.encode()).decode("utf-8", "replace") for header in headers.headers
    }
