"""A fake of the gateway's admin API: takes signed routing tables and reports admissions as a test wants them."""

import secrets
import threading
from datetime import UTC, datetime

from aiohttp import web
from pydantic import ValidationError
from typing_extensions import override

from autoglm_serving.measurements import RevisionReport
from autoglm_serving.routing_table import (
    Admission,
    AdmissionState,
    Endpoint,
    GatewayReport,
    RoutingTable,
    SignedTable,
    TableRefused,
    sign,
    verify,
)
from support.threaded_server import ThreadedServer


class FakeGateway(ThreadedServer):
    """One gateway. `state` is what it says of every endpoint; `reports` counts how often it was asked."""

    def __init__(self, token: str | None = None) -> None:
        super().__init__()
        self.token = token or secrets.token_hex(16)
        self.state: AdmissionState = "Admitted"
        self.table: RoutingTable | None = None
        self.tables: list[RoutingTable] = []
        self.reports = 0
        self.figures: dict[str, int] = {}
        """What it says to have measured about every canary."""
        self._started_at = datetime.now(UTC)
        self._lock = threading.Lock()

    @override
    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_put("/v1/routing-table", self._put)
        application.router.add_get("/v1/routing-table", self._tell)
        application.router.add_get("/v1/report", self._get)
        return application

    def restart_empty(self) -> None:
        """The gateway comes back on a machine without its disk."""
        self.stop()
        self.table = None
        self._started_at = datetime.now(UTC)
        self.start()

    def deployments(self) -> set[str]:
        """Deployments in the table that it has."""
        return {route.deployment for route in self.table.routes} if self.table else set()

    async def _put(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, "unauthorized", "send the content of the gateway's token file as bearer token")
        try:
            table = verify(SignedTable.model_validate_json(await request.read()), self.token.encode())
        except ValidationError:
            return _error(400, "invalid_table", "the body is not a signed routing table")
        except TableRefused as error:
            return _error(403, "table_refused", str(error))
        with self._lock:
            if self.table is not None and table.generation < self.table.generation:
                return _error(409, "stale_table", f"has {self.table.generation}, got {table.generation}")
            self.table = table
            self.tables.append(table)
        return self._report()

    async def _tell(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, "unauthorized", "send the content of the gateway's token file as bearer token")
        if self.table is None:
            return _error(404, "not_found", "this gateway has no routing table yet")
        return web.json_response(text=sign(self.table, self.token.encode()).model_dump_json(by_alias=True))

    async def _get(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, "unauthorized", "send the content of the gateway's token file as bearer token")
        self.reports += 1
        return self._report()

    def _allowed(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.token}"

    def _report(self) -> web.Response:
        table = self.table
        report = GatewayReport(
            table_epoch=table.epoch if table else 0,
            table_version=table.version if table else 0,
            admissions=tuple(self._admissions(table)) if table else (),
            started_at=self._started_at,
            revisions=tuple(self._revisions(table)) if table else (),
        )
        return web.json_response(text=report.model_dump_json(by_alias=True))

    def _admissions(self, table: RoutingTable) -> list[Admission]:
        found: list[Admission] = []
        for route in table.routes:
            parts = [(route.revision, route.endpoints)]
            parts += [(route.canary.revision, route.canary.endpoints)] if route.canary else []
            for wanted, endpoints in () if route.suspended else parts:
                found += [self._admission(route.deployment, wanted, endpoint) for endpoint in endpoints]
        return found

    def _admission(self, deployment: str, wanted: str, endpoint: Endpoint) -> Admission:
        return Admission(
            deployment=deployment,
            site=endpoint.site,
            revision=endpoint.revision,
            state=self.state,
            message="",
            observed_at=datetime.now(UTC),
            ttft_s=0.5,
            wanted=wanted,
        )

    def _revisions(self, table: RoutingTable) -> list[RevisionReport]:
        """Both revisions of each canary, with the weights of the table and the figures that the test wants."""
        found: list[RevisionReport] = []
        for route in table.routes:
            if route.canary is None:
                continue
            for revision, role, weight in (
                (route.revision, "stable", 100 - route.canary.weight),
                (route.canary.revision, "canary", route.canary.weight),
            ):
                values = {"deployment": route.deployment, "revision": revision, "role": role, "weight": weight}
                measured = self.figures if role == "canary" else {}
                found.append(RevisionReport.model_validate({**values, "window": route.canary.window, **measured}))
        return found


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
