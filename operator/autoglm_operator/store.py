"""What the controller needs from the place where manifests live: the `Store` protocol.

Two implementations exist: `kube.KubeStore` (an API server) and `local.store.FileStore` (the manifest given to
`autoglm up`). Objects are plain JSON dictionaries, because a stored object may be invalid and must then get a
condition instead of an exception on the way in.

Watching is not part of it: whoever notices a change calls `Controller.wake(key)`; the controller then reads the
object again. A wake-up that carries no data can be repeated, merged or late without harm.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from typing_extensions import override

from autoglm_operator.state import Event

JsonObject = dict[str, Any]
Kind = Literal["AutoGLMDeployment", "AutoGLMSite"]
DEPLOYMENT: Kind = "AutoGLMDeployment"
SITE: Kind = "AutoGLMSite"


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Names one object. `namespace` is empty for sites, which are cluster-scoped."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def of(cls, kind: Kind, raw: JsonObject) -> "ObjectKey":
        """The key of a JSON object of this kind."""
        metadata = raw.get("metadata") or {}
        return cls(kind, metadata.get("namespace") or "", metadata.get("name") or "")

    @override
    def __str__(self) -> str:
        """For logs and messages."""
        path = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {path}"


class StoreError(Exception):
    """The store could not do it now; the caller tries again later. The message holds no secret."""


class Conflict(StoreError):
    """The object changed after it was read: read it again, decide again."""


class NotFound(StoreError):
    """There is no such object (any more)."""


class NotLeading(StoreError):
    """This process does not hold the lease (any more), so nothing was written."""


class Store(Protocol):
    """Reads and writes manifests. Every write goes through the leader check of the implementation.

    All methods may raise `StoreError`; writes may raise `Conflict` when the object is no longer as `seen`, and `NotFound`
    when it is gone.
    """

    @property
    def complete(self) -> bool:
        """Whether `list_all` gives every deployment there is. Only then may an application without one be removed."""

    async def identity(self) -> str | None:
        """Names this place among all others, for ever: what is written elsewhere carries it. None if it may not be read."""

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        """All objects of the kind that this operator looks after, as they are now."""

    async def get(self, key: ObjectKey) -> JsonObject | None:
        """The object as it is now, or None when there is none."""

    async def patch_status(self, seen: JsonObject, kind: Kind, status: JsonObject) -> None:
        """Replaces the status of the object. The caller skips it when nothing would change."""

    async def set_finalizers(self, seen: JsonObject, kind: Kind, finalizers: tuple[str, ...]) -> JsonObject:
        """Replaces the finalizers and returns the object after it; guarded by the resourceVersion of `seen`."""

    async def record_event(self, about: JsonObject, kind: Kind, event: Event, now: datetime) -> None:
        """Tells the user of one happening. Repeated happenings are counted, not repeated. Best effort."""

    async def secret(self, namespace: str, name: str, key: str) -> str | None:
        """One value of one named Secret, or None when the Secret or the key does not exist. Never logged."""


class Fence(Protocol):
    """Says whether this process may write now. Checked before every write outside the process."""

    def epoch(self) -> int | None:
        """The number of this leadership, or None when it is not held with enough time left for one write."""


@dataclass(frozen=True)
class AlwaysLeading:
    """The fence of a process that is alone by construction, such as `autoglm up`."""

    number: int = 1

    def epoch(self) -> int | None:
        """Always held."""
        return self.number
