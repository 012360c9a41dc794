"""Manifests of one machine as files in a folder: what the controller works on instead of an API server."""

import asyncio
import json
import os
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from autoglm_operator.local.manifest import SecretKey
from autoglm_operator.state import Event
from autoglm_operator.store import DEPLOYMENT, Conflict, JsonObject, Kind, ObjectKey

EVENTS_KEPT = 200


class FileStore:
    """A `Store` with one writer, this process. Every object is also a file, so that `autoglm status` can read it.

    Identities (uids) outlive a run, because applications at remote sites carry them; statuses do not, because what was
    observed by an earlier run says nothing about this one.
    """

    complete = True
    """All deployments of this place are in the manifest. Other operators may use the same sites; `identity` tells us apart."""

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity` names this place among all others, in every run."""
        self._folder = folder
        self._identity = identity
        self._uids = {key: raw["metadata"]["uid"] for key, raw in read_objects(folder).items()}
        self._objects: dict[ObjectKey, JsonObject] = {}
        self._secrets: dict[SecretKey, str] = {}
        self._events: deque[JsonObject] = deque(maxlen=EVENTS_KEPT)
        self._version = 0
        self._written = asyncio.Event()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.json"):
            path.unlink()

    def objects(self) -> dict[ObjectKey, JsonObject]:
        """All objects as they are now."""
        return dict(self._objects)

    def deployments(self) -> dict[ObjectKey, JsonObject]:
        """All deployments as they are now."""
        return {key: raw for key, raw in self._objects.items() if key.kind == DEPLOYMENT}

    def apply(self, objects: Mapping[ObjectKey, JsonObject], secrets: Mapping[SecretKey, str]) -> tuple[ObjectKey, ...]:
        """Make the stored objects those of a manifest, as `kubectl apply --prune` would; the keys that changed."""
        self._secrets = dict(secrets)
        changed = [key for key, raw in objects.items() if self._put(key, raw)]
        changed += [key for key in tuple(self._objects) if key not in objects and self._delete(key)]
        return tuple(changed)

    def delete_deployments(self) -> tuple[ObjectKey, ...]:
        """Ask for the deletion of every deployment; their keys."""
        return tuple(key for key in self.deployments() if self._delete(key))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; it is looked at after every write."""
        while not condition():
            self._written.clear()
            await self._written.wait()

    def _put(self, key: ObjectKey, raw: JsonObject) -> bool:
        before = self._objects.get(key)
        if before is not None and _same(before, raw):
            return False
        metadata = {**raw["metadata"], "uid": self._uids.setdefault(key, str(uuid.uuid4()))}
        metadata["creationTimestamp"] = _time(datetime.now(UTC))
        metadata["generation"] = 1
        after = {**raw, "metadata": metadata}
        if before is not None:
            old = before["metadata"]
            metadata |= {name: old[name] for name in ("creationTimestamp", "finalizers") if name in old}
            metadata["generation"] = old["generation"] + (before["spec"] != raw["spec"])
            after["status"] = before.get("status")
        self._write(key, after)
        return True

    def _delete(self, key: ObjectKey) -> bool:
        metadata = self._objects[key]["metadata"]
        if "deletionTimestamp" in metadata:
            return False
        if not metadata.get("finalizers"):
            self._remove(key)
            return True
        stamp = {"deletionTimestamp": _time(datetime.now(UTC)), "generation": metadata["generation"] + 1}
        self._write(key, {**self._objects[key], "metadata": {**metadata, **stamp}})
        return True

    async def identity(self) -> str:
        """The name that the state folder keeps."""
        return self._identity

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        """All objects of the kind."""
        return tuple(raw for key, raw in self._objects.items() if key.kind == kind)

    async def get(self, key: ObjectKey) -> JsonObject | None:
        """The object as it is now."""
        return self._objects.get(key)

    async def patch_status(self, seen: JsonObject, kind: Kind, status: JsonObject) -> None:
        """Replace the status."""
        key = ObjectKey.of(kind, seen)
        self._write(key, {**self._current(seen, key), "status": status})

    async def set_finalizers(self, seen: JsonObject, kind: Kind, finalizers: tuple[str, ...]) -> JsonObject:
        """Replace the finalizers; a deleted object goes away with its last one."""
        key = ObjectKey.of(kind, seen)
        raw = self._current(seen, key)
        if not finalizers and "deletionTimestamp" in raw["metadata"]:
            self._remove(key)
            return raw
        return self._write(key, {**raw, "metadata": {**raw["metadata"], "finalizers": list(finalizers)}})

    async def record_event(self, about: JsonObject, kind: Kind, event: Event, now: datetime) -> None:
        """Keep it for `autoglm explain`."""
        key = ObjectKey.of(kind, about)
        record = {"about": str(key), "type": event.type, "reason": event.reason, "message": event.message}
        self._events.append({**record, "time": _time(now)})
        write_atomically(self._folder.parent / "events.json", json.dumps(list(self._events), ensure_ascii=False))

    async def secret(self, namespace: str, name: str, key: str) -> str | None:
        """One value of one Secret of the manifest."""
        return self._secrets.get((namespace, name, key))

    def _current(self, seen: JsonObject, key: ObjectKey) -> JsonObject:
        raw = self._objects.get(key)
        if raw is None or raw["metadata"]["resourceVersion"] != seen["metadata"]["resourceVersion"]:
            raise Conflict(f"{key} has changed")
        return raw

    def _write(self, key: ObjectKey, raw: JsonObject) -> JsonObject:
        self._version += 1
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self._version)}}
        self._objects[key] = raw
        self._written.set()
        write_atomically(self._path(key), json.dumps(raw, ensure_ascii=False, indent=1))
        return raw

    def _remove(self, key: ObjectKey) -> None:
        del self._objects[key]
        self._written.set()
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: ObjectKey) -> Path:
        kind = "deployment" if key.kind == DEPLOYMENT else "site"
        return self._folder / ".".join(filter(None, [kind, key.namespace, key.name, "json"]))


def read_objects(folder: Path) -> dict[ObjectKey, JsonObject]:
    """The objects in the folder of a store, by key; files that cannot be read are passed over."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            raw = json.loads(path.read_text())
            found[ObjectKey.of(raw["kind"], raw)] = raw
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old or the new text, never a part. Only the user may read it."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _same(before: JsonObject, after: JsonObject) -> bool:
    if "deletionTimestamp" in before["metadata"]:
        return False
    given = ("labels", "annotations")
    return bool(before.get("spec") == after.get("spec")) and all(
        (before["metadata"].get(name) or {}) == (after["metadata"].get(name) or {}) for name in given
    )


def _time(value: datetime) -> str:
    return value.isoformat(timespec="seconds").replace("+00:00", "Z")
