"""What an account may do, by its roles, and what it did, by the API server's audit log."""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""


def used(events: Iterable[Json]) -> set[Right]:
    """Rights of which use was made."""
    asked = [event for event in events if event["responseStatus"]["code"] < 400]
    return {_right(event) for event in asked if "resource" in event.get("objectRef", {})}


def refused(events: Iterable[Json]) -> set[str]:
    """What was asked for and not allowed."""
    return {
        f"{event['verb']} {event['requestURI'].partition('?')[0]}"
        for event in events
        if event["responseStatus"]["code"] == 403
    }


def granted(objects: Iterable[Json], component: str = "operator") -> set[Right]:
    """Rights that the roles among the chart's objects give to one of its components."""
    roles = [
        entry
        for entry in objects
        if entry["kind"] in ("Role", "ClusterRole")
        and entry["metadata"]["labels"].get("app.kubernetes.io/component") == component
    ]
    assert roles
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _right(event: Json) -> Right:
    reference = event["objectRef"]
    parts = [reference["resource"], reference.get("subresource")]
    return reference.get("apiGroup", ""), "/".join(filter(None, parts)), event["verb"]
