"""`AutoGLMSite`: a place with a Ray cluster where deployments can run."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, computed_field

from autoglm_operator.api.base import API_VERSION, Model, NotYet, Reported, Rule, Unique
from autoglm_operator.api.conditions import SiteCondition
from autoglm_operator.api.deployment import AcceleratorType
from autoglm_operator.api.kuberay import KubeRayBackend
from autoglm_operator.api.metadata import ObjectMeta
from autoglm_operator.api.secrets import SecretReference
from autoglm_operator.api.text import Bandwidth, HttpAddress, ResourceName, RoundTrip

SitePhase = Literal["Connected", "Stale", "Unreachable"]


class RayTls(Model):
    """How the operator checks the Ray cluster's certificate."""

    ca_secret: SecretReference
    """Secret with the certificates (PEM) that are trusted."""


class RayBackend(Model):
    """An existing Ray cluster, reached over its Serve REST API."""

    address: HttpAddress
    """Address of the Ray dashboard, such as "http://10.0.0.5:8265"."""
    serve_addresses: Annotated[tuple[HttpAddress, ...], Field(min_length=1, max_length=16), Unique()]
    """Addresses of Ray Serve's HTTP proxies, such as "http://10.0.0.5:8000". Give at least two, on different nodes:
    a dead proxy stays down for half a minute."""
    token_secret: SecretReference | None = None
    """Secret with the token of the Ray cluster."""
    allow_open_cluster: bool = False
    """true uses a Ray cluster that answers without a token. Anyone who reaches it can then run code on it."""
    tls: RayTls | None = None
    """How the certificate is checked; absent means by the system's authorities."""

    rules = (
        Rule(
            "has(self.tokenSecret) || self.allowOpenCluster",
            lambda ray: ray.token_secret is not None or ray.allow_open_cluster,
            "spec.backend.ray.tokenSecret is missing: name the Secret with the cluster's token,"
            " or set spec.backend.ray.allowOpenCluster to true",
        ),
        Rule(
            "!has(self.tls) || self.address.startsWith('https://')",
            lambda ray: ray.tls is None or ray.address.startswith("https://"),
            "needs an https:// address: change spec.backend.ray.address, or remove it",
            "tls",
        ),
    )


class BackendSpec(Model):
    """What runs the applications at this site."""

    ray: RayBackend | None = None
    """An existing Ray cluster."""
    kube_ray: KubeRayBackend | None = None
    """Ray clusters that the operator makes with KubeRay."""

    rules = (
        Rule(
            "has(self.ray) || has(self.kubeRay)",
            lambda backend: backend.ray is not None or backend.kube_ray is not None,
            "needs spec.backend.ray or spec.backend.kubeRay: set one of them",
        ),
        Rule(
            "!(has(self.ray) && has(self.kubeRay))",
            lambda backend: backend.ray is None or backend.kube_ray is None,
            "ray and kubeRay exclude each other: remove one of them",
        ),
    )


class LinkSpec(Model):
    """The network between the gateway and this site."""

    bandwidth: Bandwidth | None = None
    """Bandwidth towards the site that is not to be exceeded, such as "100Mbit"; absent leaves it to what gateways measure."""
    rtt: RoundTrip | None = None
    """Round trip time, such as "20ms", until a gateway has measured it."""


class SiteAccelerator(Model):
    """Accelerators of one kind that the site has."""

    type: AcceleratorType
    """Kind of accelerator."""
    count: Annotated[int, Field(ge=1, le=100_000)]
    """How many there are."""
    resource_name: ResourceName | None = None
    """Ray resource that counts them, where it is not the usual one (GPU for gpu, NPU for npu)."""
    model: Annotated[str, Field(max_length=64)] | None = None
    """What they are, such as "H100" or "Ascend 910B", for people."""


class SiteSpec(Model):
    """A place with a Ray cluster."""

    tier: Literal["cloud", "edge"] = "cloud"
    """cloud (large, far from devices) or edge (small, near devices). At kubeRay sites of the tier edge pods stay while the link
    to their node is cut; a change of tier takes other pods there."""
    backend: BackendSpec
    """What runs the applications at this site."""
    link: LinkSpec = LinkSpec()
    """The network between the gateway and this site."""
    accelerators: Annotated[
        Annotated[tuple[SiteAccelerator, ...], Field(max_length=16)] | None,
        NotYet("remove it; Ray reports what the site has"),
    ] = None
    """What the site has, for placement."""
    price: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Price of one replica for one hour, in any currency that all sites share; the cheapest good choice wins."""


class SiteCapacity(Reported):
    """One resource of the site, by Ray's name and in Ray's units."""

    resource: Annotated[str, Field(max_length=128)]
    """Name of the resource, such as "CPU" or "GPU"."""
    total: float
    """How much there is."""
    available: float
    """How much of it is free."""


class DiscoveredAccelerator(Reported):
    """Accelerators of one type that were found at a site; processor cores are those of type cpu."""

    type: AcceleratorType
    """Type, as in spec.worker.accelerator.type of a deployment."""
    total: Annotated[float, Field(ge=0)]
    """How many there are."""
    free: Annotated[float, Field(ge=0)]
    """How many of them nobody holds, on machines that take work."""
    models: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=16)] = ()
    """What they are, as Ray or the labels of nodes tell, such as "H100"."""


class SiteLink(Reported):
    """The network to the site as gateways measure it. Of several gateways the one in the middle counts."""

    rtt: RoundTrip
    """Round trip of a small request to the site."""
    bandwidth: Bandwidth | None = None
    """What an upload of the size of half a screenshot reaches; absent while that is not known, or 50Mbit and more."""
    gateways: Annotated[int, Field(ge=1)]
    """Gateways that measured it."""
    observed_at: AwareDatetime
    """When the figures were seen to be so. They are written anew when one moved by a quarter, at most every five minutes."""


class SiteStatus(Reported):
    """What the operator observed. Nothing is written while nothing changes: times tell since when something is so."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this status is about."""
    conditions: Annotated[tuple[SiteCondition, ...], Field(max_length=8), Unique("type")] = ()
    """Facts about the site."""
    phase: SitePhase | None = None
    """Connected, Stale (not seen for a while) or Unreachable; absent means not looked at yet."""
    since: AwareDatetime | None = None
    """Since when the site answers; of one that is Stale or Unreachable, since when it does not. Absent means never seen."""
    applications: Annotated[int, Field(ge=0)] | None = None
    """Serve applications of this operator that were there."""
    ray_version: Annotated[str, Field(max_length=64)] | None = None
    """Version of Ray that the cluster runs."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What is wrong, in a sentence for people; empty when nothing is."""
    link: SiteLink | None = None
    """The network to the site; absent while no gateway sends requests there."""
    capacity: Annotated[tuple[SiteCapacity, ...], Field(max_length=64), Unique("resource")] = ()
    """Resources of the site: of its Ray cluster, or of the nodes on which KubeRay may run pods."""
    accelerators: Annotated[tuple[DiscoveredAccelerator, ...], Field(max_length=3), Unique("type")] = ()
    """Accelerators by type, as discovered."""
    capacity_observed_at: AwareDatetime | None = None
    """When capacity and accelerators were seen to be so; absent means never. What is free of other resources than accelerators
    is written anew when it moved by a tenth, at most every five minutes."""
    capacity_message: Annotated[str, Field(max_length=1024)] = ""
    """Why capacity could not be seen at the last attempt; empty when it was."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property; pydantic documents this form
    @property
    def free(self) -> Annotated[str, Field(max_length=128)]:
        """Free out of all accelerators by type, such as "5/8 gpu, 12/64 cpu"; empty while nothing is known."""
        order = sorted(self.accelerators, key=lambda one: one.type == "cpu")
        return ", ".join(f"{one.free:.6g}/{one.total:.6g} {one.type}" for one in order)


class AutoGLMSite(Model):
    """A place with a Ray cluster where deployments can run."""

    api_version: Literal["serving.autoglm.dev/v1alpha1"] = API_VERSION
    """Version of this schema."""
    kind: Literal["AutoGLMSite"] = "AutoGLMSite"
    """Kind of this object."""
    metadata: ObjectMeta
    """Standard Kubernetes object metadata."""
    spec: SiteSpec
    """What the site is and how it is reached."""
    status: SiteStatus | None = None
    """What the operator observed. Written by the operator alone."""
