"""Deployments, sites and named Secrets of one API server: the `Store` of an operator in a cluster."""

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from autoglm_operator.api import GROUP, VERSION
from autoglm_operator.kube.api import APPLY_PATCH, FIELD_MANAGER, MERGE_PATCH, Call, Forbidden, KubeApi
from autoglm_operator.kube.events import Events
from autoglm_operator.kube.pages import pages
from autoglm_operator.state import Event
from autoglm_operator.store import DEPLOYMENT, JsonObject, Kind, NotFound, ObjectKey, StoreError

PLURALS: dict[Kind, str] = {"AutoGLMDeployment": "autoglmdeployments", "AutoGLMSite": "autoglmsites"}


@dataclass
class KubeStore:
    """The `Store` of an operator in a cluster. `namespaces` limits the deployments; empty means all namespaces."""

    api: KubeApi
    namespaces: tuple[str, ...] = ()
    reporter: str = FIELD_MANAGER
    _events: Events = field(init=False)

    def __post_init__(self) -> None:
        """Events remember what they told."""
        self._events = Events(self.api, self.reporter)

    @property
    def complete(self) -> bool:
        """Only an operator that looks after all namespaces knows all deployments."""
        return not self.namespaces

    async def identity(self) -> str | None:
        """The uid of the namespace kube-system, by which clusters are commonly told apart."""
        try:
            found = await self.api.request(Call("GET", "/api/v1/namespaces/kube-system"))
        except (NotFound, Forbidden):
            return None
        return str(found["metadata"]["uid"])

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        """All objects of a kind, page by page, straight from the API server."""
        scopes = self.namespaces if kind == DEPLOYMENT and self.namespaces else ("",)
        found: list[JsonObject] = []
        for namespace in scopes:
            found.extend(await pages(self.api, _collection(kind, namespace)))
        return tuple(found)

    async def get(self, key: ObjectKey) -> JsonObject | None:
        """One object as it is now."""
        try:
            return await self.api.request(Call("GET", _path(key)))
        except NotFound:
            return None

    async def patch_status(self, seen: JsonObject, kind: Kind, status: JsonObject) -> None:
        """Server-side apply of the whole status: what is not in it any more goes away. Other fields are not touched."""
        key = ObjectKey.of(kind, seen)
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": _identity(seen),
            "status": status,
        }
        query = (("fieldManager", FIELD_MANAGER), ("force", "true"))
        await self.api.request(Call("PATCH", f"{_path(key)}/status", query, body, APPLY_PATCH))

    async def set_finalizers(self, seen: JsonObject, kind: Kind, finalizers: tuple[str, ...]) -> JsonObject:
        """Replaces the list; refused by the API server if the object changed since it was read."""
        metadata = {
            "finalizers": list(finalizers),
            "resourceVersion": seen["metadata"]["resourceVersion"],
            "uid": seen["metadata"]["uid"],
        }
        call = Call(
            "PATCH",
            _path(ObjectKey.of(kind, seen)),
            (("fieldManager", FIELD_MANAGER),),
            {"metadata": metadata},
            MERGE_PATCH,
        )
        return await self.api.request(call)

    async def secret(self, namespace: str, name: str, key: str) -> str | None:
        """One value of one Secret, read when it is needed and not kept here."""
        try:
            found = await self.api.request(Call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}"))
        except NotFound:
            return None
        encoded = (found.get("data") or {}).get(key)
        if encoded is None:
            return None
        try:
            return base64.b64decode(encoded, validate=True).decode().strip()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise StoreError(f"key {key} of Secret {namespace}/{name} is not UTF-8 text") from error

    async def record_event(self, about: JsonObject, kind: Kind, event: Event, now: datetime) -> None:
        """A core/v1 Event, at most once a minute for the same happening."""
        await self._events.record(about, kind, event, now)


def _collection(kind: Kind, namespace: str) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}"


def _path(key: ObjectKey) -> str:
    return f"{_collection(key.kind, key.namespace)}/{key.name}"


def _identity(seen: JsonObject) -> JsonObject:
    """What pins a write to the object that was read: a changed or newly made one refuses it."""
    metadata = seen["metadata"]
    wanted = ("name", "namespace", "uid", "resourceVersion")
    return {name: metadata[name] for name in wanted if metadata.get(name)}


async def kinds_are_served(api: KubeApi) -> bool:
    """Whether the API server knows both kinds, that is, whether the CRDs are installed."""
    try:
        served = await api.request(Call("GET", f"/apis/{GROUP}/{VERSION}"))
    except NotFound:
        return False
    names = {resource.get("name") for resource in served.get("resources") or ()}
    return names.issuperset(PLURALS.values())
