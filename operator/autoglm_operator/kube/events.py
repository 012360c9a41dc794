"""Kubernetes Events: what happened to an object, told once and then counted."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from autoglm_operator.api import GROUP, VERSION
from autoglm_operator.kube.api import FIELD_MANAGER, MERGE_PATCH, Call, KubeApi
from autoglm_operator.state import Event
from autoglm_operator.store import Conflict, JsonObject, Kind, NotFound, StoreError

EVENT_QUIET_S = 60.0
EVENTS_REMEMBERED = 1000


@dataclass
class _Told:
    """One event that was posted: how often it happened and when it was last written."""

    count: int
    written_at: datetime


class Events:
    """Writes core/v1 Events, which `kubectl describe` shows below the object."""

    def __init__(self, api: KubeApi, reporter: str) -> None:
        """`reporter` names this process."""
        self._api = api
        self._reporter = reporter
        self._told: OrderedDict[tuple[str, str], _Told] = OrderedDict()

    async def record(self, about: JsonObject, kind: Kind, event: Event, now: datetime) -> None:
        """Writes a core/v1 Event, or raises the count of the same one. At most once a minute for each.

        Events are for people: when one cannot be written, nothing else may fail for it.
        """
        name = _event_name(about, event)
        namespace = about["metadata"].get("namespace") or "default"
        told = self._told.get((namespace, name))
        if told is not None:
            told.count += 1
            if (now - told.written_at).total_seconds() < EVENT_QUIET_S:
                return
        try:
            count = await self._write_event(_event(about, kind, event, now, name, self._reporter), told)
        except StoreError:
            return
        self._told[(namespace, name)] = _Told(count, now)
        while len(self._told) > EVENTS_REMEMBERED:
            self._told.popitem(last=False)

    async def _write_event(self, body: JsonObject, told: _Told | None) -> int:
        path = f"/api/v1/namespaces/{body['metadata']['namespace']}/events"
        name, stamp = body["metadata"]["name"], body["lastTimestamp"]
        if told is not None:
            try:
                patch = {"count": told.count, "lastTimestamp": stamp}
                await self._api.request(Call("PATCH", f"{path}/{name}", (), patch, MERGE_PATCH))
            except NotFound:
                pass  # it outlived its hour: write it anew
            else:
                return told.count
        try:
            await self._api.request(Call("POST", path, (("fieldManager", FIELD_MANAGER),), body))
        except Conflict:
            # Another process, or this one before a restart, has told the same.
            patch = {"lastTimestamp": stamp}
            await self._api.request(Call("PATCH", f"{path}/{name}", (), patch, MERGE_PATCH))
        return 1


def _event_name(about: JsonObject, event: Event) -> str:
    parts = (about["metadata"].get("uid", ""), event.type, event.reason, event.message)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{about['metadata']['name'][:200]}.{digest}"


def _event(about: JsonObject, kind: Kind, event: Event, now: datetime, name: str, reporter: str) -> JsonObject:
    metadata = about["metadata"]
    namespace = metadata.get("namespace") or "default"
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    reference = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    if metadata.get("namespace"):
        reference["namespace"] = metadata["namespace"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": reference,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": "serving.autoglm.dev/operator",
        "reportingInstance": reporter,
    }
