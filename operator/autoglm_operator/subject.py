"""One deployment that shall exist, with everything that is derived from its spec and from what was observed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from autoglm_operator import allocation, applications, conditions, placement, revision, routes, scaled, variants, views
from autoglm_operator.api import AutoGLMDeployment, DeploymentSiteStatus, WorkerSpec
from autoglm_operator.state import ApplicationView, Observed, Published, SiteOutcome, SiteView, Verdict
from autoglm_serving.config import AppConfig

_BEYOND = ("Scaling", "ReplicasMissing", "InsufficientResources")
"""What a site says while it has fewer replicas than the load asks for."""


@dataclass(frozen=True)
class Lead:
    """What serves instead of what the spec describes, while another revision is being rolled out.

    `replicas` are those of single sites; elsewhere the spec's number counts. `worker` is what its pods are made from at sites
    with the back end kubeRay, None where that is not remembered: then it is the spec's. `accompanied`: two revisions are on
    the sites, or shall be.
    """

    config: AppConfig
    application: str
    replicas: Mapping[str, int] = field(default_factory=dict)
    worker: WorkerSpec | None = None
    accompanied: bool = False


@dataclass(frozen=True)
class Subject:
    """The input of one decision. Everything else here follows from it."""

    deployment: AutoGLMDeployment
    observed: Observed
    now: datetime
    lead: Lead | None = None

    @cached_property
    def config(self) -> AppConfig:
        """The arguments of the application, revision included, where it runs no variant of the model."""
        if self.lead is not None:
            return self.lead.config
        return revision.stamp(applications.config(self.deployment, self.observed.cluster))

    @cached_property
    def variant_choices(self) -> Mapping[str, variants.Choice]:
        """Which variant of the model each site runs, by site; empty for a deployment without variants."""
        model = self.deployment.spec.model
        chosen = {view.name: variants.choose(model, view.site) for view in self.observed.sites if model.variants}
        return {site: choice for site, choice in chosen.items() if choice is not None}

    @cached_property
    def _variant_configs(self) -> dict[str, AppConfig]:
        """The arguments of the application by variant, each with a revision of its own."""
        return {
            choice.name: revision.stamp(variants.applied(self.config, choice))
            for choice in self.variant_choices.values()
            if choice.variant is not None
        }

    def config_at(self, site: str) -> AppConfig:
        """The arguments of the application at one site."""
        choice = self.variant_choices.get(site)
        return self.config if choice is None else self._variant_configs.get(choice.name, self.config)

    @cached_property
    def is_behind(self) -> bool:
        """Whether another revision serves than the one that the spec describes."""
        return self.lead is not None and self.lead.config.revision != replace(self, lead=None).config.revision

    @cached_property
    def with_its_pods(self) -> AutoGLMDeployment:
        """The deployment as far as its pods go: of another revision than the spec's, those that this one had."""
        if self.lead is None or not self.is_behind:
            return self.deployment
        spec = self.deployment.spec
        parallelism = spec.engine.parallelism.model_copy(update={"tensor": self.config.engine.tensor_parallel})
        engine = spec.engine.model_copy(update={"parallelism": parallelism})
        worker = self.lead.worker or spec.worker
        return self.deployment.model_copy(update={"spec": spec.model_copy(update={"engine": engine, "worker": worker})})

    @cached_property
    def wanted(self) -> applications.Wanted:
        """The application that shall run at each selected site that runs no variant of the model."""
        return self._wanted(self.config, self._sized.spec.replicas)

    def wanted_at(self, site: str) -> applications.Wanted:
        """The application that shall run at one selected site."""
        replicas = self.lead.replicas.get(site) if self.lead is not None else None
        if replicas is None and self.allocated is not None:
            replicas = self.allocated.now.get(site)
        if replicas is None and self.scaled is not None:
            replicas = self.scaled.at.get(site)
        config = self.config_at(site)
        if replicas is None:
            return self.wanted if config is self.config else self._wanted(config, self._sized.spec.replicas)
        return self._wanted(config, replicas)

    def _wanted(self, config: AppConfig, replicas: int) -> applications.Wanted:
        return applications.wanted(config, max(replicas, 1), self.lead.application if self.lead else "")

    @cached_property
    def selection(self) -> placement.Selection:
        """Which sites are used, and why not the others."""
        return placement.select(self.deployment.spec.sites, self.observed.sites, self.observed.invalid_sites)

    @cached_property
    def scaled(self) -> scaled.Scaled | None:
        """How many replicas the load asks for; None where the spec says how many there are."""
        scene = scaled.Scene(self.deployment, self.selection.views, self.observed.load, self.now)
        return scaled.scale(scene)

    @cached_property
    def _sized(self) -> AutoGLMDeployment:
        return scaled.of_total(self.deployment, self.scaled)

    @cached_property
    def allocated(self) -> allocation.Allocated | None:
        """How many replicas run at which site; None where every selected site runs the same."""
        if self.stopped is not None:
            return None
        return allocation.allocate(self._sized, self.config.worker, self.selection.views, self.now)

    @cached_property
    def chosen(self) -> tuple[SiteView, ...]:
        """The selected sites that shall have the application."""
        if self.allocated is None:
            return self.selection.views
        return tuple(view for view in self.selection.views if self.allocated.now.get(view.name))

    @cached_property
    def stopped(self) -> Verdict | None:
        """Why the deployment shall serve nothing, if so."""
        if self.deployment.spec.suspend:
            return Verdict("False", "Suspended", "spec.suspend is true: set it to false to serve again")
        if self.is_asleep:
            text = f"no request came for {self._down_after}: the next one wakes the model"
            return Verdict("False", "ScaledToZero", text)
        if self.deployment.spec.replicas == 0:
            return Verdict("False", "ScaledToZero", "spec.replicas is 0: raise it to serve again")
        return None

    @property
    def fewest(self) -> int:
        """Replicas without which the deployment does not do what its spec says: at each site, or with placement in all."""
        scaling = self.deployment.spec.scaling
        return self.deployment.spec.replicas if scaling is None else max(scaling.min, 1)

    def needed(self, replicas: int) -> int:
        """Of so many replicas that a site shall have those without which it does not do what the spec says. Where they follow
        the load those beyond come and go, and may find no room: nothing else waits for them."""
        if self.scaled is None:
            return replicas
        return min(replicas, 1 if self.allocated is not None else self.fewest)

    def check(self, outcome: SiteOutcome) -> Verdict:
        """Whether a site does what it shall. Where replicas follow the load, one that is still to come beyond the fewest, or
        finds no room, takes nothing from those that answer. Degraded tells of the latter."""
        check = conditions.site_check(outcome)
        if self.scaled is None or not outcome.live or outcome.reason not in _BEYOND:
            return check
        enough = outcome.status.ready >= self.needed(outcome.status.desired)
        return replace(check, status="True") if enough else check

    @property
    def is_asleep(self) -> bool:
        """Whether there are no replicas because nobody asks for any."""
        return self.scaled is not None and self.scaled.is_asleep

    @property
    def _down_after(self) -> str:
        scaling = self.deployment.spec.scaling
        return scaling.down_after if scaling is not None else ""

    @cached_property
    def _rows(self) -> dict[str, DeploymentSiteStatus]:
        status = self.deployment.status
        return {row.name: row for row in (status.sites if status else ())}

    def row(self, site: str) -> DeploymentSiteStatus | None:
        """What the stored status says about a site."""
        return self._rows.get(site)

    def heard(self, view: SiteView) -> datetime | None:
        """When a site last answered, as far as this process or the stored status knows."""
        return views.heard(view, views.told(self.row(view.name)))

    def is_live(self, view: SiteView) -> bool:
        """Whether the figures of a site may be acted on."""
        return views.is_live(view, self.now)

    def found(self, view: SiteView) -> ApplicationView | None:
        """What stands at a site where the application of this deployment belongs, whoever it belongs to."""
        return views.placed(view, self.wanted.name)

    def ours(self, view: SiteView) -> ApplicationView | None:
        """The application of this deployment at a site, when it was last read. Of two the wanted one, unless it is going."""
        owned = views.owned(view, self.deployment.metadata.uid)
        return min(owned, key=lambda found: (found.status == "DELETING", found.name != self.wanted.name), default=None)

    def path(self, view: SiteView) -> str:
        """The application that requests go to at a site: the wanted one, or what a silent site had when it was last read.

        A site that this process never read has what an earlier leader's table says: it may have missed a promotion.
        """
        found = self.ours(view)
        if found is not None:
            return self.wanted.name if self.is_live(view) else found.name
        ends = (end for route in self.observed.inherited for end in route.endpoints)
        inherited = None if view.applications is not None else routes.application_at(ends, view.name)
        return inherited or self.wanted.name

    def target(self, site: str) -> views.Target:
        """What gateways shall have admitted at a site."""
        return views.Target(self.config.deployment, site, self.config_at(site).revision)

    def is_out_of_routes(self, site: str, published: Published | None) -> bool:
        """Whether every gateway that answers has this table or a later one, and it does not lead to the site."""
        answering = views.reporting(self.observed.gateways, self.now)
        if not answering:
            return True
        if published is None or any(end.site == site for route in published.routes for end in route.endpoints):
            return False
        return all(views.holds(view, published) for view in answering)

    def is_admitted(self, site: str) -> bool:
        """Whether a gateway gets answers of the wanted revision from a site."""
        return views.is_admitted(self.observed.gateways, self.target(site), self.now)
