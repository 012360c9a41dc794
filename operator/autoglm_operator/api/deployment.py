"""`AutoGLMDeployment`: a model that shall answer at some sites, and how."""

from typing import Annotated, Any, Literal

from pydantic import Field

from autoglm_operator.api.base import API_VERSION, Check, Model, Rule, Unique
from autoglm_operator.api.deployment_status import DeploymentStatus
from autoglm_operator.api.encoder import EncoderSpec
from autoglm_operator.api.metadata import ObjectMeta
from autoglm_operator.api.model import TRANSFORMERS_QUANTIZATIONS, ModelSpec
from autoglm_operator.api.placement import PlacementSpec
from autoglm_operator.api.scaling import ScalingSpec
from autoglm_operator.api.selector import SiteSelector
from autoglm_operator.api.text import (
    Cpus,
    Deadline,
    DnsLabel,
    Memory,
    OptionName,
    ResourceName,
)
from autoglm_operator.api.traffic import LimitsSpec, ResolutionSpec, RolloutSpec, RoutingSpec

AcceleratorType = Literal["cpu", "gpu", "npu"]

_OPTION_NAMES = Check(
    "self.all(name, name.matches('^[a-zA-Z][a-zA-Z0-9_]{0,63}$'))",
    lambda options: all(name.isascii() and name.isidentifier() and name[0] != "_" for name in options),
    "must have option names of letters, digits and _ only, such as max_num_seqs",
)


class Parallelism(Model):
    """How one replica is split over accelerators."""

    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    """Tensor parallel size: over how many accelerators of one node one replica splits each layer. On cpu, over how many
    processes, which share spec.worker.resources.cpu."""


class EngineSpec(Model):
    """What runs the model."""

    name: Literal["transformers", "vllm"] = "transformers"
    """Engine: transformers (runs everywhere) or vllm (fast; needs the vllm extra in the site's image)."""
    parallelism: Parallelism = Parallelism()
    """How one replica is split over accelerators."""
    max_model_len: Annotated[int, Field(ge=512, le=1_048_576)] = 25480
    """Longest prompt plus answer, in tokens, images included."""
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 4
    """How many requests one replica works on at the same time; more wait in the queue."""
    options: Annotated[
        dict[OptionName, Annotated[int | Annotated[str, Field(max_length=256)], Field()]],
        Field(max_length=32),
        _OPTION_NAMES,
    ] = Field(default={})
    """Further options of the engine. Write fractions and booleans as text, such as "0.9" or "true"."""

    rules = (
        Rule(
            "self.parallelism.tensor in [1, 2, 4, 8]",
            lambda engine: engine.parallelism.tensor in (1, 2, 4, 8),
            "must be 1, 2, 4 or 8: set it to one of them",
            "parallelism.tensor",
        ),
        Rule(
            "self.name != 'transformers' || self.parallelism.tensor == 1 || !('variant' in self.options)"
            " || self.options['variant'] == 'none'",
            lambda engine: _whole(engine) or engine.options.get("variant", "none") == "none",
            "must not have a variant with tensor parallelism, which cannot split such weights: remove variant, or set"
            " spec.engine.parallelism.tensor to 1",
            "options",
        ),
        Rule(
            "self.name != 'transformers' || self.parallelism.tensor == 1 || !('device' in self.options)"
            " || self.options['device'] in ['auto', 'cpu', 'cuda', 'npu']",
            lambda engine: _whole(engine) or engine.options.get("device", "auto") in ("auto", "cpu", "cuda", "npu"),
            "must have auto, cpu, cuda or npu as device with tensor parallelism, which takes several devices: remove device",
            "options",
        ),
    )


def _whole(engine: EngineSpec) -> bool:
    return engine.name != "transformers" or engine.parallelism.tensor == 1


class AcceleratorSpec(Model):
    """The accelerators of one replica."""

    type: AcceleratorType = "cpu"
    """Kind of accelerator: cpu (none), gpu or npu."""
    resource_name: ResourceName | None = None
    """Ray resource that is counted, where it is not the usual one (GPU for gpu, NPU for npu)."""
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    """Accelerators of one replica. Absent means as many as spec.engine.parallelism.tensor; must be absent for cpu."""

    rules = (
        Rule(
            "self.type != 'cpu' || !has(self.count)",
            lambda accelerator: accelerator.type != "cpu" or accelerator.count is None,
            "must be absent with type cpu: remove it, or set spec.worker.accelerator.type to gpu or npu",
            "count",
        ),
        Rule(
            "self.type != 'cpu' || !has(self.resourceName)",
            lambda accelerator: accelerator.type != "cpu" or accelerator.resource_name is None,
            "must be absent with type cpu: remove it, or set spec.worker.accelerator.type to gpu or npu",
            "resourceName",
        ),
    )


class ResourceSpec(Model):
    """What one replica takes from its machine besides accelerators."""

    cpu: Cpus = 1
    """CPU cores of one replica, such as 2, "1.5" or "500m"."""
    memory: Memory | None = None
    """Memory of the pod of one replica at sites with the back end kubeRay, such as "16Gi"; absent means 4Gi and 8Gi more
    for each accelerator. An existing Ray cluster does not hold replicas to a limit, so there it has no effect."""


class WorkerSpec(Model):
    """What one replica needs to run."""

    accelerator: AcceleratorSpec = AcceleratorSpec()
    """The accelerators of one replica."""
    resources: ResourceSpec = ResourceSpec()
    """CPU of one replica."""
    template: dict[str, Any] | None = None
    """Pod template of the workers at sites with the back end kubeRay, merged over the one that the operator makes: maps by
    key, lists of named entries by name, all else replaced. The Ray container is called "worker". An existing Ray cluster
    has its pods already, so there it has no effect."""


class SitesSpec(Model):
    """Where the model runs. Absent means every site."""

    names: Annotated[tuple[DnsLabel, ...], Field(min_length=1, max_length=64), Unique()] | None = None
    """Names of the sites."""
    selector: SiteSelector | None = None
    """Labels of the sites; a site that gets the labels later joins."""
    quorum: Annotated[int, Field(ge=1, le=100)] = 100
    """Percent of the sites in use that have to be in order for Ready. What is not in order is told by Degraded all the same."""

    rules = (
        Rule(
            "!(has(self.names) && has(self.selector))",
            lambda sites: sites.names is None or sites.selector is None,
            "names and selector exclude each other: remove one of them",
        ),
    )


def _quantizations(spec: "DeploymentSpec") -> list[str]:
    return [one.quantization for one in spec.model.variants or () if one.quantization is not None]


_VARIANT_RULES = (
    Rule(
        "self.engine.name != 'transformers' || !has(self.model.variants) || self.model.variants.all(variant,"
        f" !has(variant.quantization) || variant.quantization in {list(TRANSFORMERS_QUANTIZATIONS)})",
        lambda spec: spec.engine.name != "transformers" or set(_quantizations(spec)) <= set(TRANSFORMERS_QUANTIZATIONS),
        "must have int8-dynamic, int8-weight or int4-weight as quantization with the transformers engine: change it, or set"
        " spec.engine.name to vllm",
        "model.variants",
    ),
    Rule(
        "self.engine.name != 'transformers' || self.engine.parallelism.tensor == 1 || !has(self.model.variants)"
        " || !self.model.variants.exists(variant, has(variant.quantization))",
        lambda spec: _whole(spec.engine) or not _quantizations(spec),
        "must not have a quantization with tensor parallelism, which cannot split such weights: remove it, or set"
        " spec.engine.parallelism.tensor to 1",
        "model.variants",
    ),
    Rule(
        "!has(self.model.variants) || (!('variant' in self.engine.options) && !('quantization' in self.engine.options))",
        lambda spec: spec.model.variants is None or not {"variant", "quantization"} & set(spec.engine.options),
        "must not have variant or quantization with spec.model.variants, which say it for each site: remove it",
        "engine.options",
    ),
    Rule(
        "!has(self.model.variants) || !has(self.rollout.steps)",
        lambda spec: spec.model.variants is None or spec.rollout.steps is None,
        "must be absent with spec.rollout.steps, where one revision is for all sites: remove it, or remove the steps",
        "model.variants",
    ),
)


class DeploymentSpec(Model):
    """What shall be served, where and how."""

    model: ModelSpec
    """The model to serve."""
    engine: EngineSpec = EngineSpec()
    """What runs the model."""
    worker: WorkerSpec = WorkerSpec()
    """What one replica needs to run."""
    encoder: EncoderSpec | None = None
    """Encoders apart from the replicas. Absent: each replica encodes images itself. Needs the transformers engine, and sites
    with the back end ray."""
    sites: SitesSpec = SitesSpec()
    """Where the model runs. Absent means every site."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Replicas on each selected site; with spec.placement, on all of them together. 0 takes the application off the sites
    and serves nothing. `kubectl scale` sets it. Leave it out with spec.scaling."""
    placement: PlacementSpec | None = None
    """Places the replicas over the selected sites. Absent means that every selected site runs spec.replicas."""
    scaling: ScalingSpec | None = None
    """Replicas that follow the load, in the place of spec.replicas. Once it is taken out spec.replicas holds at once, which is
    1 unless the same change sets it."""
    resolution: ResolutionSpec = ResolutionSpec()
    """In which resolution the model sees screenshots."""
    routing: RoutingSpec = RoutingSpec()
    """How the gateway chooses an endpoint for a request."""
    limits: LimitsSpec = LimitsSpec()
    """Bounds on one request."""
    rollout: RolloutSpec = RolloutSpec()
    """How much a change may take beyond the wanted replicas, and how much it may leave away."""
    suspend: bool = False
    """true takes the model off every site and out of the gateway, and keeps the resource."""
    deletion_deadline: Deadline = "5m"
    """How long deletion waits for sites that cannot be reached before it gives up on cleaning them."""

    rules = (
        Rule(
            "!has(self.worker.accelerator.count) || self.worker.accelerator.count == self.engine.parallelism.tensor",
            lambda spec: spec.worker.accelerator.count in (None, spec.engine.parallelism.tensor),
            "must be spec.engine.parallelism.tensor, over which a replica is split: set both to the same number,"
            " or remove it",
            "worker.accelerator.count",
        ),
        Rule(
            "self.engine.parallelism.tensor == 1 || !has(self.worker.accelerator.resourceName)"
            " || self.worker.accelerator.resourceName in ['GPU', 'NPU']",
            lambda spec: (
                spec.engine.parallelism.tensor == 1 or spec.worker.accelerator.resource_name in (None, "GPU", "NPU")
            ),
            "must be GPU or NPU with tensor parallelism, because Ray gives each process devices of its own by these names"
            " alone: remove it, or set spec.engine.parallelism.tensor to 1",
            "worker.accelerator.resourceName",
        ),
        Rule(
            "!has(self.encoder) || self.engine.name == 'transformers'",
            lambda spec: spec.encoder is None or spec.engine.name == "transformers",
            "must be absent with the vllm engine, which encodes images itself: remove it, or set spec.engine.name to"
            " transformers",
            "encoder",
        ),
        # The API server fills in 1 where it is absent, and `kubectl scale` and autoscalers write here.
        Rule(
            "!has(self.scaling) || self.replicas == 1",
            lambda spec: spec.scaling is None or spec.replicas == 1,
            "must be absent with spec.scaling, which decides how many replicas there are: remove it and set"
            " spec.scaling.min and spec.scaling.max, or remove spec.scaling",
            "replicas",
        ),
        *_VARIANT_RULES,
    )


class AutoGLMDeployment(Model):
    """An AutoGLM model that answers screenshots at some sites."""

    api_version: Literal["serving.autoglm.dev/v1alpha1"] = API_VERSION
    """Version of this schema."""
    kind: Literal["AutoGLMDeployment"] = "AutoGLMDeployment"
    """Kind of this object."""
    metadata: ObjectMeta
    """Standard Kubernetes object metadata."""
    spec: DeploymentSpec
    """What shall be served, where and how."""
    status: DeploymentStatus | None = None
    """What the operator observed. Written by the operator alone."""
