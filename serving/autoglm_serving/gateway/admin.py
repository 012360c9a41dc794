"""The gateway's admin HTTP interface: tables in, reports, decision records and metrics out."""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from autoglm_serving import headers
from autoglm_serving.gateway.dispatch import Context
from autoglm_serving.gateway.table_store import StaleTable, TableStore, read_key
from autoglm_serving.routing_table import GatewayReport, SignedTable, TableRefused, sign

_log = logging.getLogger(__name__)

MAX_TABLE_BYTES = 8 * 1024 * 1024
MAX_LISTED = 1000
_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass(frozen=True)
class AdminParts:
    """What the admin interface shows and moves."""

    context: Context
    store: TableStore
    token_file: Path
    started_at: datetime
    table_changed: Callable[[], None]
    envoy_live: Callable[[], Awaitable[bool]]
    draining: Callable[[], bool]


def application(parts: AdminParts) -> web.Application:
    """The aiohttp application."""
    handlers = _Handlers(parts)
    app = web.Application(middlewares=[handlers.guard], client_max_size=MAX_TABLE_BYTES)
    app.router.add_put("/v1/routing-table", handlers.put_table)
    app.router.add_get("/v1/routing-table", handlers.routing_table)
    app.router.add_get("/v1/report", handlers.report)
    app.router.add_get("/v1/requests", handlers.requests)
    app.router.add_get("/v1/requests/{id}", handlers.request)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/metrics", handlers.metrics)
    return app


class _Handlers:
    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts

    @property
    def guard(self) -> Middleware:
        """Asks for the token, and answers errors as JSON."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in _OPEN and not self._allowed(request):
                return _error(401, "unauthorized", "send the content of the gateway's token file as bearer token")
            try:
                return await handler(request)
            except web.HTTPException as error:
                return _error(error.status, "http_error", error.reason)

        return guard

    def _allowed(self, request: web.Request) -> bool:
        key = read_key(self._parts.token_file)
        shown = request.headers.get(headers.GATEWAY_TOKEN)
        given = request.headers.get("Authorization", "") if shown is None else f"Bearer {shown}"
        return bool(key) and hmac.compare_digest(given.encode(), b"Bearer " + key)

    async def put_table(self, request: web.Request) -> web.Response:
        metrics = self._parts.context.metrics
        try:
            table = self._parts.store.take(SignedTable.model_validate_json(await request.read()))
        except ValidationError:
            metrics.tables.labels("refused").inc()
            return _error(400, "invalid_table", "the body is not a signed routing table")
        except StaleTable as error:
            metrics.tables.labels("stale").inc()
            return _error(409, "stale_table", str(error))
        except TableRefused as error:
            metrics.tables.labels("refused").inc()
            return _error(403, "table_refused", str(error))
        except OSError as error:
            metrics.tables.labels("failed").inc()
            _log.error("the routing table could not be written: %s", error)
            return _error(507, "disk", "the table could not be written to disk and is not used")
        if self._parts.context.fleet.table != table:
            self._parts.context.fleet.apply(table, datetime.now(UTC))
            self._parts.table_changed()
        metrics.tables.labels("taken").inc()
        return self._report()

    async def routing_table(self, _request: web.Request) -> web.Response:
        """The table in use, signed anew: a new leader asks for what an earlier one gave."""
        table = self._parts.context.fleet.table
        if table is None:
            return _error(404, "not_found", "this gateway has no routing table yet")
        signed = sign(table, read_key(self._parts.token_file))
        return web.json_response(text=signed.model_dump_json(by_alias=True))

    async def report(self, _request: web.Request) -> web.Response:
        return self._report()

    def _report(self) -> web.Response:
        fleet, now = self._parts.context.fleet, time.monotonic()
        report = GatewayReport(
            table_epoch=fleet.table.epoch if fleet.table else 0,
            table_version=fleet.table.version if fleet.table else 0,
            admissions=fleet.admissions(),
            revisions=self._parts.context.tallies.reports(),
            first_bytes=self._parts.context.recent.reports(now),
            links=fleet.links(now, datetime.now(UTC)),
            loads=self._parts.context.loads.reports(
                (route.deployment for route in (fleet.table.routes if fleet.table else ())), now
            ),
            started_at=self._parts.started_at,
        )
        return web.json_response(text=report.model_dump_json(by_alias=True))

    async def request(self, request: web.Request) -> web.Response:
        record = self._parts.context.records.get(request.match_info["id"])
        if record is None:
            return _error(404, "not_found", "this request is not among the last ones of this gateway")
        return web.json_response(record.as_json())

    async def requests(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "50")
        if not text.isdecimal() or int(text) > MAX_LISTED:
            return _error(400, "invalid_request", f"limit must be a number up to {MAX_LISTED}")
        records = self._parts.context.records.latest(int(text))
        return web.json_response({"requests": [record.as_json() for record in records]})

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Ready: Envoy answers, a table is loaded, and each of its endpoints was probed at least once."""
        fleet = self._parts.context.fleet
        checks = {
            "envoy": await self._parts.envoy_live(),
            "table": fleet.table is not None,
            "probed": all(member.health.probed for member in fleet.members),
            "notDraining": not self._parts.draining(),
        }
        return web.json_response({"checks": checks}, status=200 if all(checks.values()) else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._parts.context.metrics.text(), content_type="text/plain", charset="utf-8")


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
