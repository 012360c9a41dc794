"""What was observed, and what shall be done about it: the frozen data between the shell and the decisions.

The shell fills `Observed`, `reconcile` turns it into a `Plan`, the shell carries the plan out. Nothing here decides, and
nothing here does I/O. Every figure travels with the time at which it was seen; `None` means "never seen", which is not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from autoglm_operator.api import (
    AutoGLMDeployment,
    AutoGLMSite,
    ConditionStatus,
    DeploymentSiteStatus,
    DeploymentStatus,
    ObjectMeta,
    Problem,
    Reason,
    SiteStatus,
)
from autoglm_operator.scaling.history import History
from autoglm_serving.measurements import LoadReport
from autoglm_serving.routing_table import Admission, GatewayReport, Route

IMPORT_PATH = "autoglm_serving.app:build"
"""The application that this operator deploys. Another import path is another owner's application."""

FINALIZER = "serving.autoglm.dev/applications"
"""Held on deployments and sites while applications of ours may still be on a Ray cluster."""

MESSAGE_LIMIT = 1024
"""Bytes of one message in a status."""

LEFT_OUT = "spec.sites matches "
"""How Degraded begins where sites that match are not used. No other condition tells that: nothing that is used is out of
order. Its reason may be that of a site, which comes and goes."""

ApplicationStatus = Literal["NOT_STARTED", "DEPLOYING", "RUNNING", "UNHEALTHY", "DEPLOY_FAILED", "DELETING"]


def clip(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """A message of at most `limit` bytes of UTF-8, with an ellipsis where something is missing."""
    encoded = message.encode()
    if len(encoded) <= limit:
        return message
    return encoded[: limit - 3].decode(errors="ignore") + "…"


@dataclass(frozen=True)
class SiteError:
    """Why the last attempt to talk to a Ray cluster failed: one of the reasons from Unreachable to InvalidAnswer."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class GatewayError:
    """Why the last attempt to talk to a gateway failed: GatewayUnreachable, TableRefused or Unauthorized."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check: a condition before it has a time and a generation."""

    status: ConditionStatus
    reason: Reason
    message: str


@dataclass(frozen=True)
class RayServiceView:
    """The Kubernetes objects behind an application at a site with the back end kubeRay.

    `objects` are the RayService and its children as they are stored, without status and bookkeeping, by kind. `workers` is
    the wanted number of worker pods by RayCluster, and `pods` counts those that are asked for or still Running, in all of them.
    `cluster_hash` says what the Ray cluster was made from; None on a RayService that this operator did not make. `upgrading`
    says that a second Ray cluster is being started, `told` that KubeRay has acted on the document as it is stored.
    """

    name: str
    uid: str
    cluster_hash: str | None
    objects: Mapping[str, Mapping[str, Any]]
    workers: Mapping[str, int]
    upgrading: bool = False
    pods: int = 0
    told: bool = True


@dataclass(frozen=True)
class ApplicationView:
    """One Serve application as a Ray cluster reports it.

    `route_prefix`, `import_path`, `args` and `deployments` are the configuration that was submitted (Ray's
    `deployed_app_config`), not what Ray made of it. `message` holds Ray's words: the application's, then those of each
    unhealthy deployment in it. The replicas are those of the engine. `deployed_at` is when the configuration was last
    submitted, by Ray's clock.
    """

    name: str
    import_path: str
    status: ApplicationStatus
    message: str = ""
    route_prefix: str | None = None
    args: Mapping[str, Any] | None = None
    deployments: tuple[Mapping[str, Any], ...] = ()
    ready_replicas: int = 0
    target_replicas: int = 0
    deployed_at: datetime | None = None
    ray_service: RayServiceView | None = None

    @cached_property
    def owner_uid(self) -> str | None:
        """The resource that asked for this application; None for an application that is not ours."""
        return self._arg("uid") if self.import_path == IMPORT_PATH else None

    @property
    def revision(self) -> str | None:
        """The revision that was last submitted, whether or not it already answers."""
        return self._arg("revision") if self.import_path == IMPORT_PATH else None

    @property
    def variant(self) -> str | None:
        """The variant of the model that was last submitted; None for the model itself."""
        model = (self.args or {}).get("model") if self.import_path == IMPORT_PATH else None
        name = model.get("variant") if isinstance(model, Mapping) else None
        return name if isinstance(name, str) and name else None

    @property
    def cluster(self) -> str | None:
        """The cluster in which that resource is stored; None for an application that does not say."""
        return self._arg("cluster") if self.import_path == IMPORT_PATH else None

    def _arg(self, key: str) -> str | None:
        value = (self.args or {}).get(key)
        return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class Capacity:
    """Resources of a site in Ray's names and units.

    `machines` tell what is free on each machine that takes work, empty where that is not known. `models` say what the
    accelerators are, by resource.
    """

    total: Mapping[str, float]
    available: Mapping[str, float]
    machines: tuple[Mapping[str, float], ...] = ()
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


STILL_LISTED = "nodes and pods are still being listed for the first time"
"""Why a site that was not looked at for long has no capacity yet. What an earlier operator told of it holds meanwhile."""


@dataclass(frozen=True)
class SiteView:
    """What is known about one site. `applications` and `observed_at` belong to the last observation that succeeded.

    `error` is set while the latest attempt failed; `failures` counts the attempts that failed since the last success.
    `capacity` is the last that was told, at `capacity_at`; `capacity_unknown` says why the latest attempt got none.
    `silent_since` is the first attempt that failed since the last success. `going` are applications that were asked to go and
    were not looked at since: whether they still are there nobody knows.
    """

    site: AutoGLMSite
    applications: tuple[ApplicationView, ...] | None = None
    observed_at: datetime | None = None
    error: SiteError | None = None
    failures: int = 0
    ray_version: str | None = None
    capacity: Capacity | None = None
    capacity_at: datetime | None = None
    capacity_unknown: str = ""
    silent_since: datetime | None = None
    going: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The site's name, which is unique in the Kubernetes cluster."""
        return self.site.metadata.name


@dataclass(frozen=True)
class GatewayView:
    """The last report of one gateway, with the time it was fetched. `error` is set while the latest attempt failed."""

    name: str
    report: GatewayReport | None = None
    observed_at: datetime | None = None
    error: GatewayError | None = None

    @cached_property
    def admissions(self) -> Mapping[tuple[str, str], tuple[Admission, ...]]:
        """Those of the report, by deployment and site."""
        found: dict[tuple[str, str], tuple[Admission, ...]] = {}
        for one in self.report.admissions if self.report else ():
            key = (one.deployment, one.site)
            found[key] = (*found.get(key, ()), one)
        return found

    @cached_property
    def loads(self) -> Mapping[str, LoadReport] | None:
        """What the report tells of each deployment that has something to do; None where it does not tell."""
        told = self.report.loads if self.report else None
        return None if told is None else {one.deployment: one for one in told}


@dataclass(frozen=True)
class Published:
    """The routing table in which this deployment's present routes first stood."""

    epoch: int
    version: int
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class InvalidDeployment:
    """A stored deployment whose spec cannot be used. It still has a status to write and a deletion to finish."""

    metadata: ObjectMeta
    problems: tuple[Problem, ...]
    status: DeploymentStatus | None = None


@dataclass(frozen=True)
class InvalidSite:
    """A stored site whose spec cannot be used."""

    metadata: ObjectMeta
    problems: tuple[Problem, ...]
    status: SiteStatus | None = None


@dataclass(frozen=True)
class Observed:
    """Everything that the decision about one deployment may look at.

    `sites`, `invalid_sites` and `gateways` are all there are, each looked at once or more before the first decision.
    `deployments` are all stored deployments, this one included or not. `published` is None until a table with the present
    routes of this deployment was written. `failures` counts the passes over this deployment that failed since one succeeded.
    `cluster` names the place where all of these are stored; empty while that is not known. `inherited` are the routes of this
    deployment in the table that the gateways had from an earlier leader. `load` is what gateways told of its load; None until
    then, and for one that does not scale.
    """

    sites: tuple[SiteView, ...] = ()
    invalid_sites: tuple[InvalidSite, ...] = ()
    gateways: tuple[GatewayView, ...] = ()
    deployments: tuple[AutoGLMDeployment | InvalidDeployment, ...] = ()
    published: Published | None = None
    failures: int = 0
    cluster: str = ""
    inherited: tuple[Route, ...] = ()
    load: History | None = None


@dataclass(frozen=True)
class ApplyApplication:
    """Put one application (a dict in the form of Ray's ServeApplicationSchema) on a site.

    Whoever carries it out reads the cluster first and refuses if an application of that name belongs to somebody else.
    """

    site: str
    application: Mapping[str, Any]
    manifests: tuple[Mapping[str, Any], ...] = ()
    """Kubernetes objects at a site with the back end kubeRay, the RayService first; they carry the application."""
    workers: Mapping[str, int] = field(default_factory=dict)
    """Worker pods to ask of RayClusters that are there, by name."""

    @property
    def name(self) -> str:
        """The application's name."""
        return str(self.application["name"])

    @property
    def uid(self) -> str:
        """The owner that the application names."""
        return str(self.application["args"]["uid"])


@dataclass(frozen=True)
class DeleteApplication:
    """Remove one application from a site, if it still belongs to the resource with this uid."""

    site: str
    name: str
    uid: str


ApplicationChange = ApplyApplication | DeleteApplication


@dataclass(frozen=True)
class Event:
    """A Kubernetes event: something that happened, told once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class SiteOutcome:
    """Where one site of a deployment stands, why, and what to change there."""

    status: DeploymentSiteStatus
    reason: Reason
    live: bool
    change: ApplicationChange | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.status.name


@dataclass(frozen=True)
class Plan:
    """What to do about one deployment. Carrying it out twice does no harm.

    Order: the finalizer is added before anything else, and removed after everything else. `status` is the whole status;
    write it only if it differs from the stored one. `routes` replace the deployment's routes in the routing table; none
    means that the deployment leaves the table.
    """

    status: DeploymentStatus
    requeue_after: timedelta
    applications: tuple[ApplicationChange, ...] = ()
    add_finalizer: bool = False
    remove_finalizer: bool = False
    events: tuple[Event, ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class SitePlan:
    """What to do about one site. Carrying it out twice does no harm."""

    status: SiteStatus
    requeue_after: timedelta
    deletions: tuple[DeleteApplication, ...] = ()
    add_finalizer: bool = False
    remove_finalizer: bool = False
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """What the decision about one site may look at beside its own view.

    `sites` and `deployments` are all stored ones. `complete` says that `deployments` is the full list, over all namespaces,
    and was read after the site was. Without it no application is taken for an orphan: its owner may merely not have been
    read. `cluster` names the place where they are stored, empty while that is not known: an application that names another
    place, or none, is not taken for an orphan either, since its owner may be stored there. `gateways` tell of the network to
    the site.
    """

    sites: tuple[AutoGLMSite, ...] = ()
    deployments: tuple[AutoGLMDeployment | InvalidDeployment, ...] = ()
    complete: bool = False
    cluster: str = ""
    gateways: tuple[GatewayView, ...] = ()

    @cached_property
    def owners(self) -> frozenset[str]:
        """The uids of all deployments."""
        return frozenset(deployment.metadata.uid for deployment in self.deployments)
