"""One time of leading: gather what is known, let the core decide, carry the decision out.

Everything is level-triggered. A pass decides from what is true now and may be repeated at any time. It reads its object
anew when a watch, a failure or a write of our own says that it may have changed; a write that was decided from an older one
is refused by the API server. Nothing is remembered between passes that could not be observed again, so a process that dies
at any point is replaced by one that goes on from the same facts.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from autoglm_operator import scaled
from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.backend import SiteFailure
from autoglm_operator.controller.loads import Loads, Sources
from autoglm_operator.controller.objects import Deployment, Objects, Site, problems_of
from autoglm_operator.controller.parts import Parts
from autoglm_operator.controller.publisher import Publisher
from autoglm_operator.controller.queue import WorkQueue
from autoglm_operator.controller.sites import Sites, changed_applications, reachability_changed
from autoglm_operator.reconcile import reconcile
from autoglm_operator.reconcile_site import reconcile_site
from autoglm_operator.state import (
    FINALIZER,
    ApplicationChange,
    Event,
    Fleet,
    InvalidSite,
    Observed,
    Plan,
    SiteError,
    SitePlan,
    SiteView,
)
from autoglm_operator.store import (
    DEPLOYMENT,
    SITE,
    Conflict,
    JsonObject,
    Kind,
    NotFound,
    NotLeading,
    ObjectKey,
    StoreError,
)
from autoglm_operator.telemetry import log, span

POISON_TRIES = 3


class Leadership:
    """What lives as long as the lease is held. `run` until cancelled; a new lease means a new object."""

    def __init__(self, parts: Parts) -> None:
        """Nothing is read or written before `run`."""
        self.store = parts.store
        self.pace = parts.pace
        self.now = parts.now
        self.clock = parts.clock
        self.metrics = parts.metrics
        self.queue: WorkQueue[ObjectKey] = WorkQueue(parts.clock)
        self.sites = Sites(parts, self._site_was_seen)
        self.publisher = Publisher(parts, self._gateway_said, self._gather)
        self.loads = Loads(Sources(self.publisher.views, self._ready_at, parts.now, parts.clock))
        self.objects = Objects()
        self._undecided: set[ObjectKey] = set()
        self._failures: dict[ObjectKey, int] = {}
        self._cluster = ""

    async def run(self) -> None:
        """Reads everything, looks at every site once, then works until it is cancelled."""
        try:
            await self._load()
            await self.sites.first_look()
            await self.publisher.first_look()
            async with asyncio.TaskGroup() as group:
                for number in range(self.pace.workers):
                    group.create_task(self._work(), name=f"worker {number}")
                group.create_task(self.publisher.run(), name="gateways")
                group.create_task(self._resync(), name="resync")
        finally:
            await self.sites.close()

    def _site_was_seen(self, before: SiteView | None, after: SiteView) -> None:
        """A site was looked at: work on what may have changed by it."""
        self.metrics.set_site_phase(after.name, _phase(after))
        changed = changed_applications(before, after)
        if reachability_changed(before, after, self.now()):
            self._wake(self.objects.concerned({after.name}))
        self._wake(map(_key_of_application, changed))
        if changed or before is None or before.error != after.error:
            self.queue.add(ObjectKey(SITE, "", after.name))

    def _gateway_said(self, names: frozenset[str]) -> None:
        """A gateway said something new about these ("namespace/name")."""
        self._wake(ObjectKey(DEPLOYMENT, *name.split("/", 1)) for name in names)

    def _gather(self) -> frozenset[str]:
        """A gateway was looked at: deployments whose load moved."""
        return self.loads.gather()

    def _ready_at(self, name: str) -> Mapping[str, int]:
        """Ready replicas of a deployment ("namespace/name") by site, as its status has them."""
        item = self.objects.deployments.get(ObjectKey(DEPLOYMENT, *name.split("/", 1)))
        return {row.name: row.ready for row in (item.status.sites if item is not None and item.status else ())}

    def changed(self, key: ObjectKey, generation: int | None = None) -> None:
        """The stored object may not be as it was last read. What somebody wants anew overtakes what else there is to do."""
        self.objects.stale.add(key)
        self.queue.add(key, first=generation is not None and generation != self.objects.generation(key))

    def _wake(self, keys: Iterable[ObjectKey]) -> None:
        for key in tuple(keys):
            if key in self.objects.deployments:
                self.queue.add(key)
        self.metrics.queue_depth.set(len(self.queue))

    async def _load(self) -> None:
        """Without the full list no routing table may be made."""
        await self._identify()
        sites, deployments = await self._list(SITE), await self._list(DEPLOYMENT)
        for raw in sites:
            self.objects.put_site(raw)
            self.queue.add(ObjectKey.of(SITE, raw))
        for raw in deployments:
            self.objects.put_deployment(raw)
            self._undecided.add(ObjectKey.of(DEPLOYMENT, raw))
            self.queue.add(ObjectKey.of(DEPLOYMENT, raw))
        for site in self.objects.sites.values():
            if not isinstance(site, InvalidSite):
                await self.sites.watch(site)
        self._open_when_decided()
        log.info("leading", extra={"fields": {"deployments": len(deployments), "sites": len(sites)}})

    async def _list(self, kind: Kind) -> tuple[JsonObject, ...]:
        """Retries until the store answers."""
        pause = 0.5
        while True:
            try:
                return await self.store.list_all(kind)
            except StoreError as error:
                log.warning("objects cannot be listed", extra={"fields": {"kind": kind, "error": str(error)}})
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10)

    async def _identify(self) -> None:
        """Without a name of the cluster everything goes on, except that nobody's orphans are collected."""
        if self._cluster:
            return
        try:
            self._cluster = await self.store.identity() or ""
        except StoreError as error:
            log.warning("the cluster's identity cannot be read", extra={"fields": {"error": str(error)}})
        if not self._cluster:
            log.warning("applications without an owner are not removed: the uid of namespace kube-system is not known")

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.pace.resync_s)
            await self._identify()
            for kind in (SITE, DEPLOYMENT):
                for key in self.objects.differing(kind, await self._list(kind)):
                    self.changed(key)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            self.metrics.queue_depth.set(len(self.queue))
            started = self.clock()
            try:
                with span("reconcile", kind=key.kind, namespace=key.namespace, name=key.name) as current:
                    outcome = await self._pass(key)
                    current.set_attribute("outcome", outcome)
            finally:
                self.queue.done(key)
            self.metrics.reconciles.labels(key.kind, outcome).observe(self.clock() - started)

    async def _pass(self, key: ObjectKey) -> str:
        """One pass over one object; the outcome as a word. Nothing but cancellation gets out."""
        fields = {"kind": key.kind, "namespace": key.namespace, "name": key.name}
        try:
            good = await (self._pass_deployment(key) if key.kind == DEPLOYMENT else self._pass_site(key))
        except (Conflict, NotFound):
            self.objects.stale.add(key)
            self.queue.fail(key)  # it changed or went away meanwhile: read it again
            return "conflict"
        except NotLeading:
            return "not-leading"
        except StoreError as error:
            log.warning("the store failed", extra={"fields": {**fields, "error": str(error)}})
            self._fail(key)
            return "store-failed"
        except Exception:  # noqa: BLE001 - one object's trouble must not end the operator
            log.exception("a pass failed", extra={"fields": fields})
            if self._fail(key) >= POISON_TRIES:
                self._decided(key)
            return "failed"
        if good:
            self._failures.pop(key, None)
            self.queue.succeed(key)
            return "done"
        self._fail(key)
        return "site-failed"

    def _fail(self, key: ObjectKey) -> int:
        self._failures[key] = self._failures.get(key, 0) + 1
        self.objects.stale.add(key)
        self.queue.fail(key)
        return self._failures[key]

    def _decided(self, key: ObjectKey) -> None:
        self._undecided.discard(key)
        self._open_when_decided()

    def _open_when_decided(self) -> None:
        if not self._undecided:
            self.publisher.open()

    async def _read(self, key: ObjectKey) -> JsonObject | None:
        """The object: as remembered when nothing says that it changed, else anew."""
        known = self.objects.current(key, self.clock())
        if known is not None:
            return known
        self.objects.stale.discard(key)  # what happens from here on is not in the answer
        try:
            return await self.store.get(key)
        except BaseException:
            self.objects.stale.add(key)
            raise

    # One deployment

    async def _pass_deployment(self, key: ObjectKey) -> bool:
        raw = await self._read(key)
        if raw is None:
            self._forget_deployment(key)
            return True
        before, item = self.objects.put_deployment(raw)
        if before is None or type(before) is not type(item) or before.metadata.generation != item.metadata.generation:
            self._wake(self.objects.rivals(before or item, item) - {key})
        self.loads.watch(
            f"{key.namespace}/{key.name}", scaled.policy(item) if isinstance(item, AutoGLMDeployment) else None
        )
        plan = reconcile(item, self._observed(key), self.now())
        self.publisher.set_routes(key, plan.routes)
        self._decided(key)
        raw = await self._add_finalizer(raw, DEPLOYMENT, plan)
        errors = await self._apply(plan.applications)
        if errors:
            plan = reconcile(item, self._observed(key, errors), self.now())
        await self._report(raw, DEPLOYMENT, item, plan)
        if not plan.remove_finalizer:
            self.queue.add_after(key, plan.requeue_after.total_seconds())
        return not errors

    def _forget_deployment(self, key: ObjectKey) -> None:
        gone = self.objects.forget_deployment(key)
        self._failures.pop(key, None)
        self.publisher.set_routes(key, ())
        self.loads.watch(f"{key.namespace}/{key.name}", None)
        self._decided(key)
        if gone is not None:
            self._wake(self.objects.rivals(gone))
            for site in self.objects.sites:
                self.queue.add(site)

    def _observed(self, key: ObjectKey, errors: "dict[str, SiteError] | None" = None) -> Observed:
        views, item = self.sites.views(), self.objects.deployments[key]
        if errors:
            views = tuple(
                replace(view, error=errors[view.name], failures=view.failures + 1) if view.name in errors else view
                for view in views
            )
        return Observed(
            sites=views,
            invalid_sites=tuple(site for site in self.objects.sites.values() if isinstance(site, InvalidSite)),
            gateways=self.publisher.views_of(f"{key.namespace}/{key.name}"),
            deployments=tuple(self.objects.deployments[rival] for rival in sorted(self.objects.rivals(item))),
            published=self.publisher.published(key),
            failures=self._failures.get(key, 0) + (1 if errors else 0),
            cluster=self._cluster,
            inherited=self.publisher.inherited(item.metadata.uid),
            load=self.loads.of(f"{key.namespace}/{key.name}"),
        )

    async def _apply(self, changes: Iterable[ApplicationChange]) -> dict[str, SiteError]:
        """Makes the changes, all sites at once; the errors of the sites where that failed."""
        by_site: dict[str, list[ApplicationChange]] = {}
        for change in changes:
            by_site.setdefault(change.site, []).append(change)
        results = await asyncio.gather(*(self._apply_on(name, part) for name, part in by_site.items()))
        return {name: error for name, error in zip(by_site, results, strict=True) if error is not None}

    async def _apply_on(self, name: str, changes: list[ApplicationChange]) -> SiteError | None:
        try:
            await self.sites.apply(name, changes)
        except SiteFailure as failure:
            fields = {"site": name, "reason": failure.error.reason, "error": failure.error.message}
            log.warning("a site refused a change", extra={"fields": fields})
            return failure.error
        return None

    # One site

    async def _pass_site(self, key: ObjectKey) -> bool:
        raw = await self._read(key)
        if raw is None:
            await self._forget_site(key)
            return True
        before, item = self.objects.put_site(raw)
        if isinstance(item, InvalidSite):
            await self.sites.forget(key.name)
            self.metrics.forget_site(key.name)
        else:
            await self.sites.watch(item)
        if _differs(before, item):
            self._wake(self.objects.deployments)
        subject = item if isinstance(item, InvalidSite) else self.sites.view(key.name)
        assert subject is not None, "a valid site is watched"
        plan = reconcile_site(subject, self._fleet(), self.now())
        raw = await self._add_finalizer(raw, SITE, plan)
        errors = await self._apply(plan.deletions)
        await self._report(raw, SITE, item, plan)
        if not plan.remove_finalizer:
            self.queue.add_after(key, plan.requeue_after.total_seconds())
        return not errors

    async def _forget_site(self, key: ObjectKey) -> None:
        await self.sites.forget(key.name)
        if self.objects.forget_site(key) is not None:
            self.metrics.forget_site(key.name)
            self._wake(self.objects.deployments)

    def _fleet(self) -> Fleet:
        return Fleet(
            sites=tuple(view.site for view in self.sites.views()),
            deployments=tuple(self.objects.deployments.values()),
            complete=self.store.complete,
            cluster=self._cluster,
            gateways=self.publisher.views(),
        )

    # What both have in common

    async def _add_finalizer(self, raw: JsonObject, kind: Kind, plan: Plan | SitePlan) -> JsonObject:
        """Before anything is put on a site: what is there must be found again when the object is deleted."""
        present = tuple(raw["metadata"].get("finalizers") or ())
        if not plan.add_finalizer or FINALIZER in present:
            return raw
        self.objects.stale.add(ObjectKey.of(kind, raw))
        return await self.store.set_finalizers(raw, kind, (*present, FINALIZER))

    async def _report(self, raw: JsonObject, kind: Kind, item: Deployment | Site, plan: Plan | SitePlan) -> None:
        """The status if it changed, then what happened; or what happened, and then the end of the object's life.

        A status that is refused is decided anew, and its events with it: they tell what is stored.
        """
        if not plan.remove_finalizer and plan.status != item.status:
            status = plan.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            self.objects.stale.add(ObjectKey.of(kind, raw))
            await self.store.patch_status(raw, kind, status)
            self.metrics.status_writes.labels(kind).inc()
        for event in plan.events:
            await self._tell(raw, kind, event)
        if plan.remove_finalizer:
            present = tuple(raw["metadata"].get("finalizers") or ())
            if FINALIZER in present:
                self.objects.stale.add(ObjectKey.of(kind, raw))
                await self.store.set_finalizers(raw, kind, tuple(name for name in present if name != FINALIZER))

    async def _tell(self, raw: JsonObject, kind: Kind, event: Event) -> None:
        log.info(event.message, extra={"fields": {"object": str(ObjectKey.of(kind, raw)), "reason": event.reason}})
        await self.store.record_event(raw, kind, event, self.now())


def _phase(view: SiteView) -> str | None:
    if view.observed_at is None:
        return None if view.error is None else "Unreachable"
    return "Connected" if view.error is None else "Stale"


def _key_of_application(name: str) -> ObjectKey:
    """Applications of ours are called NAMESPACE.NAME or NAMESPACE.NAME.2, and neither part has a dot."""
    namespace, _, rest = name.partition(".")
    return ObjectKey(DEPLOYMENT, namespace, rest.partition(".")[0])


def _differs(before: Site | None, after: Site) -> bool:
    """Whether deployments may have to be decided anew: labels count, the status does not."""
    if before is None or problems_of(before) != problems_of(after):
        return True
    old, new = before.metadata, after.metadata
    return (old.generation, old.labels, old.deletion_timestamp) != (new.generation, new.labels, new.deletion_timestamp)
