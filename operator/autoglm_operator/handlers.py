"""kopf watches, and wakes the controller: nothing else happens here.

kopf writes nothing to the cluster: event handlers keep no progress and need no finalizer, its own Events are off, and
its peering is off (the Lease decides who leads). A watch that fails is tried again for ever, with pauses that stop growing.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import kopf
from typing_extensions import override

from autoglm_operator.api import GROUP, VERSION
from autoglm_operator.kube import PLURALS
from autoglm_operator.store import DEPLOYMENT, SITE, ObjectKey

Wake = Callable[[ObjectKey, int | None], None]
"""Told the object that may have changed, and its generation."""

CONNECT_S = 10.0
REQUEST_S = 60.0
SILENCE_S = 70.0
"""The API server sends a bookmark every minute; a watch that is silent for longer is dead."""


class GrowingPauses:
    """1, 2, 4, 8, 8, 8, ... seconds without an end. kopf iterates over it anew for each request."""

    def __iter__(self) -> Iterator[float]:
        """The pauses of one request."""
        pause = 1.0
        while True:
            yield pause
            pause = min(2 * pause, 8.0)


class NoDiffs(kopf.DiffBaseStorage):
    """Nothing here asks what of an object changed: kopf would copy each object of each event to find out."""

    @override
    def build(self, *, body: kopf.Body, extra_fields: Iterable[kopf.FieldSpec] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    @override
    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return


def registry(wake: Wake) -> kopf.OperatorRegistry:
    """Handlers that wake the controller on every event of both kinds: created, changed, deleted, and found at the start."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(kopf.login_via_client)

    @kopf.on.event(GROUP, VERSION, PLURALS[DEPLOYMENT], registry=handlers)
    async def deployment_changed(namespace: str | None, name: str | None, meta: kopf.Meta, **_: Any) -> None:
        wake(ObjectKey(DEPLOYMENT, namespace or "", name or ""), meta.get("generation"))

    @kopf.on.event(GROUP, VERSION, PLURALS[SITE], registry=handlers)
    async def site_changed(name: str | None, meta: kopf.Meta, **_: Any) -> None:
        wake(ObjectKey(SITE, "", name or ""), meta.get("generation"))

    return handlers


def settings() -> kopf.OperatorSettings:
    """kopf as a watcher that writes nothing and needs no rights beyond list and watch on our kinds."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.watching.connect_timeout = CONNECT_S
    chosen.watching.inactivity_timeout = SILENCE_S
    chosen.networking.connect_timeout = CONNECT_S
    chosen.networking.request_timeout = REQUEST_S
    chosen.networking.error_backoffs = GrowingPauses()
    chosen.process.ultimate_exiting_timeout = None
    chosen.persistence.diffbase_storage = NoDiffs()
    return chosen


async def watch(wake: Wake, namespaces: tuple[str, ...], ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Watches until `stop` is set. `ready` is set when the handlers are in place."""
    await kopf.operator(
        registry=registry(wake),
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        ready_flag=ready,
        stop_flag=stop,
    )
