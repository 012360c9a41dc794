"""One HTTP request's life in the picker: read it, dispatch it, watch the answer, release.

Envoy sends the request's headers, its whole body, the answer's headers, and keeps the stream open until the exchange ends,
however it ends. `close` is the one place where everything is released.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from autoglm_serving import headers
from autoglm_serving.config import Limits
from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway import facts, replies
from autoglm_serving.gateway.dispatch import CHAT, Answer, Context, Dispatch
from autoglm_serving.gateway.records import Outcome, Record
from autoglm_serving.routing import RequestCost
from autoglm_serving.routing_table import Route
from autoglm_serving.tracing import Attribute
from autoglm_serving.wire import ApiError, api_error

_log = logging.getLogger(__name__)

MODELS = "/v1/models"
HEALTH = "/health"
_METHODS = {CHAT: "POST", MODELS: "GET", HEALTH: "GET"}

# No server needs the client's credentials, and what Envoy adds about the client stays here.
_PRIVATE_REQUEST_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-forwarded-for", "accept-encoding")
_PRIVATE_ANSWER_HEADERS = ("server", "x-envoy-upstream-service-time", "x-envoy-attempt-count")
_OWN_ENVOY_HEADERS = frozenset({"x-forwarded-proto"})
"""Set by Envoy itself and needed by it."""


class Exchange:
    """The picker's side of one HTTP request."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = time.monotonic()
        self._started_ns = time.time_ns()
        self._record = Record(request_id="", arrived_at=datetime.now(UTC))
        self._dispatch: Dispatch | None = None
        self._outcome: Outcome = "abandoned"
        self._own_answer = False
        self._session = ""
        self._credential = ""
        context.metrics.under_way.inc()

    def answer(self, message: envoy.ProcessingRequest) -> envoy.ProcessingResponse:
        """What Envoy is to do next. An unexpected failure here answers this one request with 500."""
        phase = message.WhichOneof("request")
        try:
            match phase:
                case "request_headers":
                    return self._request_headers(message.request_headers)
                case "request_body":
                    return self._request_body(message.request_body.body)
                case "response_headers":
                    return self._response_headers(message)
                case "response_trailers":
                    return replies.response_trailers()
                case _:
                    raise AssertionError(f"Envoy sent {phase}, which was not asked for")
        except ApiError as error:
            return self._refuse(error)
        except Exception:  # noqa: BLE001 - the last line of defence of one request; the traceback has no content
            _log.exception("the picker failed in %s", phase)
            return self._refuse(api_error("internal_error", "the gateway failed"))

    def close(self) -> None:
        """The exchange ended: answered, refused, timed out or abandoned by the client."""
        if self._dispatch is not None:
            self._dispatch.close()
        record, metrics = self._record, self._context.metrics
        record.outcome = self._outcome
        record.ended_s = self._elapsed()
        metrics.under_way.dec()
        metrics.requests.labels(record.deployment, str(record.status or "abandoned")).inc()
        if self._context.tracing.enabled:
            self._trace()

    # -- phases

    def _request_headers(self, message: envoy.HttpHeaders) -> envoy.ProcessingResponse:
        values = replies.header_values(message.headers)
        self._record.request_id = values.get(headers.REQUEST_ID, "")
        path = values.get(":path", "").partition("?")[0]
        if path not in _METHODS:
            raise api_error("not_found", "there is nothing at this path: use /v1/chat/completions or /v1/models")
        if values.get(":method") != _METHODS[path]:
            raise api_error("method_not_allowed", f"use {_METHODS[path]} for {path}")
        if path == MODELS:
            return self._own(200, self._models())
        if path == HEALTH:
            return self._health()
        if message.end_of_stream:
            raise api_error("invalid_request", "the request body is empty")
        self._check_announced(values)
        self._session, self._credential = values.get(headers.SESSION, ""), values.get("authorization", "")
        self._context.records.add(self._record)
        reserved = (name for name in values if headers.is_reserved(name) and name not in _OWN_ENVOY_HEADERS)
        return replies.request_headers([*reserved, *_PRIVATE_REQUEST_HEADERS])

    def _request_body(self, raw: bytes) -> envoy.ProcessingResponse:
        received = time.monotonic()
        self._check_largest(len(raw))
        body = facts.parse(raw)
        route = self._route(body.model)
        self._record.model, self._record.deployment = route.model, route.deployment
        _check_bytes(body.size, route.limits.max_body_bytes)
        read = facts.read(body, route.limits)
        self._context.loads.asked(route.deployment, received)
        if route.asleep:
            raise api_error("not_ready", f"the model {route.model} is asleep and is being started: try again")
        if route.suspended:
            raise api_error("not_ready", f"the model {route.model} is suspended")
        cost = RequestCost(self._record.request_id, body.size, read.text_characters, read.images, body.streams)
        # Only its hash is used: it says which sessions are different, not whose they are.
        session = self._session or f"{self._credential}\n{read.session}"
        tenant = _tenant(self._credential)
        self._dispatch = Dispatch(self._context, route, cost, self._record, session=session, tenant=tenant)
        self._record.picked_s = self._elapsed()
        self._context.metrics.pick_seconds.observe(time.monotonic() - received)
        return replies.request_body({**self._dispatch.upstream_headers, **self._dispatch.mirror(raw)})

    def _response_headers(self, message: envoy.ProcessingRequest) -> envoy.ProcessingResponse:
        answer = _answer(message)
        if self._own_answer or self._dispatch is None:
            self._finish(answer.status, "refused")
            return replies.response_headers({}, _PRIVATE_ANSWER_HEADERS)
        self._dispatch.observe(answer)
        self._record.first_byte_s = self._elapsed()
        changes = self._answer_headers(answer)
        if answer.from_server and not answer.from_application:
            error = _translated(answer.status)
            self._record.error = error.code
            self._finish(error.status, "failed")
            return replies.error_answer(error, changes)
        self._finish(answer.status, _outcome(answer.status))
        return replies.response_headers(changes, _PRIVATE_ANSWER_HEADERS)

    # -- answers

    def _answer_headers(self, answer: Answer) -> dict[str, str]:
        record = self._record
        changes = {headers.SITE: record.site, headers.REASON: record.reason}
        if record.images:
            changes[headers.RESOLUTION] = str(record.short_side)
        if answer.from_application:
            changes[headers.REVISION] = record.revision
            if record.variant:
                changes[headers.VARIANT] = record.variant
        return changes

    def _own(self, status: int, value: object) -> envoy.ProcessingResponse:
        self._own_answer = True
        self._finish(status, "answered")
        return replies.json_answer(status, value)

    def _refuse(self, error: ApiError) -> envoy.ProcessingResponse:
        self._own_answer = True
        self._record.error = error.code
        self._finish(error.status, _outcome(error.status))
        return replies.error_answer(error)

    def _finish(self, status: int, outcome: Outcome) -> None:
        self._record.status, self._outcome = status, outcome

    def _models(self) -> dict[str, object]:
        table = self._context.fleet.table
        routes = sorted(table.routes if table else (), key=lambda route: route.model)
        written = int(table.written_at.timestamp()) if table else 0
        names = list(dict.fromkeys(route.model for route in routes))
        data = [{"id": name, "object": "model", "created": written, "owned_by": "autoglm"} for name in names]
        return {"object": "list", "data": data}

    def _health(self) -> envoy.ProcessingResponse:
        if any(member.health.answers for member in self._context.fleet.members):
            return self._own(200, {"status": "ok"})
        raise api_error("not_ready", "no model server answers yet")

    # -- checks

    def _route(self, model: str) -> Route:
        table = self._context.fleet.table
        if table is None:
            raise api_error("not_ready", "the gateway has no routing table yet")
        route = table.for_model(model)
        if route is None:
            known = ", ".join(sorted({route.model for route in table.routes})) or "none"
            message = f"the model {model[:100]!r} does not exist; known models: {known}"
            raise api_error("model_not_found", message, "model")
        return route

    def _check_announced(self, values: Mapping[str, str]) -> None:
        """Refuse by the headers alone what no route would take."""
        if values.get("content-encoding", "identity") != "identity":
            raise api_error("invalid_request", "send the request body without content-encoding")
        announced = values.get("content-length", "")
        if announced.isdecimal():
            self._check_largest(int(announced))

    def _check_largest(self, size: int) -> None:
        """Refuse what no route would take, before anything is parsed."""
        routes = self._context.fleet.table.routes if self._context.fleet.table else ()
        _check_bytes(size, max((route.limits.max_body_bytes for route in routes), default=Limits().max_body_bytes))

    # -- the end

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _trace(self) -> None:
        record = self._record
        attributes: dict[str, Attribute] = {
            "autoglm.request_id": record.request_id,
            "autoglm.model": record.model,
            "autoglm.deployment": record.deployment,
            "autoglm.site": record.site,
            "autoglm.revision": record.revision,
            "autoglm.variant": record.variant,
            "autoglm.reason": record.reason,
            "autoglm.short_side": record.short_side or 0,
            "autoglm.images": len(record.images),
            "autoglm.text_characters": record.text_characters,
            "autoglm.attempts": record.attempts,
            "autoglm.outcome": record.outcome,
            "http.response.status_code": record.status or 0,
        }
        error = record.error if record.outcome == "failed" else ""
        self._context.tracing.record("gateway.request", self._started_ns, time.time_ns(), attributes, error)


def _answer(message: envoy.ProcessingRequest) -> Answer:
    values = replies.header_values(message.response_headers.headers)
    attributes = next(iter(message.attributes.values())).fields if message.attributes else {}
    address = attributes["upstream.address"].string_value if "upstream.address" in attributes else ""
    details = attributes["response.code_details"].string_value if "response.code_details" in attributes else ""
    return Answer(int(values.get(":status", "0")), values, address, details == "via_upstream")


def _tenant(credential: str) -> str:
    """Whose caches a request uses: one name for each credential, which does not tell it; "" without one."""
    return hashlib.sha256(b"tenant of credential " + credential.encode()).hexdigest() if credential else ""


def _outcome(status: int) -> Outcome:
    if status < 400:
        return "answered"
    return "failed" if status >= 500 else "refused"


def _check_bytes(size: int, limit: int) -> None:
    if size > limit:
        raise api_error("body_too_large", f"the request body has {size} bytes: at most {limit} are allowed")


def _translated(status: int) -> ApiError:
    """An answer that is not the application's comes from something in front of it."""
    if status in (408, 504):
        return api_error("timeout", "the model server did not answer in time")
    if status == 503:
        return api_error("overloaded", "the model server takes no requests now")
    return api_error("upstream_failed", "the model server failed before it answered")
