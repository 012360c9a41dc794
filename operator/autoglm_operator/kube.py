"""The Kubernetes API server: `KubeStore` (manifests, status, events, Secrets by name) and `KubeLease`.

The official client is synchronous; its calls run in a small pool of threads, each with its own timeouts. Every write
asks the fence in the same thread, right before the bytes leave. Foreign errors become `StoreError` here and nowhere else.
"""

import asyncio
import base64
import binascii
import functools
import hashlib
import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import kubernetes.client
import kubernetes.config
import urllib3.exceptions

from autoglm_operator.api import GROUP, VERSION
from autoglm_operator.state import Event
from autoglm_operator.store import (
    DEPLOYMENT,
    Conflict,
    Fence,
    JsonObject,
    Kind,
    NotFound,
    NotLeading,
    ObjectKey,
    StoreError,
)

FIELD_MANAGER = "autoglm-operator"
PLURALS: dict[Kind, str] = {"AutoGLMDeployment": "autoglmdeployments", "AutoGLMSite": "autoglmsites"}

RETRIED = frozenset({429, 500, 502, 503, 504})
PAGE = 500
EVENT_QUIET_S = 60.0
EVENTS_REMEMBERED = 1000

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Patience:
    """How long one call may take (seconds for each attempt), and how often it is tried."""

    connect_s: float = 3.0
    read_s: float = 10.0
    attempts: int = 4


class Forbidden(StoreError):
    """The service account may not do this."""


@dataclass(frozen=True)
class Call:
    """One request to the API server."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content_type: str = JSON

    @property
    def writes(self) -> bool:
        """Whether the call may change something."""
        return self.method != "GET"


def load_configuration() -> "kubernetes.client.Configuration":
    """The service account of the pod we run in, else KUBECONFIG, else ~/.kube/config."""
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)
    except kubernetes.config.ConfigException:
        kubernetes.config.load_kube_config(client_configuration=configuration)
    configuration.retries = False
    return configuration


class KubeApi:
    """Calls the API server from threads. `on_call` hears of every attempt: (method, status or error name, seconds)."""

    def __init__(
        self,
        configuration: "kubernetes.client.Configuration",
        fence: Fence | None = None,
        threads: int = 8,
        patience: Patience | None = None,
        on_call: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """Without a fence every write is allowed: right for the lease itself and for nothing else."""
        configuration.connection_pool_maxsize = threads
        self._client = kubernetes.client.ApiClient(configuration)
        self._fence = fence
        self._patience = patience or Patience()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kube")
        self._closing = threading.Event()
        self._on_call = on_call

    async def request(self, call: Call) -> JsonObject:
        """The JSON answer. Raises a `StoreError` after a few attempts at most."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, functools.partial(self._request, call))

    def close(self) -> None:
        """Ends waiting threads. Calls under way end by their own timeouts."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, call: Call) -> JsonObject:
        for attempt in range(1, self._patience.attempts + 1):
            if call.writes and self._fence is not None and self._fence.epoch() is None:
                raise NotLeading(f"not the leader: {call.method} {call.path} was not sent")
            started = time.monotonic()
            try:
                status, headers, data = self._send(call)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                self._on_call(call.method, type(error).__name__, time.monotonic() - started)
                problem = StoreError(f"the API server cannot be reached: {type(error).__name__}")
                delay = _backoff(attempt)
            else:
                self._on_call(call.method, str(status), time.monotonic() - started)
                if 200 <= status < 300:
                    return _decode(data)
                problem = _problem(call, status, data)
                if status not in RETRIED:
                    raise problem
                delay = _retry_after(headers) or _backoff(attempt)
            if attempt == self._patience.attempts or self._closing.wait(delay):
                raise problem
        raise AssertionError("the last attempt returns or raises")

    def _send(self, call: Call) -> tuple[int, Any, bytes]:
        headers = {"Accept": JSON}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        method, url, header_params, body, _ = self._client.param_serialize(
            call.method,
            call.path,
            query_params=list(call.query),
            header_params=headers,
            body=call.body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(
            method,
            url,
            header_params=header_params,
            body=body,
            _request_timeout=(self._patience.connect_s, self._patience.read_s),
        )
        return response.status, response.headers, response.read()


def _backoff(attempt: int) -> float:
    return float(0.2 * 2.0**attempt * random.uniform(0.8, 1.2))


def _retry_after(headers: Any) -> float | None:
    try:
        return min(float(headers.get("Retry-After")), 10.0)
    except (TypeError, ValueError):
        return None


def _decode(data: bytes) -> JsonObject:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreError("the API server answered with something that is not JSON") from error
    if not isinstance(value, dict):
        raise StoreError("the API server answered with JSON that is not an object")
    return value


def _problem(call: Call, status: int, data: bytes) -> StoreError:
    try:
        message = str(_decode(data).get("message") or f"HTTP {status}")
    except StoreError:
        message = f"HTTP {status}"
    text = f"{call.method} {call.path}: {message}"
    kinds: dict[int, type[StoreError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict}
    return kinds.get(status, StoreError)(text)


def _collection(kind: Kind, namespace: str) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}"


def _path(key: ObjectKey) -> str:
    return f"{_collection(key.kind, key.namespace)}/{key.name}"


@dataclass
class _Told:
    """One event that was posted: how often it happened and when it was last written."""

    count: int
    written_at: datetime


@dataclass
class KubeStore:
    """The `Store` of an operator in a cluster. `namespaces` limits the deployments; empty means all namespaces."""

    api: KubeApi
    namespaces: tuple[str, ...] = ()
    reporter: str = FIELD_MANAGER
    _told: "OrderedDict[tuple[str, str], _Told]" = field(default_factory=OrderedDict, init=False)

    @property
    def complete(self) -> bool:
        """Only an operator that looks after all namespaces knows all deployments."""
        return not self.namespaces

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        """All objects of a kind, page by page, straight from the API server."""
        scopes = self.namespaces if kind == DEPLOYMENT and self.namespaces else ("",)
        found: list[JsonObject] = []
        for namespace in scopes:
            found.extend(await self._pages(_collection(kind, namespace)))
        return tuple(found)

    async def _pages(self, path: str) -> list[JsonObject]:
        items: list[JsonObject] = []
        token = ""
        while True:
            query = (("limit", str(PAGE)),) + ((("continue", token),) if token else ())
            page = await self.api.request(Call("GET", path, query))
            items.extend(page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

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
            count = await self._write_event(_event(about, kind, event, now, name, self.reporter), told)
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
                await self.api.request(Call("PATCH", f"{path}/{name}", (), patch, MERGE_PATCH))
            except NotFound:
                pass  # it outlived its hour: write it anew
            else:
                return told.count
        try:
            await self.api.request(Call("POST", path, (("fieldManager", FIELD_MANAGER),), body))
        except Conflict:
            # Another process, or this one before a restart, has told the same.
            patch = {"lastTimestamp": stamp}
            await self.api.request(Call("PATCH", f"{path}/{name}", (), patch, MERGE_PATCH))
        return 1


def _identity(seen: JsonObject) -> JsonObject:
    """What pins a write to the object that was read: a changed or newly made one refuses it."""
    metadata = seen["metadata"]
    wanted = ("name", "namespace", "uid", "resourceVersion")
    return {name: metadata[name] for name in wanted if metadata.get(name)}


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


@dataclass(frozen=True)
class KubeLease:
    """One coordination.k8s.io/v1 Lease. Give it a `KubeApi` of its own, so that slow calls cannot starve a renewal."""

    api: KubeApi
    namespace: str
    name: str

    @property
    def _collection(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    async def read(self) -> JsonObject | None:
        """The Lease, or None."""
        try:
            return await self.api.request(Call("GET", f"{self._collection}/{self.name}"))
        except NotFound:
            return None

    async def create(self, body: JsonObject) -> JsonObject:
        """Creates it; `Conflict` when another process was faster."""
        return await self.api.request(Call("POST", self._collection, (), body))

    async def replace(self, body: JsonObject) -> JsonObject:
        """Replaces it; `Conflict` when it changed since it was read."""
        return await self.api.request(Call("PUT", f"{self._collection}/{self.name}", (), body))


async def kinds_are_served(api: KubeApi) -> bool:
    """Whether the API server knows both kinds, that is, whether the CRDs are installed."""
    try:
        served = await api.request(Call("GET", f"/apis/{GROUP}/{VERSION}"))
    except NotFound:
        return False
    names = {resource.get("name") for resource in served.get("resources") or ()}
    return names.issuperset(PLURALS.values())
