"""One request's life in the picker: read it, pick, tell Envoy, watch the answer, release.

Envoy sends the request's headers, its whole body, the answer's headers, and keeps the stream open until the exchange ends,
however it ends. `close` is the one place where everything is released.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from autoglm_serving import headers, resolution
from autoglm_serving.config import Limits
from autoglm_serving.gateway import facts, health, replies
from autoglm_serving.gateway.fleet import Fleet, Flight, Member
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.records import Outcome, Record, Records
from autoglm_serving.routing import (
    Features,
    NoEndpoint,
    Pick,
    Profile,
    RequestCost,
    Score,
    Weights,
    features,
    learn,
    own_work,
    pick,
)
from autoglm_serving.routing_table import Route
from autoglm_serving.tracing import Tracing
from autoglm_serving.wire import ApiError, api_error

_log = logging.getLogger(__name__)

MAX_TIMEOUT_SECONDS = 3600.0
DEFAULT_LOAD_SECONDS = 2.0
"""Queued work that counts as full load where a deployment names no target."""

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
HEALTH = "/health"
_METHODS = {CHAT: "POST", MODELS: "GET", HEALTH: "GET"}

# Upstream answers nobody needs the client's credentials, and what Envoy adds about the client stays here.
_PRIVATE_REQUEST_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-forwarded-for", "accept-encoding")
_PRIVATE_ANSWER_HEADERS = ("server", "x-envoy-upstream-service-time", "x-envoy-attempt-count")
_OWN_ENVOY_HEADERS = frozenset({"x-forwarded-proto"})
"""Set by Envoy itself and needed by it."""


@dataclass
class Context:
    """What all exchanges share."""

    fleet: Fleet
    records: Records
    metrics: Metrics
    tracing: Tracing
    turns: dict[str, int] = field(default_factory=dict)
    """Round robin's turn of each deployment."""


@dataclass(frozen=True)
class _Sent:
    """A request on its way to a server."""

    route: Route
    members: dict[str, Member]
    flight: Flight
    chosen: Member
    score: Score
    weights: Weights
    seen: Features
    at: float


class Exchange:
    """The picker's side of one HTTP request."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = time.monotonic()
        self._started_ns = time.time_ns()
        self._record = Record(request_id="", arrived_at=datetime.now(UTC))
        self._sent: _Sent | None = None
        self._outcome: Outcome = "abandoned"
        self._own_answer = False
        context.metrics.under_way.inc()

    def answer(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
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
        if self._sent is not None:
            self._sent.flight.close()
        record, metrics = self._record, self._context.metrics
        record.outcome = self._outcome
        record.ended_s = self._elapsed()
        metrics.under_way.dec()
        metrics.requests.labels(record.deployment, str(record.status or "abandoned")).inc()
        if self._context.tracing.enabled:
            self._trace()

    # -- phases

    def _request_headers(self, message: ext_proc.HttpHeaders) -> ext_proc.ProcessingResponse:
        values = replies.header_values(message.headers)
        self._record.request_id = values.get(headers.REQUEST_ID, "")
        path = values.get(":path", "").partition("?")[0]
        method = values.get(":method", "")
        if path not in _METHODS:
            raise api_error("not_found", "there is nothing at this path: use /v1/chat/completions or /v1/models")
        if method != _METHODS[path]:
            raise api_error("method_not_allowed", f"use {_METHODS[path]} for {path}")
        if path == MODELS:
            return self._own(200, self._models())
        if path == HEALTH:
            return self._health()
        if message.end_of_stream:
            raise api_error("invalid_request", "the request body is empty")
        self._check_announced(values)
        self._context.records.add(self._record)
        reserved = (name for name in values if headers.is_reserved(name) and name not in _OWN_ENVOY_HEADERS)
        return replies.request_headers([*reserved, *_PRIVATE_REQUEST_HEADERS])

    def _request_body(self, raw: bytes) -> ext_proc.ProcessingResponse:
        received = time.monotonic()
        self._check_largest(len(raw))
        body = facts.parse(raw)
        route = self._route(body.model)
        self._record.model, self._record.deployment = route.model, route.deployment
        _check_bytes(body.size, route.limits.max_body_bytes)
        read = facts.read(body, route.limits)
        cost = RequestCost(self._record.request_id, body.size, read.text_characters, read.images, body.streams)
        if route.suspended:
            raise api_error("not_ready", f"the model {route.model} is suspended")
        sent, changes = self._dispatch(route, cost)
        self._sent = sent
        self._context.metrics.pick_seconds.observe(time.monotonic() - received)
        return replies.request_body(changes)

    def _response_headers(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        values = replies.header_values(message.response_headers.headers)
        status = int(values.get(":status", "0"))
        if self._own_answer or self._sent is None:
            self._finish(status, "refused")
            return replies.response_headers({}, _PRIVATE_ANSWER_HEADERS)
        attributes = next(iter(message.attributes.values())).fields if message.attributes else {}
        address = attributes["upstream.address"].string_value if "upstream.address" in attributes else ""
        details = attributes["response.code_details"].string_value if "response.code_details" in attributes else ""
        self._observe(values, status, address, details == "via_upstream")
        changes = self._answer_headers(values)
        ours = details != "via_upstream" or headers.REVISION in values
        if not ours:
            error = _translated(status)
            self._record.error = error.code
            self._finish(error.status, "failed")
            return replies.error_answer(error, changes)
        return replies.response_headers(changes, _PRIVATE_ANSWER_HEADERS)

    # -- the decision

    def _dispatch(self, route: Route, cost: RequestCost) -> tuple[_Sent, dict[str, str]]:
        fleet, now = self._context.fleet, time.monotonic()
        members = {member.address: member for member in fleet.of(route) if member.address is not None}
        turn = self._context.turns[route.deployment] = self._context.turns.get(route.deployment, -1) + 1
        ceiling = resolution.pixel_limit(cost.images, route.resolution.max_short_side)
        profile = Profile(route.policy, route.ttft_target_s, route.retries, turn, ceiling)
        decision = pick(cost, fleet.states(list(members.values()), now), profile, now)
        if isinstance(decision, NoEndpoint):
            raise api_error("not_ready", f"the model {route.model} is not ready: {decision.message}")
        chosen = members[decision.chosen.name]
        size = self._resolution(route, decision, chosen)
        max_pixels = resolution.pixel_limit(cost.images, size.short_side)
        self._note(cost, decision, size, max_pixels)
        queued = sum(chosen.flights.values())
        sent = _Sent(
            route=route,
            members=members,
            flight=Flight(chosen, own_work(cost, decision.chosen.weights, max_pixels)),
            weights=decision.chosen.weights,
            chosen=chosen,
            score=next(score for score in decision.scores if score.endpoint == chosen.address),
            seen=features(cost, queued, max_pixels),
            at=now,
        )
        return sent, self._upstream_headers(route, decision, max_pixels)

    def _resolution(self, route: Route, decision: Pick, chosen: Member) -> resolution.Resolution:
        known = [endpoint.bandwidth_bps for endpoint in route.endpoints if endpoint.bandwidth_bps is not None]
        bandwidth = chosen.endpoint.bandwidth_bps
        share = 1.0 if bandwidth is None or not known else bandwidth / max(known)
        load = decision.chosen.queued_work_s / (route.ttft_target_s or DEFAULT_LOAD_SECONDS)
        size = resolution.choose(route.resolution, resolution.Conditions(share, load), chosen.short_side)
        chosen.short_side = size.short_side
        return size

    def _upstream_headers(self, route: Route, decision: Pick, max_pixels: int | None) -> dict[str, str]:
        timeout_ms = round(min(route.timeout_s, MAX_TIMEOUT_SECONDS) * 1000)
        changes = {
            headers.DESTINATION: ",".join(endpoint.name for endpoint in decision.attempts),
            ":path": decision.chosen.path + CHAT,
            "x-envoy-max-retries": str(len(decision.attempts) - 1),
            "x-envoy-upstream-rq-timeout-ms": str(max(timeout_ms, 1)),
        }
        if max_pixels is not None:
            changes[headers.MAX_PIXELS] = str(max_pixels)
        return changes

    # -- what was seen

    def _observe(self, values: Mapping[str, str], status: int, address: str, from_server: bool) -> None:
        sent = self._sent
        assert sent is not None
        now = time.monotonic()
        attempts = int(values.get("x-envoy-attempt-count", "1"))
        served = sent.members.get(address, sent.chosen)
        record = self._record
        record.attempts, record.endpoint, record.site = attempts, address, served.endpoint.site
        record.revision = values.get(headers.REVISION, "")
        for name in record.attempts_planned[: attempts - 1]:
            self._blame(sent.members[name], now)
        if served is not sent.flight.member:
            sent.flight.move(served)
        if from_server and status < 500 and record.revision:
            self._praise(sent, served, attempts, status >= 400, now)
        elif not (from_server and "retry-after" in values):
            self._blame(served, now)
        if attempts > 1:
            self._context.metrics.retried.inc()
        self._finish(status, "answered" if status < 400 else "failed" if status >= 500 else "refused")

    def _praise(self, sent: _Sent, served: Member, attempts: int, refused: bool, now: float) -> None:
        seconds = now - sent.at
        self._record.first_byte_s = self._elapsed()
        self._context.metrics.first_byte_seconds.labels(sent.route.deployment).observe(seconds)
        served.health = health.served(served.health, self._record.revision, served.wanted, seconds, datetime.now(UTC))
        if attempts == 1 and served is sent.chosen and not refused:
            server_seconds = seconds - sent.score.upload_s - sent.score.round_trip_s
            before = served.weights if served.samples else sent.weights
            served.weights = learn(before, sent.seen, max(server_seconds, 0.0))
            served.samples, served.learned_at = served.samples + 1, now

    def _blame(self, member: Member, now: float) -> None:
        member.health = health.request_failed(member.health, now)

    def _finish(self, status: int, outcome: Outcome) -> None:
        self._record.status, self._outcome = status, outcome

    def _note(self, cost: RequestCost, decision: Pick, size: resolution.Resolution, max_pixels: int | None) -> None:
        record = self._record
        record.body_bytes, record.text_characters = cost.body_bytes, cost.text_characters
        record.images, record.streams = cost.images, cost.streams
        record.candidates, record.reason = decision.scores, decision.reason
        record.attempts_planned = tuple(endpoint.name for endpoint in decision.attempts)
        record.short_side, record.resolution_reason, record.max_pixels = size.short_side, size.reason, max_pixels
        record.site, record.endpoint = decision.chosen.site, decision.chosen.name
        record.picked_s = self._elapsed()
        self._context.metrics.picks.labels(decision.chosen.site, decision.reason).inc()

    # -- answers

    def _answer_headers(self, values: Mapping[str, str]) -> dict[str, str]:
        record = self._record
        changes = {headers.SITE: record.site, headers.REASON: record.reason}
        if record.images:
            changes[headers.RESOLUTION] = str(record.short_side)
        if headers.REVISION in values:
            changes[headers.REVISION] = values[headers.REVISION]
        return changes

    def _own(self, status: int, value: object) -> ext_proc.ProcessingResponse:
        self._own_answer = True
        self._finish(status, "answered")
        return replies.json_answer(status, value)

    def _refuse(self, error: ApiError) -> ext_proc.ProcessingResponse:
        self._own_answer = True
        self._record.error = error.code
        self._finish(error.status, "refused" if error.status < 500 else "failed")
        return replies.error_answer(error)

    def _models(self) -> dict[str, object]:
        table = self._context.fleet.table
        routes = sorted(table.routes if table else (), key=lambda route: route.model)
        written = int(table.written_at.timestamp()) if table else 0
        names = list(dict.fromkeys(route.model for route in routes))
        data = [{"id": name, "object": "model", "created": written, "owned_by": "autoglm"} for name in names]
        return {"object": "list", "data": data}

    def _health(self) -> ext_proc.ProcessingResponse:
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
            raise api_error(
                "model_not_found", f"the model {model[:100]!r} does not exist; known models: {known}", "model"
            )
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
        self._context.tracing.record(
            "gateway.request",
            self._started_ns,
            time.time_ns(),
            {
                "autoglm.request_id": record.request_id,
                "autoglm.model": record.model,
                "autoglm.deployment": record.deployment,
                "autoglm.site": record.site,
                "autoglm.revision": record.revision,
                "autoglm.reason": record.reason,
                "autoglm.short_side": record.short_side or 0,
                "autoglm.images": len(record.images),
                "autoglm.text_characters": record.text_characters,
                "autoglm.attempts": record.attempts,
                "autoglm.outcome": record.outcome,
                "http.response.status_code": record.status or 0,
            },
            error=record.error if record.outcome == "failed" else "",
        )


def _check_bytes(size: int, limit: int) -> None:
    if size > limit:
        raise api_error("body_too_large", f"the request body has {size} bytes: at most {limit} are allowed")


def _translated(status: int) -> ApiError:
    """An answer that is not in OpenAI's shape comes from something in front of the application."""
    if status in (408, 504):
        return api_error("timeout", "the model server did not answer in time")
    if status == 503:
        return api_error("overloaded", "the model server takes no requests now")
    return api_error("upstream_failed", "the model server failed before it answered")
