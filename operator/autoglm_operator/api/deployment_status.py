"""What the operator reports about a deployment."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, computed_field

from autoglm_operator.api.base import Reported, Unique
from autoglm_operator.api.conditions import DeploymentCondition
from autoglm_operator.api.placement import PlacementStatus
from autoglm_operator.api.rollout import RolloutStatus
from autoglm_operator.api.scaling import ScalingStatus

SiteState = Literal[
    "Pending", "Deploying", "Ready", "Degraded", "Failed", "Conflict", "Stale", "Unreachable", "Suspended", "Deleting"
]
Count = Annotated[int, Field(ge=0)]


class DeploymentSiteStatus(Reported):
    """One site of a deployment, as last observed. A site that answers is looked at every few seconds, and its row is written
    only when something in it changed."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the site."""
    desired: Count = 0
    """Replicas that shall run there."""
    ready: Count = 0
    """Replicas that ran there when last observed."""
    revision: Annotated[str, Field(max_length=64)] | None = None
    """Revision that was last submitted there."""
    variant: Annotated[str, Field(max_length=63)] | None = None
    """Variant of the model that was last submitted there, base for the model itself; absent without spec.model.variants."""
    variant_reason: Annotated[str, Field(max_length=512)] | None = None
    """Why the site shall run that variant, and why not another one that is for it."""
    state: SiteState
    """Where this site stands."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, in a sentence for people."""
    since: AwareDatetime | None = None
    """Since when these figures are as they are; of a site that is Stale or Unreachable, since when it has not answered. Absent
    means that it was never seen."""

    @property
    def is_silent(self) -> bool:
        """Whether the site did not answer."""
        return self.state in ("Stale", "Unreachable")


class GatewayTable(Reported):
    """A routing table that carries this deployment as it is. Later ones, also those of another leader, carry it as well; their
    numbers are told with the next change."""

    epoch: Count
    """Raised by each new leader of the operator."""
    version: Count
    """Raised by each table."""
    since: AwareDatetime | None = None
    """When a gateway first said that it had this table."""


class TtftStatus(Reported):
    """How long clients waited for the first byte of an answer in the last five minutes, at all gateways together. An answer
    that does not stream begins when it is complete. Right to within 5 %."""

    p95: Annotated[str, Field(max_length=16)]
    """The time that 95 % of the answers stayed below, such as "820ms"."""
    samples: Count
    """How many answers that is about; at least 20."""
    gateways: Count
    """How many gateways told."""
    observed_at: AwareDatetime
    """When the oldest of these figures was told. They are written anew when the time moved by a quarter, at most every five
    minutes, and with any other change."""


class DeploymentStatus(Reported):
    """What the operator observed. Nothing is written while nothing changes: times tell since when something is so."""

    observed_generation: Count = 0
    """The metadata.generation that this status is about."""
    revision: Annotated[str, Field(max_length=64)] | None = None
    """Revision that shall run: a hash of everything that needs new replicas. Sites that run a variant of the model have one of
    their own."""
    replicas: Count = 0
    """Replicas that run, on all sites together."""
    ready_replicas: Count = 0
    """Replicas that are ready, on all sites together."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the replicas, for the scale subresource."""
    conditions: Annotated[tuple[DeploymentCondition, ...], Field(max_length=8), Unique("type")] = ()
    """Facts about the deployment. Ready stands on SitesReady and GatewayReady."""
    sites: Annotated[tuple[DeploymentSiteStatus, ...], Field(max_length=256), Unique("name")] = ()
    """One entry for each selected site, and for each site that is being left."""
    ttft: TtftStatus | None = None
    """How fast answers began lately; absent without enough requests, and where no gateway tells."""
    gateway_table: GatewayTable | None = None
    """The routing table that carries this deployment."""
    placement: PlacementStatus | None = None
    """Where the replicas are placed and why; absent without spec.placement."""
    scaling: ScalingStatus | None = None
    """How many replicas the load asks for, and why; absent without spec.scaling, and while spec.suspend is true."""
    rollout: RolloutStatus | None = None
    """Where a rollout in steps stands; absent for a deployment that has none."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property; pydantic documents this form
    @property
    def sites_ready(self) -> Annotated[str, Field(max_length=16)]:
        """Ready sites out of selected sites, such as "1/2"; sites that are being left do not count."""
        selected = [site for site in self.sites if site.state != "Deleting"]
        return f"{sum(site.state == 'Ready' for site in selected)}/{len(selected)}"

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property; pydantic documents this form
    @property
    def variants(self) -> Annotated[str, Field(max_length=640)] | None:
        """How many sites run which variant of the model, such as "base 2, int8 1"; absent without spec.model.variants."""
        named = [site.variant for site in self.sites if site.variant is not None and site.state != "Deleting"]
        return ", ".join(f"{name} {named.count(name)}" for name in sorted(set(named))) or None

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property; pydantic documents this form
    @property
    def replicas_ready(self) -> Annotated[str, Field(max_length=16)]:
        """Ready replicas out of wanted replicas, such as "3/4"."""
        return f"{self.ready_replicas}/{sum(site.desired for site in self.sites)}"
