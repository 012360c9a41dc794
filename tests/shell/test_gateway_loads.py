"""What the real gateway tells of the load, and what it answers for a model that has no replicas because nobody asked."""

import asyncio

from autoglm_serving.measurements import LoadReport
from support.gateway import DEPLOYMENT, FakeServer, Gateway, route


async def load(gateway: Gateway) -> LoadReport:
    """The load of the one deployment; nothing is a load as well."""
    told = (await gateway.report()).loads
    assert told is not None, "this gateway tells the load"
    return next((one for one in told if one.deployment == DEPLOYMENT), LoadReport(deployment=DEPLOYMENT))


async def test_requests_that_hang_are_under_way_at_their_site_until_they_end(gateway: Gateway) -> None:
    async with FakeServer("first", mode="hang") as server:
        await gateway.serve(route(server))
        assert (await load(gateway)).sites == (), "probes are no load"
        asked = [asyncio.create_task(gateway.ask()) for _ in range(3)]

        async def three() -> bool:
            return any(one.in_flight > 2.9 for one in (await load(gateway)).sites)

        await gateway.until(three, "three are under way as a mean over time")
        told = await load(gateway)
        assert [one.site for one in told.sites] == ["first"]
        assert told.rate > 0
        assert told.sites[0].completions == 0
        server.released.set()
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 3

        async def over() -> bool:
            sites = (await load(gateway)).sites
            return bool(sites) and sites[0].completions > 0 and sites[0].ttft.total == 3 and sites[0].in_flight == 0

        await gateway.until(over, "they are answered and gone")


async def test_a_model_that_sleeps_is_known_and_its_requests_are_told(gateway: Gateway) -> None:
    async with FakeServer("first") as server:
        await gateway.serve(route(server))
        await gateway.push(route(server, endpoints=(), suspended=True, asleep=True))
        before = (await load(gateway)).asked_s
        assert before is None or before > 0
        status, answer_headers, body = await gateway.ask()
        assert (status, answer_headers["Retry-After"]) == (503, "5")
        assert body["error"]["code"] == "not_ready"
        assert "asleep" in body["error"]["message"]
        told = await load(gateway)
        assert told.asked_s is not None
        assert told.asked_s < 30
        async with gateway.session.get(f"{gateway.url}/v1/models") as answer:
            assert [one["id"] for one in (await answer.json())["data"]] == [route().model]
        await gateway.serve(route(server))
        assert (await gateway.ask())[0] == 200
