"""The values of the Helm chart: the single source of its values.yaml, values.schema.json and README."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from autoglm_operator.api.text import DnsLabel

Text = Annotated[str, Field(max_length=1024)]
Labels = dict[str, str]
Raw = dict[str, Any]
"""An object of Kubernetes' own API, passed on as it is: the API server checks it."""
Replicas = Annotated[int, Field(ge=0, le=100)]
Port = Annotated[int, Field(ge=1, le=65535)]
Duration = Annotated[str, Field(pattern="^[1-9][0-9]*(s|m)$")]


class Group(BaseModel):
    """Base of all groups of values: camelCase outside, unknown names refused, the docstrings are the documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )


class Image(Group):
    """An image."""

    repository: Text
    """Registry and name."""
    tag: Annotated[str, Field(max_length=128)] = ""
    """Tag; empty means the chart's appVersion."""
    digest: Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest such as "sha256:..."; it wins over the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the node pulls it."""


class Account(Group):
    """A ServiceAccount."""

    create: bool = True
    """Whether the chart makes it."""
    name: Annotated[str, Field(max_length=253)] = ""
    """Its name; empty means a name made from the release."""
    annotations: Labels = {}
    """Annotations of the account, for workload identity."""


class Resources(Group):
    """What a container may use."""

    requests: dict[str, str | int] = {}
    """What is set aside for it."""
    limits: dict[str, str | int] = {}
    """What it may use at most."""


class Budget(Group):
    """A PodDisruptionBudget."""

    enabled: bool = True
    """Whether there is one."""
    max_unavailable: int | str = 1
    """How many pods may be taken away at a time, as a number or in percent."""


class Pods(Group):
    """Where and how pods run."""

    labels: Labels = {}
    """Further labels of the pods."""
    annotations: Labels = {}
    """Further annotations of the pods."""
    node_selector: Labels = {}
    """Labels of the nodes that they may run on."""
    tolerations: list[Raw] = []
    """Taints that they tolerate."""
    affinity: Raw = {}
    """Affinity; empty spreads the pods over nodes where that is possible."""
    priority_class_name: Annotated[str, Field(max_length=253)] = ""
    """Their PriorityClass."""
    env: list[Raw] = []
    """Further environment variables of the container, such as OTEL_EXPORTER_OTLP_ENDPOINT."""


class Crds(Group):
    """The custom resource definitions."""

    install: bool = True
    """Whether the chart installs and upgrades them. One release in a cluster does."""
    keep: bool = True
    """Whether they stay, with every deployment and site, when the release is uninstalled."""


class SiteSecrets(Group):
    """Secrets of one namespace that the operator may read."""

    namespace: DnsLabel
    """Namespace of the Secrets."""
    names: Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(min_length=1)]
    """Names of the Secrets: those that sites name in tokenSecret, caSecret and kubeconfigSecret. No other can be read."""


class KubeRayRights(Group):
    """Rights for sites with the backend kubeRay."""

    namespaces: list[DnsLabel] = []
    """Namespaces in which the operator may make Ray clusters with KubeRay; each must exist. Empty: nowhere."""
    discovery: bool = True
    """Whether the operator may list the nodes and pods of this cluster, where it has such namespaces: from them it reads
    what is free. Without that right placement finds out by trying what fits."""


class Operator(Group):
    """The operator: two processes, of which one leads."""

    image: Image = Image(repository="ghcr.io/autoglm/operator")
    """The image."""
    replicas: Replicas = 2
    """Processes. One leads, by a Lease; another takes over when it goes silent."""
    watch_namespaces: list[DnsLabel] = []
    """Namespaces whose deployments it looks after; each must exist. Empty means all."""
    site_secrets: list[SiteSecrets] = []
    """Secrets of sites that it may read. It can list none."""
    kube_ray: KubeRayRights = KubeRayRights()
    """Rights for sites with the backend kubeRay."""
    gateways: list[Text] = []
    """Admin addresses of gateways elsewhere, such as "http://10.0.0.7:9901", beside those of this chart. They hold the
    same token."""
    lease_seconds: Annotated[int, Field(ge=3, le=300)] = 15
    """How long a leader may be silent before another process takes over."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    service_account: Account = Account()
    """Its ServiceAccount."""
    resources: Resources = Resources(requests={"cpu": "100m", "memory": "192Mi"}, limits={"memory": "512Mi"})
    """What the container may use."""
    pod_disruption_budget: Budget = Budget()
    """How many may be away at a time."""
    pods: Pods = Pods()
    """Where and how its pods run."""


class Token(Group):
    """The secret that the operator and the gateways share: it opens the admin interface and signs routing tables."""

    existing_secret: Annotated[str, Field(max_length=253)] = ""
    """A Secret that is there already. Empty: the chart makes one at the first installation and keeps it. Name one where
    manifests are rendered without a cluster (`helm template`, GitOps), because each rendering would make another token."""
    key: Annotated[str, Field(pattern="^[-._a-zA-Z0-9]{1,253}$")] = "token"
    """Key in the Secret."""


class Autoscaling(Group):
    """A HorizontalPodAutoscaler."""

    enabled: bool = True
    """Whether there is one; it needs metrics-server. Otherwise there are `gateway.replicas`."""
    min_replicas: Annotated[int, Field(ge=1, le=100)] = 2
    """Fewest pods."""
    max_replicas: Annotated[int, Field(ge=1, le=100)] = 6
    """Most pods."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=100)] = 70
    """Share of the requested CPU that pods shall use."""


class Service(Group):
    """The Service that clients use."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Kind of Service."""
    port: Port = 80
    """Port of the OpenAI API."""
    annotations: Labels = {}
    """Annotations, for load balancers."""


class Gateway(Group):
    """The gateway: Envoy, and the picker that decides where each request goes."""

    enabled: bool = True
    """Whether the chart runs one. Without it, name others in `operator.gateways`."""
    image: Image = Image(repository="ghcr.io/autoglm/gateway")
    """The image."""
    replicas: Replicas = 2
    """Pods while `autoscaling.enabled` is false."""
    token: Token = Token()
    """The secret shared with the operator."""
    service: Service = Service()
    """The Service that clients use."""
    listen_address: Literal["0.0.0.0", "[::]"] = "0.0.0.0"  # noqa: S104 - of the pod
    """Address that it listens on; "[::]" in clusters with IPv6."""
    body_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Seconds within which a request must be received whole."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that requests under way get when a pod ends."""
    autoscaling: Autoscaling = Autoscaling()
    """Pods that follow the load."""
    service_account: Account = Account()
    """Its ServiceAccount, which has no rights."""
    resources: Resources = Resources(requests={"cpu": "500m", "memory": "512Mi"}, limits={"memory": "3Gi"})
    """What the container may use. Envoy takes up to 2 GiB before it refuses requests."""
    pod_disruption_budget: Budget = Budget()
    """How many may be away at a time."""
    pods: Pods = Pods()
    """Where and how its pods run."""


class NetworkPolicy(Group):
    """NetworkPolicies: who may connect to the pods of this chart. Nobody else can."""

    enabled: bool = True
    """Whether there are any. They need a network that enforces them."""
    clients: list[Raw] = []
    """Peers (NetworkPolicyPeer) that may use the gateway; empty means everybody."""
    monitoring: list[Raw] = []
    """Peers that may read metrics; empty means everybody."""
    egress: bool = True
    """Whether outgoing connections are limited too: the operator to DNS, to the API server and to the ports below, the
    gateways to DNS and to the ports below."""
    api_server_ports: list[Port] = [443, 6443]
    """Ports of the Kubernetes API server."""
    site_ports: list[Port] = [443, 8000, 8265]
    """Ports of Ray dashboards and of Serve at the sites."""
    extra_egress: list[Raw] = []
    """Further egress rules of operator and gateways, such as for an OpenTelemetry collector."""


class ServiceMonitor(Group):
    """Scraping by the Prometheus operator."""

    enabled: bool = False
    """Whether there are ServiceMonitors."""
    interval: Duration = "30s"
    """How often metrics are read."""
    labels: Labels = {}
    """Labels by which Prometheus finds them."""


class PrometheusRule(Group):
    """Alerts for the Prometheus operator."""

    enabled: bool = False
    """Whether there are alerts."""
    labels: Labels = {}
    """Labels by which Prometheus finds them."""


class Dashboard(Group):
    """A dashboard for Grafana."""

    enabled: bool = False
    """Whether there is a ConfigMap with the dashboard."""
    labels: Labels = {"grafana_dashboard": "1"}
    """Labels by which Grafana's sidecar finds it."""


class Metrics(Group):
    """What Prometheus and Grafana get. Metrics themselves are always there."""

    service_monitor: ServiceMonitor = ServiceMonitor()
    """Scraping by the Prometheus operator."""
    prometheus_rule: PrometheusRule = PrometheusRule()
    """Alerts for the Prometheus operator."""
    dashboard: Dashboard = Dashboard()
    """A dashboard for Grafana."""


class KubeRay(Group):
    """The chart of the KubeRay operator as a dependency. Further values go to that chart."""

    model_config = ConfigDict(extra="allow")

    enabled: bool = False
    """Whether KubeRay is installed with this release. Leave it off where KubeRay is there already."""


class Values(Group):
    """Values of the chart autoglm."""

    name_override: Annotated[str, Field(max_length=40)] = ""
    """Replaces the chart's name in names and labels."""
    fullname_override: Annotated[str, Field(max_length=40)] = ""
    """Replaces the beginning of all names, which is otherwise made from the release and the chart."""
    common_labels: Labels = {}
    """Further labels of every object."""
    image_pull_secrets: list[Raw] = []
    """Secrets for pulling images, each as {name: ...}."""
    crds: Crds = Crds()
    """The custom resource definitions."""
    operator: Operator = Operator()
    """The operator: two processes, of which one leads."""
    gateway: Gateway = Gateway()
    """The gateway: Envoy, and the picker that decides where each request goes."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """NetworkPolicies: who may connect to the pods of this chart."""
    metrics: Metrics = Metrics()
    """What Prometheus and Grafana get."""
    kuberay: Annotated[KubeRay, Field(alias="kuberay-operator")] = KubeRay()
    """The chart of the KubeRay operator as a dependency."""
    global_: Annotated[Raw, Field(alias="global")] = {}
    """Given by Helm to every chart; not used."""
