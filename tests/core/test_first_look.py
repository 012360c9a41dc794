"""What a new leader takes over from the gateways: the table that they hold, also of one that cannot tell more."""

import time
from datetime import UTC, datetime
from typing import Any, cast
from unittest.mock import patch

from autoglm_operator.controller.parts import Parts
from autoglm_operator.controller.publisher import Publisher
from autoglm_operator.gateway_client import GatewayClient, GatewayFailed
from autoglm_operator.store import AlwaysLeading, Store
from autoglm_serving.routing_table import Endpoint, Route, RoutingTable, sign

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOKEN = "shared"
ROUTE = Route(
    deployment="default/phones",
    model="m",
    uid="u",
    revision="r1",
    endpoints=(Endpoint(site="a", url="http://10.0.0.1:8000/other", revision="r1"),),
)


async def test_a_table_that_was_read_is_inherited_though_the_report_does_not_come() -> None:
    table = RoutingTable(epoch=3, version=7, written_at=NOW, routes=(ROUTE,))

    async def send(_client: GatewayClient, _method: str, path: str, _body: Any) -> tuple[int, bytes]:
        if path == "/v1/report":
            raise GatewayFailed("the gateway did not answer in time")
        return 200, sign(table, TOKEN.encode()).model_dump_json(by_alias=True).encode()

    parts = Parts(
        store=cast("Store", None),  # a publisher reads no objects
        fence=AlwaysLeading(),
        gateways=("http://gateway:9901",),
        gateway_token=lambda: TOKEN,
        now=lambda: NOW,
        clock=time.monotonic,
    )
    publisher = Publisher(parts, lambda _: None)
    with patch.object(GatewayClient, "_send", send):
        await publisher.first_look()
    assert publisher.inherited("u") == (ROUTE,)
    (view,) = publisher.views()
    assert view.report is None
    assert view.error is not None
    assert view.error.reason == "GatewayUnreachable"
