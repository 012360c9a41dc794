"""A deployment as a tree: its conditions, its sites with what is known about them, its rollout. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from autoglm_operator.local import show
from autoglm_operator.store import JsonObject


class Node(NamedTuple):
    """One line and what hangs below it."""

    text: str
    children: tuple["Node", ...] = ()


def tree(deployment: JsonObject, sites: Sequence[JsonObject], now: datetime) -> str:
    """The tree of one deployment."""
    known = {site["metadata"]["name"]: site for site in sites}
    return "\n".join(_lines(_deployment(deployment, known, now)))


def _deployment(raw: JsonObject, sites: Mapping[str, JsonObject], now: datetime) -> Node:
    status, metadata = raw.get("status") or {}, raw["metadata"]
    head = f"{metadata['namespace']}/{metadata['name']}  {show.state(raw)}"
    if metadata.get("deletionTimestamp"):
        head += "  (being deleted)"
    facts = [
        f"model {raw['spec']['model']['name']}",
        f"revision {status.get('revision') or show.NONE}",
        f"{status.get('replicasReady') or '0/0'} replicas",
        f"{status.get('sitesReady') or '0/0'} sites",
    ]
    children = [Node(", ".join(facts)), *_conditions(status, now)]
    if status.get("scaling"):
        children.append(_scaling(raw["spec"].get("scaling") or {}, status["scaling"], now))
    if (status.get("rollout") or {}).get("candidate"):
        children.append(_rollout(status["rollout"]))
    children += [_site(entry, sites.get(entry["name"]), now) for entry in status.get("sites") or ()]
    table = status.get("gatewayTable")
    if table:
        since = show.age(table.get("since"), now)
        children.append(Node(f"gateways: routing table {table['epoch']}/{table['version']} for {since}"))
    return Node(head, tuple(children))


def _conditions(status: Mapping[str, Any], now: datetime) -> Iterator[Node]:
    """Those that are not as a person wishes them."""
    for entry in status.get("conditions") or ():
        calm = "False" if entry["type"] in ("Progressing", "Degraded") else "True"
        if entry["status"] != calm and entry["type"] != "Ready":
            since = show.age(entry.get("lastTransitionTime"), now)
            yield Node(f"{entry['type']} {entry['status']} for {since}: {entry['reason']}: {entry.get('message', '')}")


def _scaling(spec: Mapping[str, Any], scaling: Mapping[str, Any], now: datetime) -> Node:
    rows = scaling.get("sites") or ()
    lines = (
        f"{row['name']}: {row.get('desired', 0)} for {show.age(row.get('since'), now)}:"
        f" {row['reason']}: {row.get('message', '')}"
        for row in rows
    )
    return Node(f"scaling from {spec.get('min', 1)} to {spec.get('max', '?')}", tuple(map(Node, lines)))


def _rollout(rollout: Mapping[str, Any]) -> Node:
    head = f"rollout {rollout['phase']}: {rollout['stable']} -> {rollout['candidate']} at {rollout.get('weight', 0)} %"
    return Node(head, (Node(rollout["message"]),) if rollout.get("message") else ())


def _site(entry: Mapping[str, Any], site: JsonObject | None, now: datetime) -> Node:
    text = (
        f"site {entry['name']}: {entry['state']} {entry.get('ready', 0)}/{entry.get('desired', 0)}"
        f" revision {entry.get('revision') or show.NONE}"
        + (f" variant {entry['variant']}" if entry.get("variant") else "")
        + f", for {show.age(entry.get('since'), now)}"
    )
    children = [Node(entry["message"])] if entry.get("message") else []
    if entry.get("variantReason"):
        children.append(Node(f"variant: {entry['variantReason']}"))
    children.append(Node("there is no AutoGLMSite of this name") if site is None else _cluster(site, now))
    return Node(text, tuple(children))


def _cluster(site: JsonObject, now: datetime) -> Node:
    status = site.get("status") or {}
    parts = [
        f"{site['spec'].get('tier', 'cloud')} {status.get('phase') or 'not looked at yet'}",
        f"Ray {status.get('rayVersion') or show.NONE}",
        f"{'answers' if status.get('phase') == 'Connected' else 'silent'} for {show.age(status.get('since'), now)}",
        *map(_free, status.get("capacity") or ()),
    ]
    if site["spec"].get("price"):
        parts.append(f"price {site['spec']['price']:g}")
    if status.get("capacityObservedAt") and show.is_old(status):
        parts.append(f"free seen {show.age(status['capacityObservedAt'], now)} ago")
    words = [status[key] for key in ("message", "capacityMessage") if status.get(key)]
    return Node(", ".join(parts), tuple(map(Node, words)))


def _free(one: Mapping[str, Any]) -> str:
    """Memory is told in bytes, everything else in pieces."""
    unit, size = ("GiB ", 2**30) if "memory" in one["resource"] else ("", 1)
    free, total = (round(one[key] / size, 2) for key in ("available", "total"))
    return f"{free:g} of {total:g} {unit}{one['resource']} free"


def _lines(node: Node) -> Iterator[str]:
    yield node.text
    for number, child in enumerate(node.children):
        last = number == len(node.children) - 1
        first, *rest = _lines(child)
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + line for line in rest)
