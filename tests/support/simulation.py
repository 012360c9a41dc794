"""A small world that carries plans out: Ray clusters and gateways as dictionaries, time as a number that is moved by hand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from autoglm_operator import routes
from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite
from autoglm_operator.reconcile import reconcile
from autoglm_operator.scaling.history import History
from autoglm_operator.state import (
    FINALIZER,
    ApplicationStatus,
    ApplicationView,
    ApplyApplication,
    Capacity,
    GatewayView,
    Observed,
    Plan,
    Published,
    SiteError,
    SiteView,
)
from autoglm_serving.measurements import FirstBytes, RevisionReport, Sketch
from autoglm_serving.routing_table import Admission, Endpoint, GatewayReport, Route, RoutingTable
from support import kube
from support.fleet import NOW, site
from support.pod_application import PodApplication


@dataclass
class Application:
    """An application on a simulated Ray cluster. `serving` is the revision that answers, which lags behind the config."""

    config: Mapping[str, Any]
    status: ApplicationStatus = "DEPLOYING"
    ready: int = 0
    serving: str | None = None
    message: str = ""

    @property
    def replicas(self) -> int:
        """The wanted replicas."""
        overrides = self.config.get("deployments") or ({"num_replicas": 1},)
        return int(overrides[0]["num_replicas"])

    def view(self) -> ApplicationView:
        """What Ray reports."""
        return ApplicationView(
            name=self.config["name"],
            import_path=self.config["import_path"],
            status=self.status,
            message=self.message,
            route_prefix=self.config["route_prefix"],
            args=self.config["args"],
            deployments=tuple(self.config.get("deployments") or ()),
            ready_replicas=self.ready,
            target_replicas=self.replicas,
        )

    def finish(self, room: float) -> None:
        """Ends the rollout that is under way, as far as the cluster has room for its replicas."""
        self.ready = self.replicas if room >= self.replicas else int(room)
        short = self.replicas - self.ready
        self.status = "DEPLOYING" if short else "RUNNING"
        self.message = f"Engine has {short} replicas that take long to be scheduled" if short else ""
        self.serving = self.config["args"].get("revision")


Applications = dict[str, Application | PodApplication]
"""Those of one site, by name."""


@dataclass
class World:
    """Sites, gateways and one deployment."""

    kuberay: ClassVar[frozenset[str]] = frozenset()
    """Sites whose Ray clusters KubeRay makes."""

    deployment: AutoGLMDeployment
    clusters: dict[str, Applications] = field(default_factory=dict)
    silent: dict[str, SiteView] = field(default_factory=dict)
    gateways: int = 1
    mute: int = 0
    """How many of the gateways, counted from the last one, do not answer any more."""
    stuck_at: int | None = None
    """The last gateway gets no table after the one of this number."""
    now: datetime = NOW
    table: RoutingTable | None = None
    published: Published | None = None
    inherited: tuple[Route, ...] = ()
    log: list[str] = field(default_factory=list)
    gone: bool = False
    cpus: float | None = None
    """Processors of each cluster, of which every replica takes one; None where clusters do not tell."""
    shrunk: dict[str, float] = field(default_factory=dict)
    """Processors of clusters that have lost machines; what ran there beyond them waits from then on."""
    broken: dict[str, int] = field(default_factory=dict)
    """How many replicas of a revision stay up, by revision: the others die again and again, and Serve says UNHEALTHY."""
    prices: dict[str, float] = field(default_factory=dict)
    """Prices of sites."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What gateways report as measured about a revision (fields of RevisionReport by revision), in every window."""
    load: History | None = None
    """What gateways told of the load."""
    backend: dict[str, Any] = field(default_factory=dict)
    """What is not usual of these sites."""
    heads: int = 4
    """Heads of Ray clusters for which there is room at each of these sites, where clusters tell what they have."""
    made: int = 0
    """RayServices that were made."""
    first_bytes: dict[str, Sketch] = field(default_factory=dict)
    """How long answers took to begin lately, by deployment, as each gateway tells."""

    def observed(self) -> Observed:
        """What the shell would see now."""
        return Observed(
            sites=tuple(self._view(name) for name in sorted(self.clusters)),
            gateways=tuple(self._gateway(number) for number in range(self.gateways)),
            deployments=(self.deployment,),
            published=self.published,
            inherited=self.inherited,
            load=self.load,
        )

    def cut(self, name: str) -> None:
        """The site ceases to answer."""
        self.silent[name] = self._view(name)

    def mend(self, name: str) -> None:
        """The site answers again."""
        self.silent.pop(name, None)

    def succeed(self) -> None:
        """Another process leads: it never read the sites that are silent, and finds the table that the gateways have."""
        for name in self.silent:
            self.silent[name] = SiteView(self._site(name))
        self.inherited = self.table.routes if self.table else ()
        self.published = None

    def step(self) -> Plan:
        """One reconcile, carried out."""
        plan = reconcile(self.deployment, self.observed(), self.now)
        self._finalizer(plan.add_finalizer, plan.remove_finalizer)
        for change in plan.applications:
            if change.site in self.silent:
                self.log.append(f"no answer from {change.site}")
                continue
            apps = self.clusters[change.site]
            if isinstance(change, ApplyApplication):
                self.log.append(f"apply {change.site}")
                old = apps.get(change.name)
                assert old is None or old.view().owner_uid == change.uid, "a foreign application would be overwritten"
                apps[change.name] = self._applied(old, change)
            else:
                self.log.append(f"delete {change.site}")
                assert apps[change.name].view().owner_uid == change.uid, "a foreign application would be deleted"
                apps[change.name].status = "DELETING"
        self._publish(plan)
        self.deployment = self.deployment.model_copy(update={"status": plan.status})
        return plan

    def _applied(
        self, old: Application | PodApplication | None, change: ApplyApplication
    ) -> Application | PodApplication:
        if isinstance(old, PodApplication):
            before = old.generation
            old.put(change.manifests, change.workers.get(old.cluster))
            old.applied_at = self.now if old.generation != before else old.applied_at
            return old
        if change.site in self.kuberay:
            self.made += 1
            uid = f"uid-of-ray-service-{self.made}"
            return PodApplication(change.manifests[0], change.site, uid, applied_at=self.now)
        if old is not None:
            return replace(old, config=change.application, status="DEPLOYING")
        return Application(change.application)

    def settle(self) -> None:
        """Everything that is under way on the sites that answer comes to its end."""
        for name, apps in self.clusters.items():
            if name in self.silent:
                continue
            for key in [key for key, app in apps.items() if app.status == "DELETING"]:
                del apps[key]
            for app in apps.values():
                if app.view().owner_uid is not None:
                    app.finish(self.shrunk.get(name, math.inf))
                    self._break(app)

    def _break(self, app: Application | PodApplication) -> None:
        running = self.broken.get(app.serving or "")
        if running is not None:
            app.ready, app.status = min(app.ready, running), "UNHEALTHY"
            app.message = "a replica died" if running else "all replicas died"

    def converge(self, limit: int = 12) -> Plan:
        """Steps and settles until a step changes nothing."""
        for _ in range(limit):
            before = (self.deployment, self.published, len(self.log))
            plan = self.step()
            self.settle()
            self.now += timedelta(seconds=2)
            if before == (self.deployment, self.published, len(self.log)):
                return plan
        raise AssertionError(f"no rest after {limit} steps: {self.log[-6:]}")

    def _view(self, name: str) -> SiteView:
        if name in self.silent:
            return replace(self.silent[name], error=SiteError("Unreachable", "no route to host"), failures=3)
        views = tuple(app.view() for _, app in sorted(self.clusters[name].items()))
        return SiteView(self._site(name), applications=views, observed_at=self.now, capacity=self._capacity(name))

    def _site(self, name: str) -> AutoGLMSite:
        if name in self.kuberay:
            return kube.site(name, self.backend)
        return site(name, {"price": self.prices[name]} if name in self.prices else None)

    def _capacity(self, name: str) -> Capacity | None:
        if self.cpus is None:
            return None
        apps = self.clusters[name].values()
        taken = sum(
            app.held if isinstance(app, PodApplication) else max(app.replicas * (app.status != "DELETING"), app.ready)
            for app in apps
        )
        has = self.shrunk.get(name, self.cpus)
        free = max(has - taken, 0.0)
        if name in self.kuberay:  # heads beside, each on a machine that has room for one
            heads = [{"CPU": 2.0, "memory": 1e12}] * max(self.heads - len(apps), 0)
            return Capacity({"CPU": has}, {"CPU": free}, ({"CPU": free, "memory": 1e12}, *heads))
        return Capacity({"CPU": has}, {"CPU": free})

    def _gateway(self, number: int) -> GatewayView:
        table = self.table
        version = table.version if table else 0
        if self.stuck_at is not None and number == self.gateways - 1:
            version = min(version, self.stuck_at)
        report = GatewayReport(
            table_epoch=table.epoch if table else 0,
            table_version=version,
            admissions=tuple(self._admissions()),
            started_at=NOW,
            revisions=tuple(self._revisions()),
            first_bytes=tuple(FirstBytes(deployment=name, ttft=one) for name, one in self.first_bytes.items()),
        )
        silent = number >= self.gateways - self.mute
        return GatewayView(f"gateway-{number}", None if silent else report, None if silent else self.now)

    def _admissions(self) -> list[Admission]:
        found: list[Admission] = []
        for route in self.table.routes if self.table else ():
            for wanted, part in (
                (route.revision, route),
                (route.canary.revision if route.canary else "", route.canary),
            ):
                found += [
                    self._admission(route.deployment, end.wanted or wanted, end)
                    for end in (part.endpoints if part else ())
                ]
        return found

    def _admission(self, deployment: str, wanted: str, end: Endpoint) -> Admission:
        app = self.clusters.get(end.site, {}).get(end.url.rsplit("/", 1)[1])
        serving = app.serving if app and app.ready > 0 and end.site not in self.silent else None
        return Admission(
            deployment=deployment,
            site=end.site,
            revision=serving or "",
            state="Admitted" if serving == wanted else "Probing",
            message="",
            observed_at=self.now,
            wanted=wanted,
        )

    def _revisions(self) -> list[RevisionReport]:
        """What the gateway applies: a canary that is not admitted gets nothing."""
        found: list[RevisionReport] = []
        for route in self.table.routes if self.table else ():
            if route.canary is None:
                continue
            canary = route.canary
            told = [self._admission(route.deployment, canary.revision, end) for end in canary.endpoints]
            weight = canary.weight if any(one.state == "Admitted" for one in told) else 0
            for revision, share, role in (
                (route.revision, 100 - weight, "stable"),
                (canary.revision, weight, "canary"),
            ):
                values = {"deployment": route.deployment, "revision": revision, "role": role, "weight": share}
                measured = {"window": canary.window, **self.figures.get(revision, {})}
                found.append(RevisionReport.model_validate({**values, **measured}))
        return found

    def _publish(self, plan: Plan) -> None:
        if self.table is not None and self.table.routes == plan.routes:
            return
        version = self.table.version + 1 if self.table else 1
        self.table = routes.table(plan.routes, 1, version, self.now)
        self.published = Published(1, version, plan.routes)

    def _finalizer(self, add: bool, remove: bool) -> None:
        meta = self.deployment.metadata
        held = tuple(name for name in meta.finalizers if name != FINALIZER) + ((FINALIZER,) if add else ())
        if add or remove:
            meta = meta.model_copy(update={"finalizers": held})
            self.deployment = self.deployment.model_copy(update={"metadata": meta})
            self.gone = remove
