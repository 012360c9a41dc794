"""What the picker tells Envoy about one request, without Envoy: whose caches the request and its copy use."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from autoglm_serving import headers
from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway.dispatch import CHAT, Context
from autoglm_serving.gateway.exchange import Exchange
from autoglm_serving.gateway.fleet import Fleet
from autoglm_serving.gateway.health import answered
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.mirror import Mirror, Original
from autoglm_serving.gateway.records import Records
from autoglm_serving.routing_table import Endpoint, Route, RoutingTable
from autoglm_serving.tracing import Tracing

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ADDRESS = "10.0.0.1:8000"


@pytest.fixture
def context() -> Context:
    """One admitted endpoint."""
    fleet = Fleet()
    endpoint = Endpoint(site="a", url=f"http://{ADDRESS}/ns.phone", revision="r1")
    route = Route(deployment="ns/phone", model="m", uid="u", revision="r1", endpoints=(endpoint,))
    fleet.apply(RoutingTable(epoch=1, version=1, written_at=NOW, routes=(route,)), NOW)
    member = fleet.members[0]
    fleet.set_address(member, ADDRESS)
    fleet.usable = frozenset({ADDRESS})
    member.health = answered(member.health, "r1", "r1", 0.1, NOW)
    return Context(fleet, Records(), Metrics(fleet), Tracing("gateway", None))


def upstream(context: Context, sent: Mapping[str, str]) -> dict[str, str]:
    """The headers that the picker sets for a chat request with these."""
    exchange = Exchange(context)
    named = {":path": CHAT, ":method": "POST", headers.REQUEST_ID: "r", **sent}
    fields = [envoy.HeaderValue(key=name, raw_value=value.encode()) for name, value in named.items()]
    exchange.answer(envoy.ProcessingRequest(request_headers=envoy.HttpHeaders(headers=envoy.HeaderMap(headers=fields))))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    answer = exchange.answer(envoy.ProcessingRequest(request_body=envoy.HttpBody(body=body, end_of_stream=True)))
    exchange.close()
    changes = answer.request_body.response.header_mutation.set_headers
    return {change.header.key: change.header.raw_value.decode() for change in changes}


def test_each_credential_is_a_tenant_of_its_own_and_none_is_none(context: Context) -> None:
    one, again, other = (
        upstream(context, {"authorization": f"Bearer {key}"})[headers.TENANT] for key in ("key-1", "key-1", "key-2")
    )
    assert one == again != other
    assert len(one) == 64
    assert "key-1" not in one
    without = upstream(context, {})
    assert without[headers.DESTINATION].startswith(ADDRESS)
    assert headers.TENANT not in without


def test_a_client_cannot_name_its_tenant(context: Context) -> None:
    assert headers.TENANT not in upstream(context, {headers.TENANT: "another"})


def test_a_copy_of_a_request_uses_the_caches_of_its_client(context: Context) -> None:
    assert context.fleet.table is not None
    route = context.fleet.table.routes[0]
    tenants = [
        Mirror._headers(Original(route, "r", b"", False, CHAT, None, 1.0, tenant)).get(headers.TENANT)
        for tenant in ("t", "")
    ]
    assert tenants == ["t", None]
