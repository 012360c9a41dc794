"""What the controller remembers of the stored objects: each one parsed, or told apart as one that cannot be used."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from autoglm_operator.api import (
    AutoGLMDeployment,
    AutoGLMSite,
    InvalidResource,
    ObjectMeta,
    Problem,
    parse_deployment,
    parse_deployment_status,
    parse_metadata,
    parse_site,
    parse_site_status,
)
from autoglm_operator.state import InvalidDeployment, InvalidSite
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, Kind, ObjectKey

Deployment = AutoGLMDeployment | InvalidDeployment
Site = AutoGLMSite | InvalidSite

UNUSABLE_FOR_S = 30.0
"""How long what cannot be used is remembered as such without another look."""


def read_deployment(raw: JsonObject) -> Deployment:
    """A deployment, whatever is stored."""
    try:
        return parse_deployment(raw)
    except InvalidResource as invalid:
        return InvalidDeployment(_metadata(raw), invalid.problems, parse_deployment_status(raw))


def read_site(raw: JsonObject) -> Site:
    """A site, whatever is stored."""
    try:
        return parse_site(raw)
    except InvalidResource as invalid:
        return InvalidSite(_metadata(raw), invalid.problems, parse_site_status(raw))


def problems_of(item: Deployment | Site) -> tuple[Problem, ...]:
    """What is wrong with the object; nothing for one that can be used."""
    return item.problems if isinstance(item, InvalidDeployment | InvalidSite) else ()


def _metadata(raw: JsonObject) -> ObjectMeta:
    try:
        return parse_metadata(raw)
    except InvalidResource:
        # Only what is needed to write a status and to let the object go.
        stored = raw.get("metadata") or {}
        return ObjectMeta.model_construct(
            name=str(stored.get("name") or ""),
            namespace=stored.get("namespace"),
            uid=str(stored.get("uid") or ""),
            generation=int(stored.get("generation") or 0),
            finalizers=tuple(stored.get("finalizers") or ()),
        )


@dataclass
class Objects:
    """All objects, by key, as they were last read or written. `stale` are those that may be different by now."""

    deployments: dict[ObjectKey, Deployment] = field(default_factory=dict)
    sites: dict[ObjectKey, Site] = field(default_factory=dict)
    stale: set[ObjectKey] = field(default_factory=set)
    _raw: dict[ObjectKey, JsonObject] = field(default_factory=dict)
    _read_anew: dict[ObjectKey, float] = field(default_factory=dict)
    _by_model: dict[str, set[ObjectKey]] = field(default_factory=dict)

    def current(self, key: ObjectKey, now: float) -> JsonObject | None:
        """The object as stored, if nothing says that it may have changed. `now` is a time in seconds that only grows.

        What cannot be used may become usable while nobody touches it: another definition lets other fields through. It is
        read anew now and then, however often a site or a gateway wakes it.
        """
        item = self.deployments.get(key) if key.kind == DEPLOYMENT else self.sites.get(key)
        if key in self.stale:
            return None
        if item is not None and problems_of(item) and now - self._read_anew.get(key, float("-inf")) >= UNUSABLE_FOR_S:
            self._read_anew[key] = now
            return None
        return self._raw.get(key)

    def generation(self, key: ObjectKey) -> int | None:
        """The generation that was last read; None for an object that is not known."""
        raw = self._raw.get(key)
        return None if raw is None else raw["metadata"].get("generation")

    def differing(self, kind: Kind, listed: Iterable[JsonObject]) -> set[ObjectKey]:
        """What is not remembered as it is listed, and what is remembered and not listed: events about it were lost, or another
        definition lets other fields through, which changes no version and is told by no event."""
        there = {ObjectKey.of(kind, raw): _reading(raw) for raw in listed}
        known = {key: _reading(raw) for key, raw in self._raw.items() if key.kind == kind}
        return {key for key in there.keys() | known.keys() if there.get(key) != known.get(key)}

    def put_deployment(self, raw: JsonObject) -> tuple[Deployment | None, Deployment]:
        """Remembers it; what it was before, and what it is."""
        key = ObjectKey.of(DEPLOYMENT, raw)
        before = self.deployments.get(key)
        after = before if before is not None and self._raw.get(key) is raw else read_deployment(raw)
        self._unname(key, before)
        if isinstance(after, AutoGLMDeployment):
            self._by_model.setdefault(after.spec.model.name, set()).add(key)
        self.deployments[key], self._raw[key] = after, raw
        return before, after

    def put_site(self, raw: JsonObject) -> tuple[Site | None, Site]:
        """Remembers it; what it was before, and what it is."""
        key = ObjectKey.of(SITE, raw)
        before = self.sites.get(key)
        after = before if before is not None and self._raw.get(key) is raw else read_site(raw)
        self.sites[key], self._raw[key] = after, raw
        return before, after

    def forget_deployment(self, key: ObjectKey) -> Deployment | None:
        """It is gone; what it was."""
        gone = self.deployments.pop(key, None)
        self._unname(key, gone)
        self._drop(key)
        return gone

    def forget_site(self, key: ObjectKey) -> Site | None:
        """It is gone; what it was."""
        self._drop(key)
        return self.sites.pop(key, None)

    def rivals(self, *items: Deployment | None) -> set[ObjectKey]:
        """Deployments that use a model name of one of these: which of them has the name may have changed."""
        names = {item.spec.model.name for item in items if isinstance(item, AutoGLMDeployment)}
        return {key for name in names for key in self._by_model.get(name, ())}

    def concerned(self, names: Collection[str]) -> list[ObjectKey]:
        """Deployments that use one of these sites, may use it, or have used it."""
        return [key for key, item in self.deployments.items() if _concerns(item, names)]

    def _unname(self, key: ObjectKey, item: Deployment | None) -> None:
        if isinstance(item, AutoGLMDeployment):
            known = self._by_model.get(item.spec.model.name, set())
            known.discard(key)
            if not known:
                self._by_model.pop(item.spec.model.name, None)

    def _drop(self, key: ObjectKey) -> None:
        self._raw.pop(key, None)
        self.stale.discard(key)
        self._read_anew.pop(key, None)


def _reading(raw: JsonObject) -> tuple[object, object]:
    """What tells two readings of an object apart."""
    return raw["metadata"].get("resourceVersion"), raw.get("spec")


def _concerns(item: Deployment, names: Collection[str]) -> bool:
    if isinstance(item, InvalidDeployment) or item.spec.sites.names is None:
        return True
    rows = item.status.sites if item.status else ()
    return any(name in names for name in item.spec.sites.names) or any(row.name in names for row in rows)
