"""Statuses as text for people: what `kubectl get` and `kubectl describe` would print. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, ObjectKey

NONE = "<none>"
DEPLOYMENT_COLUMNS = (
    *("NAME", "READY", "REPLICAS", "SITES", "MODEL"),
    *("REASON", "REVISION", "VARIANTS", "TTFT P95", "AGE", "MESSAGE"),
)
SITE_COLUMNS = (
    *("NAME", "CONNECTED", "TIER", "PHASE", "FREE", "PRICE", "APPLICATIONS", "SINCE"),
    *("RAY", "ADDRESS", "MESSAGE"),
)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, three spaces between them."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def deployments(objects: Mapping[ObjectKey, JsonObject], now: datetime) -> str:
    """The table of deployments."""
    return table(DEPLOYMENT_COLUMNS, [_deployment(raw, now) for key, raw in objects.items() if key.kind == DEPLOYMENT])


def sites(objects: Mapping[ObjectKey, JsonObject], now: datetime) -> str:
    """The table of sites."""
    return table(SITE_COLUMNS, [_site(raw, now) for key, raw in objects.items() if key.kind == SITE])


def condition(raw: JsonObject, kind: str) -> Mapping[str, Any]:
    """One condition of an object; empty when it has none of that type."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry["type"] == kind), {})


def is_ready(raw: JsonObject) -> bool:
    """Whether the present spec is served."""
    ready = condition(raw, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == raw["metadata"].get("generation")


def state(raw: JsonObject) -> str:
    """Where an object stands, in one line."""
    kind = "Ready" if raw.get("kind") == DEPLOYMENT else "Connected"
    entry = condition(raw, kind)
    if not entry:
        return "not looked at yet"
    if entry["status"] == "True":
        return kind
    return f"{entry['reason']}: {entry.get('message') or 'no message'}"


def explain(raw: JsonObject, events: Sequence[Mapping[str, Any]], now: datetime) -> str:
    """Every condition with its reason, every site, and the last events."""
    status, meta = raw.get("status") or {}, raw["metadata"]
    head = f"{raw['kind']} {'/'.join(filter(None, [meta.get('namespace'), meta['name']]))}: {state(raw)}"
    conditions = [
        (
            entry["type"],
            entry["status"],
            entry["reason"],
            age(entry.get("lastTransitionTime"), now),
            entry.get("message", ""),
        )
        for entry in status.get("conditions") or ()
    ]
    parts = [head, table(("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), conditions)]
    on_sites = [
        (
            entry["name"],
            entry["state"],
            f"{entry.get('ready', 0)}/{entry.get('desired', 0)}",
            entry.get("revision") or NONE,
            age(entry.get("since"), now),
            entry.get("message", ""),
        )
        for entry in status.get("sites") or ()
    ]
    if on_sites:
        parts.append(table(("SITE", "STATE", "REPLICAS", "REVISION", "SINCE", "MESSAGE"), on_sites))
    which = [
        (entry["name"], entry.get("variant") or NONE, entry["variantReason"])
        for entry in status.get("sites") or ()
        if entry.get("variantReason")
    ]
    if which:
        parts.append(table(("SITE", "VARIANT", "WHY"), which))
    decided = status.get("placement")
    if decided:
        parts.append(_placement(decided))
    if status.get("scaling"):
        parts.append(_scaling(status["scaling"], now))
    told = [(age(e["time"], now), e["type"], e["reason"], e["message"]) for e in events]
    if told:
        parts.append(table(("AGE", "EVENT", "REASON", "MESSAGE"), told))
    return "\n\n".join(parts)


def _placement(decided: Mapping[str, Any]) -> str:
    """Where the replicas are placed, what that costs, and why."""
    best = decided.get("bestPrice")
    price = f"{decided.get('price', 0):.4g} an hour" + ("" if best is None else f", the best known {best:.4g}")
    rows = [(row["name"], str(row.get("replicas", 0)), row.get("why", "")) for row in decided.get("sites") or ()]
    return f"Placement: {decided.get('reason') or NONE}; {price}\n" + table(("SITE", "REPLICAS", "WHY"), rows)


def _scaling(decided: Mapping[str, Any], now: datetime) -> str:
    """How many replicas the load asked for last, and what was decided before."""
    rows = [
        (
            row["name"],
            str(row.get("desired", 0)),
            row["reason"],
            age(row.get("since"), now),
            row.get("took") or NONE,
            row.get("message", ""),
        )
        for row in decided.get("sites") or ()
    ]
    parts = ["Scaling\n" + table(("SITE", "REPLICAS", "REASON", "SINCE", "READY AFTER", "WHY"), rows)]
    before = [
        (
            age(one["at"], now),
            one["site"],
            f"{one.get('before', 0)} -> {one.get('after', 0)}",
            one["reason"],
            one["message"],
        )
        for one in decided.get("decisions") or ()
    ]
    if before:
        parts.append(table(("AGE", "SITE", "REPLICAS", "REASON", "WHY"), before))
    return "\n\n".join(parts)


def decision(record: Mapping[str, Any]) -> str:
    """What the gateway decided about one request, in sentences."""
    images = ", ".join(f"{image['width']}x{image['height']} {image['format']}" for image in record.get("images") or ())
    lines = [
        f"Request {record['requestId']} at {record['arrivedAt']}: {record['outcome']}"
        + (f" with {record['status']}" if record.get("status") else ""),
        f"  asked for   {record['model'] or '(no model)'} with {images or 'no image'}, {record['bodyBytes']} bytes",
        f"  went to     {record['site'] or '(no site)'} {record['endpoint']} revision {record['revision'] or NONE}"
        + _side(record),
        f"  attempts    {record['attempts']}, in this order: {', '.join(record['attemptsPlanned']) or NONE}",
        f"  because     {record['reason'] or NONE}",
        *_variant(record),
        f"  resolution  {_resolution(record)}",
        f"  picked      after {_seconds(record['pickedS'])}",
        f"  first byte  after {_seconds(record['firstByteS'])}",
        f"  ended       after {_seconds(record['endedS'])}",
    ]
    if record.get("error"):
        lines.append(f"  error       {record['error']}")
    lines += [f"  note        {note}" for note in record.get("notes") or ()]
    scores = [tuple(_cell(value) for value in candidate.values()) for candidate in record.get("candidates") or ()]
    if scores:
        names = tuple(record["candidates"][0])
        lines += ["", table(tuple(_title(name) for name in names), scores)]
    return "\n".join(lines)


def _variant(record: Mapping[str, Any]) -> list[str]:
    """Which variant of the model it was, how good that is, and which endpoints were not good enough."""
    known = record.get("variantQuality")
    lines = [f"  variant     {record['variant']}" + (f": {known}" if known else "")] if record.get("variant") else []
    return lines + [
        f"  left out    {one['site']} {one['endpoint']} with variant {one['variant']}: {one['why']}"
        for one in record.get("leftOut") or ()
    ]


def _side(record: Mapping[str, Any]) -> str:
    """Which of two revisions had it, while two share the traffic."""
    copied = ", copied to the other revision" if record.get("mirrored") else ""
    return f" ({record['side']}{copied})" if record.get("side") else ""


def _resolution(record: Mapping[str, Any]) -> str:
    """Which size the model saw, why, and what was measured to be lost by it."""
    text = f"{record['shortSide'] or 'as sent'} ({record['resolutionReason'] or NONE})"
    if record.get("maxPixels"):
        text += f", at most {record['maxPixels']} pixels an image"
    if record.get("expectedQuality") is not None:
        loss = f", {record['expectedLoss']:.1%} below the best" if record.get("expectedLoss") is not None else ""
        text += f"; {record['expectedQuality']:.1%} of tasks right{loss} ({record.get('qualityBasis') or NONE})"
    return text


def _deployment(raw: JsonObject, now: datetime) -> tuple[str, ...]:
    status, meta, ready = raw.get("status") or {}, raw["metadata"], condition(raw, "Ready")
    return (
        f"{meta.get('namespace')}/{meta['name']}",
        ready.get("status", "Unknown"),
        status.get("replicasReady") or NONE,
        status.get("sitesReady") or NONE,
        raw["spec"]["model"]["name"],
        ready.get("reason", NONE),
        status.get("revision") or NONE,
        status.get("variants") or NONE,
        (status.get("ttft") or {}).get("p95") or NONE,
        age(meta.get("creationTimestamp"), now),
        ready.get("message", ""),
    )


def _site(raw: JsonObject, now: datetime) -> tuple[str, ...]:
    status = raw.get("status") or {}
    applications = status.get("applications")
    return (
        raw["metadata"]["name"],
        condition(raw, "Connected").get("status", "Unknown"),
        raw["spec"].get("tier", "cloud"),
        status.get("phase") or NONE,
        _free(status, now),
        f"{raw['spec'].get('price', 0):g}",
        NONE if applications is None else str(applications),
        age(status.get("since"), now),
        status.get("rayVersion") or NONE,
        ((raw["spec"].get("backend") or {}).get("ray") or {}).get("address", NONE),
        status.get("message", ""),
    )


def _free(status: Mapping[str, Any], now: datetime) -> str:
    """Free accelerators; with their age where nobody can look now."""
    late = f" ({age(status.get('capacityObservedAt'), now)} ago)" if is_old(status) else ""
    return f"{status['free']}{late}" if status.get("free") else NONE


def is_old(status: Mapping[str, Any]) -> bool:
    """Whether the capacity of a site could not be seen at the last attempt."""
    return status.get("phase") != "Connected" or bool(status.get("capacityMessage"))


def _title(name: str) -> str:
    """ "roundTripS" as "ROUND TRIP S"."""
    return re.sub(r"(?=[A-Z])", " ", name).upper()


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f} s"


def age(text: str | None, now: datetime) -> str:
    """How long ago, in the largest unit that has at least two."""
    if not text:
        return NONE
    seconds = max(0, int((now - datetime.fromisoformat(text)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
