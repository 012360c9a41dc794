"""One poll loop for each site, shared by all deployments. Holds what is known about the sites and writes to them."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from autoglm_operator.api import AutoGLMSite
from autoglm_operator.backend import Backend, ClusterView, SiteFailure
from autoglm_operator.controller.backends import Backends
from autoglm_operator.controller.parts import Parts
from autoglm_operator.state import ApplicationChange, ApplicationView, DeleteApplication, SiteError, SiteView
from autoglm_operator.store import NotLeading
from autoglm_operator.telemetry import log
from autoglm_operator.views import phase

LONGEST_BACKOFF_S = 60.0

OnChange = Callable[[SiteView | None, SiteView], None]


@dataclass
class _Watched:
    """One site under observation."""

    view: SiteView
    backend: Backend
    task: "asyncio.Task[None] | None" = None
    poke: asyncio.Event = field(default_factory=asyncio.Event)
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    removals: int = 0
    """How many removals were begun or ended so far."""
    removing: int = 0
    """How many are under way."""


class Sites:
    """Observes every site that was given to `watch` until `forget` or `close`."""

    def __init__(self, parts: Parts, on_change: OnChange) -> None:
        """`on_change` hears of every poll: the view before (None at the first) and after."""
        self._backends = Backends(parts)
        self._on_change = on_change
        self._pace = parts.pace
        self._now = parts.now
        self._watched: dict[str, _Watched] = {}

    def views(self) -> tuple[SiteView, ...]:
        """What is known, sorted by name."""
        return tuple(self._watched[name].view for name in sorted(self._watched))

    def view(self, name: str) -> SiteView | None:
        """What is known about one site."""
        watched = self._watched.get(name)
        return watched.view if watched else None

    async def watch(self, site: AutoGLMSite) -> None:
        """Begins to observe a site, or takes its new spec; what was seen under another address is forgotten."""
        watched = self._watched.get(site.metadata.name)
        if watched is not None and watched.view.site.spec.backend == site.spec.backend:
            watched.view = replace(watched.view, site=site)
            return
        await self.forget(site.metadata.name)
        watched = _Watched(SiteView(site), self._backends.make(site))
        self._watched[site.metadata.name] = watched
        watched.task = asyncio.create_task(self._observe(watched), name=f"site {site.metadata.name}")

    async def forget(self, name: str) -> None:
        """Ends the observation of a site."""
        watched = self._watched.pop(name, None)
        if watched is None:
            return
        if watched.task is not None:
            watched.task.cancel()
            await asyncio.wait({watched.task})
        await watched.backend.close()

    async def close(self) -> None:
        """Ends all observation."""
        for name in tuple(self._watched):
            await self.forget(name)

    async def first_look(self) -> None:
        """Returns when every site was tried once. Bounded by the timeouts of the clients."""
        for watched in tuple(self._watched.values()):
            await watched.seen.wait()

    async def apply(self, name: str, changes: Sequence[ApplicationChange]) -> None:
        """Makes changes on one site; `SiteFailure` says why not."""
        watched = self._watched.get(name)
        if watched is None:
            raise SiteFailure("SiteNotFound", f"site {name} is not there any more")
        going = frozenset(change.name for change in changes if isinstance(change, DeleteApplication))
        _removal(watched, going, begun=True)
        try:
            wrote = await watched.backend.apply(changes)
        finally:
            _removal(watched, going, begun=False)
            watched.poke.set()
        if wrote:
            log.info("wrote applications", extra={"fields": {"site": name, "applications": [c.name for c in changes]}})

    async def _observe(self, watched: _Watched) -> None:
        while True:
            watched.poke.clear()
            before, removals = watched.view, None if watched.removing else watched.removals
            try:
                cluster = await watched.backend.observe()
                going = frozenset() if removals == watched.removals else watched.view.going
                watched.view = replace(_seen(watched.view, cluster, self._now()), going=going)
            except SiteFailure as failure:
                watched.view = _failed(watched.view, failure.error, self._now())
            except NotLeading:
                return
            except Exception as error:  # noqa: BLE001 - one site's trouble must not end the operator
                log.exception("a site could not be observed", extra={"fields": {"site": before.name}})
                watched.view = _failed(watched.view, SiteError("InternalError", type(error).__name__), self._now())
            first = not watched.seen.is_set()
            watched.seen.set()
            self._on_change(None if first else before, watched.view)
            try:
                async with asyncio.timeout(self._pause(watched.view)):
                    await watched.poke.wait()
            except TimeoutError:
                continue

    def _pause(self, view: SiteView) -> float:
        if view.error is not None:
            longest = min(self._pace.busy_poll_s * 2.0 ** min(view.failures - 1, 16), LONGEST_BACKOFF_S)
            return float(longest * random.uniform(0.8, 1.0))
        return self._pace.busy_poll_s if any(map(_progresses, view.applications or ())) else self._pace.idle_poll_s


def _removal(watched: _Watched, names: frozenset[str], *, begun: bool) -> None:
    """What is read while applications go, or was asked for before, may show them still."""
    if names:
        watched.removals += 1
        watched.removing += 1 if begun else -1
        watched.view = replace(watched.view, going=watched.view.going | names)


def _seen(view: SiteView, cluster: ClusterView, now: datetime) -> SiteView:
    """A site that told no capacity this time keeps the last one, with its age."""
    told = cluster.capacity is not None
    return SiteView(
        view.site,
        applications=cluster.applications,
        observed_at=now,
        ray_version=cluster.ray_version or view.ray_version,
        capacity=cluster.capacity if told else view.capacity,
        capacity_at=now if told else view.capacity_at,
        capacity_unknown=cluster.capacity_unknown,
    )


def _failed(view: SiteView, error: SiteError, now: datetime) -> SiteView:
    return replace(view, error=error, failures=view.failures + 1, silent_since=view.silent_since or now)


def _progresses(application: ApplicationView) -> bool:
    if application.owner_uid is None:
        return False
    service, wanted = application.ray_service, application.target_replicas
    moves = service is not None and service.pods != wanted
    return moves or application.status != "RUNNING" or application.ready_replicas != wanted


def changed_applications(before: SiteView | None, after: SiteView) -> frozenset[str]:
    """Names of the applications that are not as they were."""
    old = {view.name: view for view in (before.applications if before else None) or ()}
    new = {view.name: view for view in after.applications or ()}
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def reachability_changed(before: SiteView | None, after: SiteView, now: datetime) -> bool:
    """Whether the site began or ceased to answer, or fails for another reason.

    A site that takes so long to answer that its last figures grew old is one that begins to answer.
    """
    if before is None or before.error != after.error or (before.applications is None) != (after.applications is None):
        return True
    return phase(before, now) != phase(after, now)
