"""The KubeRay back end of a site: Ray clusters that the operator makes as RayServices, and how their pods run."""

from typing import Annotated, Literal

from pydantic import Field

from autoglm_operator.api.base import Model, Rule, Unique
from autoglm_operator.api.secrets import SecretReference
from autoglm_operator.api.text import Cpus, DnsLabel, HttpAddress, LabelValue, Memory, ResourceName, SecretKey

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]


class KubeconfigReference(SecretReference):
    """A key of a Secret that holds a kubeconfig."""

    key: SecretKey = "kubeconfig"
    """Key in the Secret."""


class Toleration(Model):
    """A taint that pods put up with, as in Kubernetes."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Key of the taint; absent with operator Exists means every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal compares the value; Exists takes any value."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; absent means every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """How long a pod stays after the taint came, with effect NoExecute; absent means for ever."""

    rules = (
        Rule(
            "has(self.key) || self.operator == 'Exists'",
            lambda one: one.key is not None or one.operator == "Exists",
            "needs a key with operator Equal: set it, or operator to Exists",
            "key",
        ),
    )


class TopologySpread(Model):
    """How worker pods are spread over zones or nodes."""

    topology_key: LabelKey
    """Label of nodes over whose values pods are spread, such as "topology.kubernetes.io/zone"."""
    max_skew: Annotated[int, Field(ge=1, le=100)] = 1
    """Largest difference in the number of pods."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """What happens to a pod that cannot be placed so."""


class HeadSpec(Model):
    """The pod of the Ray head, which runs no replica."""

    cpu: Cpus = 2
    """CPU cores."""
    memory: Memory = "4Gi"
    """Memory. Ray's own figures for the head begin at 4Gi."""


class RedisPassword(Model):
    """A key of a Secret in the namespace of the RayServices."""

    name: ObjectName
    """Name of the Secret."""
    key: SecretKey = "password"
    """Key in the Secret."""


class GcsFaultTolerance(Model):
    """Where the head keeps its state, so that replicas go on serving while it is started anew."""

    claim: DnsLabel | None = None
    """PersistentVolumeClaim in the namespace of the RayServices, for RocksDB. Needs Ray 2.60."""
    redis_address: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Address of a Redis, such as "redis:6379"."""
    redis_password: RedisPassword | None = None
    """Password of the Redis."""

    rules = (
        Rule(
            "has(self.claim) != has(self.redisAddress)",
            lambda gcs: (gcs.claim is None) != (gcs.redis_address is None),
            "needs either claim or redisAddress: set one of them",
        ),
        Rule(
            "!has(self.redisPassword) || has(self.redisAddress)",
            lambda gcs: gcs.redis_password is None or gcs.redis_address is not None,
            "has no effect without redisAddress: remove it, or set redisAddress",
            "redisPassword",
        ),
    )


class DeviceNames(Model):
    """Kubernetes resources that count accelerators on the nodes."""

    gpu: ResourceName = "nvidia.com/gpu"
    """Resource for accelerators of type gpu."""
    npu: ResourceName = "huawei.com/Ascend910"
    """Resource for accelerators of type npu."""


class KubeRayBackend(Model):
    """Ray clusters that the operator makes with KubeRay: one RayService for each deployment, two during a rollout in steps."""

    namespace: DnsLabel
    """Namespace of the RayServices. It must exist."""
    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Image of head and workers: Ray with this project's serving package."""
    ray_version: Annotated[str, Field(max_length=32)] = "2.60.0"
    """Version of Ray in the image."""
    image_pull_secrets: Annotated[tuple[ObjectName, ...], Field(max_length=8), Unique()] = ()
    """Secrets in the namespace with which nodes pull the image."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default={})
    """Labels of the nodes that pods may run on."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of nodes that pods put up with."""
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """PriorityClass of all pods."""
    topology_spread: Annotated[tuple[TopologySpread, ...], Field(max_length=4)] = ()
    """How worker pods are spread over zones or nodes."""
    head: HeadSpec = HeadSpec()
    """The pod of the Ray head."""
    devices: DeviceNames = DeviceNames()
    """Kubernetes resources that count accelerators on the nodes."""
    token_secret: ObjectName | None = None
    """Secret in the namespace with the token of the Ray clusters under the key "auth_token". Absent means that KubeRay
    makes a token for each cluster."""
    gcs_fault_tolerance: GcsFaultTolerance | None = None
    """Where the head keeps its state; absent means in memory: replicas are started anew when the head is lost."""
    kubeconfig_secret: KubeconfigReference | None = None
    """Secret with the kubeconfig of another Kubernetes cluster; absent means this one."""
    serve_addresses: Annotated[tuple[HttpAddress, ...], Field(max_length=16), Unique()] = ()
    """Addresses by which gateways reach Ray Serve at this site, one path for each deployment (an ingress or a load
    balancer). Absent means the Services in the cluster, which only gateways in this cluster reach."""

    rules = (
        Rule(
            "!has(self.kubeconfigSecret) || (has(self.serveAddresses) && size(self.serveAddresses) > 0)",
            lambda kube: kube.kubeconfig_secret is None or bool(kube.serve_addresses),
            "needs an address with kubeconfigSecret: set spec.backend.kubeRay.serveAddresses to what gateways can reach",
            "serveAddresses",
        ),
    )
