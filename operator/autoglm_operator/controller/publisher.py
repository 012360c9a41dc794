"""Hands the routing table to the gateways and fetches their reports.

The table is all routes of all deployments. It gets a new version when its content changes, and `(epoch, version)` only
grows: the epoch is that of the leadership. A gateway that shows a table which we did not give it, and which is not
older than ours, got it from an earlier leader whose count was lost (the Lease was deleted, or `autoglm up` was started
anew): then our table is lifted above it. That cannot help a leader that was deposed, since it may not write at all.

Gateways that come and go behind one name are looked for now and then. A new one gets the table at once and counts in
statuses as soon as it has that table and has probed every endpoint, which is when it begins to take requests. One that
the name does not show any more is forgotten when it stops answering.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autoglm_operator import routes as core
from autoglm_operator import views
from autoglm_operator.controller.discovery import gateways_behind
from autoglm_operator.controller.parts import Parts
from autoglm_operator.gateway_client import GatewayClient, GatewayFailed
from autoglm_operator.state import GatewayError, GatewayView, Published
from autoglm_operator.store import ObjectKey
from autoglm_operator.telemetry import log
from autoglm_operator.views import Target, outdated
from autoglm_serving.routing_table import Admission, GatewayReport, Route, RoutingTable, SignedTable, sign

Generation = tuple[int, int]


@dataclass
class _Gateway:
    """One gateway: how to reach it, what it last said, and the table that we last gave it."""

    client: GatewayClient
    view: GatewayView
    given: Generation | None = None
    joined: bool = True
    """Whether it takes requests. One that was found stands aside until it can."""
    task: "asyncio.Task[None] | None" = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    admissions: dict[str, tuple[Admission, ...]] = field(default_factory=dict)
    """Those of the last report, by deployment."""
    outdated: frozenset[Target] = frozenset()
    """Of what its last word was too old to be believed."""

    def view_of(self, deployment: str) -> GatewayView:
        """What it last said about one deployment."""
        if self.view.report is None:
            return self.view
        own = {"admissions": self.admissions.get(deployment, ())}
        return replace(self.view, report=self.view.report.model_copy(update=own))


class Publisher:
    """The routing table of one leadership. Nothing is handed over before `open`."""

    def __init__(
        self,
        parts: Parts,
        on_change: Callable[[frozenset[str]], None],
        on_look: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`on_change` hears of deployments ("namespace/name") about which a gateway says something new.

        `on_look` is called after each look at a gateway, and names deployments of which that tells something new as well.
        """
        clients = [GatewayClient(url, parts.gateway_token) for url in parts.gateways]
        self._gateways = [_Gateway(client, GatewayView(client.url)) for client in clients]
        self._named = frozenset(client.url for client in clients)
        self._service = parts.gateway_service
        self._resolve = parts.resolve
        self._key = parts.gateway_token
        self._fence = parts.fence
        self._now = parts.now
        self._on_change = on_change
        self._on_look = on_look
        self._pace = parts.pace
        self._metrics = parts.metrics
        self._routes: dict[ObjectKey, tuple[Route, ...]] = {}
        self._published: dict[ObjectKey, Published] = {}
        self._generation: Generation = (parts.fence.epoch() or 0, 0)
        self._signed: SignedTable | None = None
        self._opened = False
        self._inherited: tuple[Route, ...] = ()

    async def first_look(self) -> None:
        """Fetches what gateways have from an earlier leader: the newest table, and what each one tells about it.

        With that the first decisions stand on facts: a change of leaders is not told as gateways that are silent. Bounded by
        the timeouts of the clients.
        """
        for url in await gateways_behind(self._service, self._resolve):
            self._found(url)
        found = await asyncio.gather(*(self._inherit(gateway) for gateway in self._gateways))
        newest = max((table for table in found if table), key=lambda table: table.generation, default=None)
        self._inherited = newest.routes if newest else ()
        for gateway in self._gateways:
            if newest is not None and _takes_requests(gateway.view, newest.generation):
                gateway.joined = True

    async def _inherit(self, gateway: _Gateway) -> RoutingTable | None:
        """Its table, and the report beside it. A table that was read holds also when the report does not come."""
        table = None
        try:
            table = await gateway.client.table()
            self._note(gateway, await gateway.client.report())
        except GatewayFailed as failure:
            gateway.view = replace(gateway.view, error=failure.error)
        return table

    def inherited(self, uid: str) -> tuple[Route, ...]:
        """The routes of one resource in the table of an earlier leader."""
        return tuple(route for route in self._inherited if uid and route.uid == uid)

    def views(self) -> tuple[GatewayView, ...]:
        """What the gateways last said: those that take requests, or all if none does."""
        joined = tuple(gateway.view for gateway in self._gateways if gateway.joined)
        return joined or tuple(gateway.view for gateway in self._gateways)

    def views_of(self, deployment: str) -> tuple[GatewayView, ...]:
        """The same, with the admissions of one deployment ("namespace/name") alone: a pass reads no others."""
        joined = [gateway for gateway in self._gateways if gateway.joined]
        return tuple(gateway.view_of(deployment) for gateway in joined or self._gateways)

    def published(self, key: ObjectKey) -> Published | None:
        """The table in which the present routes of a deployment first stood."""
        return self._published.get(key)

    def set_routes(self, key: ObjectKey, routes: tuple[Route, ...]) -> None:
        """The routes of one deployment; none takes it out of the table."""
        if self._routes.get(key, ()) == routes:
            return
        if routes:
            self._routes[key] = routes
        else:
            del self._routes[key]
        self._published.pop(key, None)
        if self._opened:
            self._renew()

    def open(self) -> None:
        """Every deployment has been decided once: from now on the table is whole and may be handed over."""
        if not self._opened:
            self._opened = True
            self._renew()

    async def run(self) -> None:
        """Looks after all gateways until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for gateway in self._gateways:
                    self._start(group, gateway)
                while self._service:
                    await self._discover(group)
                    await asyncio.sleep(self._pace.discovery_s)
        finally:
            for gateway in self._gateways:
                await gateway.client.close()

    def _start(self, group: asyncio.TaskGroup, gateway: _Gateway) -> None:
        gateway.task = group.create_task(self._look_after(gateway), name=f"gateway {gateway.client.url}")

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        """Looks after gateways that are new behind the name, and forgets those that have left it and do not answer."""
        found = set(await gateways_behind(self._service, self._resolve))
        for url in sorted(found - {gateway.client.url for gateway in self._gateways}):
            self._start(group, self._found(url))
        for gateway in tuple(self._gateways):
            url = gateway.client.url
            if url not in found | self._named and gateway.view.error is not None:
                await self._forget(gateway)

    def _found(self, url: str) -> _Gateway:
        log.info("found a gateway", extra={"fields": {"gateway": url}})
        gateway = _Gateway(GatewayClient(url, self._key), GatewayView(url), joined=False)
        self._gateways.append(gateway)
        return gateway

    async def _forget(self, gateway: _Gateway) -> None:
        log.info("a gateway is gone", extra={"fields": {"gateway": gateway.client.url}})
        self._gateways.remove(gateway)
        if gateway.task is not None:
            gateway.task.cancel()
            await asyncio.wait({gateway.task})
        await gateway.client.close()
        self._metrics.forget_gateway(gateway.view.name)
        self._on_change(self._all_deployments())

    def _all_deployments(self) -> frozenset[str]:
        return frozenset(route.deployment for routes in self._routes.values() for route in routes)

    def _published_after(self, generation: Generation | None) -> frozenset[str]:
        """Deployments whose routes are not in a table of this number: what a gateway holds tells nothing new of the others."""
        held = generation or (0, 0)
        late = (key for key, known in self._published.items() if (known.epoch, known.version) > held)
        return frozenset(route.deployment for key in late for route in self._routes.get(key, ()))

    def _renew(self, above: Generation | None = None) -> None:
        """The present routes get the next number. The table is made when a gateway is given it: once for many changes."""
        epoch, version = max(self._generation, above or self._generation)
        self._generation = (epoch, version + 1)
        self._signed = None
        for key, own in self._routes.items():
            if above is not None or key not in self._published:
                self._published[key] = Published(epoch, version + 1, own)
        for gateway in self._gateways:
            gateway.wake.set()

    def _table(self) -> SignedTable:
        if self._signed is None:
            routes = [route for key in sorted(self._routes) for route in self._routes[key]]
            self._signed = sign(core.table(routes, *self._generation, self._now()), self._key().encode())
        return self._signed

    async def _look_after(self, gateway: _Gateway) -> None:
        while True:
            gateway.wake.clear()
            before = gateway.view
            try:
                self._note(gateway, await self._exchange(gateway))
            except GatewayFailed as failure:
                gateway.view = replace(before, error=failure.error)
            except Exception as error:  # noqa: BLE001 - one gateway's trouble must not end the operator
                log.exception("a gateway could not be looked after", extra={"fields": {"gateway": before.name}})
                gateway.view = replace(before, error=GatewayError("InternalError", type(error).__name__))
            joining = not gateway.joined and _takes_requests(gateway.view, self._generation)
            gateway.joined = gateway.joined or joining
            self._tell(before, gateway.view, joining)
            self._tell_outdated(gateway)
            if others := self._on_look():
                self._on_change(others)
            try:
                async with asyncio.timeout(self._pace.gateway_poll_s):
                    await gateway.wake.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(self._pace.gather_s)

    async def _exchange(self, gateway: _Gateway) -> GatewayReport:
        """One look: fetch the report, and hand over the table if the gateway does not have it."""
        report = await gateway.client.report()
        shown = (report.table_epoch, report.table_version)
        if not self._opened or self._fence.epoch() is None:
            return report
        if shown >= self._generation and shown != gateway.given:
            self._renew(above=shown)
        if shown < self._generation:
            generation = self._generation
            report = await gateway.client.put_table(self._table())
            gateway.given = generation
            fields = {"gateway": gateway.client.url, "epoch": generation[0], "version": generation[1]}
            log.info("gave a routing table", extra={"fields": fields})
        return report

    def _note(self, gateway: _Gateway, report: GatewayReport) -> None:
        if gateway.view.report is not None:
            report = views.with_links_kept(gateway.view.report, report, self._now())
        gateway.view = replace(gateway.view, report=report, observed_at=self._now(), error=None)
        gateway.admissions = _by_deployment(report)

    def _tell(self, before: GatewayView, after: GatewayView, joining: bool) -> None:
        report = after.report
        current = after.error is None and report is not None and _generation(report) == self._generation
        self._metrics.gateway_behind.labels(after.name).set(0 if current else 1)
        if current and after.observed_at is not None:
            self._metrics.gateway_confirmed.labels(after.name).set(after.observed_at.timestamp())
        changed = _admissions_changed(before.report, report)
        if joining or before.error != after.error:
            changed |= self._all_deployments()
        elif _generation(before.report) != _generation(report):
            changed |= self._published_after(_generation(before.report))
        if changed:
            self._on_change(frozenset(changed))

    def _tell_outdated(self, gateway: _Gateway) -> None:
        """Deployments of which a word became too old though the gateway reports, or young again."""
        before, report = gateway.outdated, gateway.view.report
        gateway.outdated = frozenset() if report is None else outdated(report, self._now())
        if before != gateway.outdated:
            self._on_change(frozenset(target.deployment for target in before ^ gateway.outdated))


def _takes_requests(view: GatewayView, generation: Generation) -> bool:
    """As its own readiness: it has the table of this number and has probed every endpoint in it."""
    report = view.report
    if view.error is not None or report is None or _generation(report) != generation:
        return False
    return all(admission.state != "Probing" for admission in report.admissions)


def _generation(report: GatewayReport | None) -> Generation | None:
    return None if report is None else (report.table_epoch, report.table_version)


def _by_deployment(report: GatewayReport) -> dict[str, tuple[Admission, ...]]:
    found: dict[str, list[Admission]] = {}
    for admission in report.admissions:
        found.setdefault(admission.deployment, []).append(admission)
    return {deployment: tuple(own) for deployment, own in found.items()}


def _admissions_changed(before: GatewayReport | None, after: GatewayReport | None) -> set[str]:
    """Deployments of which an admission came, went or changed; a newer figure for the same fact is no change."""
    old = {_fact(admission) for admission in (before.admissions if before else ())}
    new = {_fact(admission) for admission in (after.admissions if after else ())}
    return {deployment for deployment, *_ in old ^ new}


def _fact(admission: Admission) -> tuple[str, str, str, str, str]:
    return (admission.deployment, admission.site, admission.revision, admission.state, admission.message)
