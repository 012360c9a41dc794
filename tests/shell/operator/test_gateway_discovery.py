"""Gateways that come and go behind one name: each gets the table, and none disturbs the status of what is served."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import cast

import pytest

from autoglm_operator.controller.discovery import gateways_behind, resolve
from autoglm_operator.controller.parts import Parts
from autoglm_operator.controller.publisher import Publisher
from autoglm_operator.settings import Pace
from autoglm_operator.store import ObjectKey, Store
from autoglm_serving.routing_table import Endpoint, Route
from support.fake_gateway import FakeGateway
from support.ports import free_port

KEY = ObjectKey("AutoGLMDeployment", "default", "phones")
PACE = Pace(gateway_poll_s=0.05, discovery_s=0.05)


class Leading:
    def epoch(self) -> int | None:
        return 3


class Behind:
    """What the name resolves to, as the test says, and a publisher that looks after it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.gateways = {host: self._gateway(host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")}
        self.shown: list[str] = []
        self.told: list[frozenset[str]] = []
        self.publisher = Publisher(self._parts(), self.told.append)

    def _gateway(self, host: str) -> FakeGateway:
        gateway = FakeGateway(token="shared")
        gateway.host, gateway.port = host, self.port
        return gateway

    def _parts(self) -> Parts:
        async def resolver(host: str, port: int) -> tuple[str, ...]:
            assert (host, port) == ("gateways", self.port)
            return tuple(self.shown)

        return Parts(
            store=cast("Store", None),  # a publisher reads no objects
            fence=Leading(),
            gateways=(),
            gateway_service=f"http://gateways:{self.port}",
            resolve=resolver,
            gateway_token=lambda: "shared",
            now=lambda: datetime.now(UTC),
            clock=time.monotonic,
            pace=PACE,
        )

    def show(self, *hosts: str) -> None:
        for host in hosts:
            self.gateways[host].start()
        self.shown = list(hosts)

    def names(self) -> set[str]:
        """Hosts of the gateways that count in statuses."""
        return {view.name.removeprefix("http://").rpartition(":")[0] for view in self.publisher.views()}

    def close(self) -> None:
        for gateway in self.gateways.values():
            gateway.close()


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind()
    yield made
    made.close()


@contextlib.asynccontextmanager
async def running(behind: Behind) -> AsyncIterator[Publisher]:
    publisher = behind.publisher
    publisher.set_routes(KEY, (a_route(),))
    publisher.open()
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def a_route() -> Route:
    endpoint = Endpoint(site="a", url="http://127.0.0.1:8000", revision="r1")
    return Route(deployment="default/phones", model="m", uid="u", revision="r1", endpoints=(endpoint,))


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_every_gateway_behind_the_name_gets_the_table(behind: Behind) -> None:
    async with running(behind):
        assert behind.publisher.views() == ()
        behind.show("127.0.0.1", "127.0.0.2")
        given = [behind.gateways[host] for host in behind.shown]
        await until(lambda: all(gateway.deployments() == {"default/phones"} for gateway in given), "both have it")
        assert behind.names() == {"127.0.0.1", "127.0.0.2"}


async def test_a_new_gateway_counts_only_when_it_has_probed_every_endpoint(behind: Behind) -> None:
    async with running(behind):
        behind.show("127.0.0.1")
        await until(lambda: behind.names() == {"127.0.0.1"}, "the first one counts")
        behind.gateways["127.0.0.2"].state = "Probing"
        behind.show("127.0.0.1", "127.0.0.2")
        await until(
            lambda: behind.gateways["127.0.0.2"].reports > 3, "the second one has the table and was asked again"
        )
        assert behind.gateways["127.0.0.2"].deployments() == {"default/phones"}
        assert behind.names() == {"127.0.0.1"}
        told = len(behind.told)
        behind.gateways["127.0.0.2"].state = "Admitted"
        await until(lambda: behind.names() == {"127.0.0.1", "127.0.0.2"}, "both count")
        await until(lambda: frozenset({"default/phones"}) in behind.told[told:], "the deployment is looked at again")


async def test_while_no_gateway_takes_requests_all_of_them_are_told(behind: Behind) -> None:
    behind.gateways["127.0.0.1"].state = "Probing"
    async with running(behind):
        behind.show("127.0.0.1")
        await until(lambda: behind.names() == {"127.0.0.1"}, "its state explains why nothing is ready")


async def test_a_gateway_that_left_is_forgotten_when_it_is_silent_and_not_before(behind: Behind) -> None:
    async with running(behind):
        behind.show("127.0.0.1", "127.0.0.2")
        await until(lambda: behind.names() == {"127.0.0.1", "127.0.0.2"}, "both count")
        behind.shown = ["127.0.0.1"]
        reports = behind.gateways["127.0.0.2"].reports
        await until(lambda: behind.gateways["127.0.0.2"].reports > reports + 3, "it answers on")
        assert behind.names() == {"127.0.0.1", "127.0.0.2"}
        behind.gateways["127.0.0.2"].stop()
        await until(lambda: behind.names() == {"127.0.0.1"}, "it is forgotten")


async def test_a_resolver_that_fails_takes_no_gateway_away(behind: Behind) -> None:
    async with running(behind):
        behind.show("127.0.0.1")
        await until(lambda: behind.names() == {"127.0.0.1"}, "it counts")
        behind.shown = []
        reports = behind.gateways["127.0.0.1"].reports
        await until(lambda: behind.gateways["127.0.0.1"].reports > reports + 3, "it is asked on")
        assert behind.names() == {"127.0.0.1"}


async def test_names_become_addresses_and_an_unknown_name_becomes_none() -> None:
    assert await gateways_behind("http://localhost:9901", resolve) in (
        ("http://127.0.0.1:9901",),
        ("http://127.0.0.1:9901", "http://[::1]:9901"),
    )
    assert await gateways_behind("http://nobody.invalid:9901", resolve) == ()
    assert await gateways_behind("", resolve) == ()
