"""The network to sites, measured by a real gateway process: what a turn sends and what it reports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from autoglm_serving.gateway.fleet import Member
from autoglm_serving.gateway.health import Health
from autoglm_serving.gateway.link_prober import measured
from autoglm_serving.links import Link
from autoglm_serving.routing_table import Endpoint, LinkReport
from support.gateway import FakeServer, Gateway, route
from support.ports import free_port

FAR_S = 0.2
THIN_BPS = 1e6


class FarServer:
    """A site at the end of a long and thin way: everything takes `FAR_S`, and a body as long as `THIN_BPS` lets it."""

    def __init__(self, takes: int = 204) -> None:
        self.takes = takes
        self.port = free_port()
        self.bodies: list[int] = []

    def member(self) -> Member:
        endpoint = Endpoint(site="far", url=f"http://127.0.0.1:{self.port}/team.phones", revision="r1")
        health = Health(observed_at=datetime.now(UTC), answers=True)
        return Member("team/phones", endpoint, "r1", health, address=f"127.0.0.1:{self.port}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FarServer"]:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_get("/-/healthz", self._health)
        app.router.add_post("/team.phones/v1/link", self._link)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            yield self
        finally:
            await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        await asyncio.sleep(FAR_S)
        return web.Response(text="success")

    async def _link(self, request: web.Request) -> web.Response:
        size = len(await request.read())
        self.bodies.append(size)
        await asyncio.sleep(FAR_S + size * 8 / THIN_BPS)
        return web.Response(status=self.takes)


async def test_a_turn_measures_the_way_to_a_site_and_back_and_what_it_carries() -> None:
    async with FarServer().running() as far:
        link = await measured(Link(), far.member())
    figures = link.figures(link.uploaded_at)
    # A busy machine only ever adds to what was waited for.
    assert figures.rtt_s is not None
    assert figures.rtt_s >= FAR_S
    assert figures.bandwidth_bps is not None
    assert figures.bandwidth_bps <= THIN_BPS * 1.5
    assert far.bodies == [0, 32 * 1024, 0, 0, 32 * 1024]
    assert link.upload_due(link.uploaded_at + 1)  # a second one has to agree


async def test_an_application_that_is_older_than_this_costs_one_request_in_five_minutes() -> None:
    async with FarServer(takes=404).running() as far:
        link = await measured(Link(), far.member())
        again = await measured(link, far.member())
    assert link.figures(link.answered_at).rtt_s is not None
    assert link.figures(link.answered_at).bandwidth_bps is None
    assert len(far.bodies) == 1
    assert len(again.round_trips) == 2


async def test_a_site_that_does_not_answer_leaves_its_figures_to_grow_old() -> None:
    known = Link().answered(0.02, 0.0)
    assert await measured(known, FarServer().member()) == known


async def test_a_gateway_reports_the_way_to_each_of_its_sites_and_forgets_those_that_leave(tmp_path: Path) -> None:
    async with FakeServer("near") as near, FakeServer("other") as other, Gateway(tmp_path) as gateway:
        await gateway.serve(route(near, other))

        async def told() -> dict[str, LinkReport]:
            return {link.site: link for link in (await gateway.report()).links}

        async def both() -> bool:
            return (await told()).keys() == {"near", "other"}

        await gateway.until(both, "both links are known")
        assert all(link.rtt_s > 0 for link in (await told()).values())
        assert await gateway.metric("autoglm_gateway_link_rtt_seconds") > 0
        await gateway.push(route(near))
        assert (await told()).keys() == {"near"}
        assert not near.seen  # no client's request was made for it
