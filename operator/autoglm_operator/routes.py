"""Routes of a deployment, and the routing table made of all of them."""

from collections.abc import Iterable
from datetime import datetime

from autoglm_serving.routing_table import Route, RoutingTable


def table(routes: Iterable[Route], epoch: int, version: int, now: datetime) -> RoutingTable:
    """One table of all routes, in a stable order."""
    ordered = sorted(routes, key=lambda route: (route.deployment, route.uid))
    return RoutingTable(epoch=epoch, version=version, written_at=now, routes=tuple(ordered))
