"""Endpoint discovery for Envoy (EDS, state of the world): one resource that holds every address of the fleet.

Envoy confirms each version. Only confirmed addresses may be picked: a request for an address that Envoy does not know yet
would be answered 503.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway.envoy_config import ENDPOINTS
from autoglm_serving.gateway.fleet import Fleet, split

_log = logging.getLogger(__name__)

_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class EndpointDiscovery:
    """Serves the fleet's addresses to Envoy and reports back which ones it confirmed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._version = 0
        self._sent: dict[str, frozenset[str]] = {}
        self._update = asyncio.Event()
        fleet.changed = self.push

    def push(self) -> None:
        """The fleet's addresses may have changed."""
        self._update.set()

    async def stream(
        self,
        requests: AsyncIterator[envoy.DiscoveryRequest],
        _context: grpc.aio.ServicerContext[envoy.DiscoveryRequest, envoy.DiscoveryResponse],
    ) -> AsyncIterator[envoy.DiscoveryResponse]:
        """One Envoy's subscription."""
        self._sent.clear()
        self._fleet.usable = frozenset()
        reader = asyncio.create_task(self._read(requests))
        current: frozenset[str] | None = None
        try:
            while True:
                self._update.clear()
                addresses = self._fleet.addresses()
                if addresses != current:
                    current = addresses
                    yield self._response(addresses)
                await self._update.wait()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _read(self, requests: AsyncIterator[envoy.DiscoveryRequest]) -> None:
        async for request in requests:
            if request.error_detail.code:
                _log.error("Envoy refused version %s: %s", request.response_nonce, request.error_detail.message)
            elif request.response_nonce in self._sent:
                self._fleet.usable = self._sent[request.response_nonce]
                confirmed = int(request.response_nonce)
                self._sent = {nonce: sent for nonce, sent in self._sent.items() if int(nonce) >= confirmed}

    def _response(self, addresses: frozenset[str]) -> envoy.DiscoveryResponse:
        self._version += 1
        version = str(self._version)
        self._sent[version] = addresses
        # Addresses that go away must not be picked between now and Envoy's confirmation.
        self._fleet.usable &= addresses
        answer = envoy.DiscoveryResponse(version_info=version, nonce=version, type_url=_TYPE)
        answer.resources.add(type_url=_TYPE, value=_assignment(addresses).SerializeToString())
        return answer


def _assignment(addresses: frozenset[str]) -> envoy.ClusterLoadAssignment:
    assignment = envoy.ClusterLoadAssignment(cluster_name=ENDPOINTS)
    group = assignment.endpoints.add()
    for address in sorted(addresses):
        host, port = split(address)
        socket = group.lb_endpoints.add().endpoint.address.socket_address
        socket.address = host
        socket.port_value = port
    return assignment
