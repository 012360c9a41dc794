"""The OpenAI HTTP interface: routes, errors, streams. An ASGI application over any Backend."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoglm_serving.app.attempts import collect, open_stream
from autoglm_serving.app.body import BufferSpace, read_body
from autoglm_serving.app.calls import Backend, Call
from autoglm_serving.app.fetching import ImageFetcher
from autoglm_serving.app.logs import log_request, log_unexpected
from autoglm_serving.app.streams import EventStream, unless_gone, usage
from autoglm_serving.app.translate import read_max_pixels, read_tenant, to_call
from autoglm_serving.config import AppConfig
from autoglm_serving.headers import MAX_PIXELS, REQUEST_ID, REVISION, TENANT, VARIANT
from autoglm_serving.protocol import (
    Answer,
    ChatRequest,
    encode,
    model_list,
    parse_chat,
    shown,
)
from autoglm_serving.wire import ApiError, api_error, error_body

BUFFERED_BODIES = 16
"""So many bodies of the largest size fit into one ingress at once; many more of the usual size do."""
CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_JSON = "application/json"


def create_app(config: AppConfig, backend: Backend, fetcher: ImageFetcher | None = None) -> ASGIApp:
    """The ASGI application of one deployment."""
    endpoints = _Endpoints(config, backend, fetcher or ImageFetcher(config.limits))
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _guarded(endpoints.chat), methods=["POST"]),
            Route("/v1/models", _guarded(endpoints.models), methods=["GET"]),
            Route("/health", _guarded(endpoints.health), methods=["GET"]),
            Route("/v1/link", _guarded(endpoints.link), methods=["POST"]),
        ],
        middleware=[Middleware(_Headers, config=config)],
        exception_handlers={HTTPException: _http_error},
    )


class _Endpoints:
    """What the routes do."""

    def __init__(self, config: AppConfig, backend: Backend, fetcher: ImageFetcher) -> None:
        self._config = config
        self._fetcher = fetcher
        self._backend = backend
        self._created = int(time.time())
        self._space = BufferSpace(config.limits.max_body_bytes * BUFFERED_BODIES)

    async def models(self, _request: Request) -> Response:
        return Response(encode(model_list(self._config.model.name, self._created)), media_type=_JSON)

    async def health(self, _request: Request) -> Response:
        if not await self._backend.healthy():
            raise api_error("not_ready", "no replica of the model answers: try again later")
        return Response(encode({"revision": self._config.revision}), media_type=_JSON)

    async def link(self, request: Request) -> Response:
        """Takes a body and does nothing with it: gateways measure the way here by how long that takes."""
        with self._space.hold() as hold:
            await read_body(request, self._config.limits.max_body_bytes, hold)
        return Response(status_code=204)

    async def chat(self, request: Request) -> Response:
        with self._space.hold() as hold:
            body = await read_body(request, self._config.limits.max_body_bytes, hold)
            chat = parse_chat(body, self._config.limits)
            del body
            if chat.model != self._config.model.name:
                raise api_error(
                    "model_not_found",
                    f"the model {shown(chat.model)!r} is not served here: use {self._config.model.name!r}",
                    "model",
                )
            chat = await unless_gone(self._fetcher.inlined(chat, hold), request.receive)
            call = to_call(
                chat,
                request.scope["autoglm.request_id"],
                read_max_pixels(request.headers.get(MAX_PIXELS)),
                self._config.limits,
                read_tenant(request.headers.get(TENANT)),
            )
            answer = self._answer(chat, call)
            if chat.stream:
                first, rest = await unless_gone(open_stream(self._backend, call), request.receive)
                return EventStream(answer, first, rest)
            text, last = await unless_gone(collect(self._backend, call), request.receive)
            request.scope["autoglm.last"] = last
            assert last.finish_reason is not None
            return Response(encode(answer.completion(text, last.finish_reason, usage(last))), media_type=_JSON)

    def _answer(self, chat: ChatRequest, call: Call) -> Answer:
        return Answer(
            id=f"chatcmpl-{call.request_id}",
            created=int(time.time()),
            model=self._config.model.name,
            revision=self._config.revision,
            include_usage=chat.stream_options.include_usage,
        )


class _Headers:
    """Puts revision and variant on every answer, and writes one log line when it has ended.

    Serve adds the request id itself.
    """

    def __init__(self, app: ASGIApp, config: AppConfig) -> None:
        self._app = app
        told = {REVISION: config.revision, **({VARIANT: config.model.variant} if config.model.variant else {})}
        self._told = [(name.encode(), value.encode("latin-1", "replace")) for name, value in told.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["autoglm.request_id"] = request_id
        started = time.monotonic()
        status = CLIENT_GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._told]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = time.monotonic() - started
            log_request(request_id, status, scope.get("autoglm.code"), seconds, scope.get("autoglm.last"))


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode():
            text: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return text
    return uuid.uuid4().hex


def _guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The handler with its errors turned into answers. Nothing else is ever told to a client."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return _error(request, error)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        except Exception as error:  # noqa: BLE001 - a defect must not tell a client what it is made of
            log_unexpected(error)
            return _error(request, api_error("internal_error", "the server failed on this request: send it again"))

    return endpoint


def _error(request: Request, error: ApiError) -> Response:
    request.scope["autoglm.code"] = error.code
    return Response(error_body(error), status_code=error.status, headers=error.headers, media_type=_JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        answer = _error(request, api_error("method_not_allowed", "this path does not take this method"))
        answer.headers.update(error.headers or {})
        return answer
    return _error(request, api_error("not_found", "there is nothing here: see /v1/chat/completions and /v1/models"))
