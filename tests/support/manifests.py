"""Manifests that the API takes and manifests that it refuses, for pydantic and for a real API server alike."""

import copy
from typing import Any, NamedTuple

Json = dict[str, Any]

UNKNOWN = "unknown field"


class Refused(NamedTuple):
    """A change to a good manifest that makes it bad; `field` and `message` are what the user reads."""

    name: str
    kind: str
    changes: Json
    field: str
    message: str


class Accepted(NamedTuple):
    """A change to a good manifest that keeps it good."""

    name: str
    kind: str
    changes: Json


def deployment(name: str = "phones", **spec: Any) -> Json:
    """A small valid AutoGLMDeployment; `spec` replaces fields of it."""
    model = {"name": "autoglm-phone-9b", "uri": "builtin://autoglm-tiny"}
    return _object("AutoGLMDeployment", name, {"model": model, **spec})


def site(name: str = "region-1", **spec: Any) -> Json:
    """A small valid AutoGLMSite; `spec` replaces fields of it."""
    return _object("AutoGLMSite", name, {"backend": {"ray": ray()}, **spec})


def ray(**changes: Any) -> Json:
    """A valid `backend.ray`; a change to None removes a field."""
    backend: Json = {
        "address": "http://10.0.0.5:8265",
        "serveAddresses": ["http://10.0.0.5:8000"],
        "tokenSecret": {"namespace": "autoglm", "name": "ray"},
    }
    return {key: value for key, value in (backend | changes).items() if value is not None}


def kuberay(**changes: Any) -> Json:
    """A valid `backend.kubeRay`; a change to None removes a field."""
    backend: Json = {"namespace": "ray", "image": "registry.example/autoglm-serving:1"}
    return {key: value for key, value in (backend | changes).items() if value is not None}


def manifest(case: Refused | Accepted) -> Json:
    """The manifest of a case. A key with dots reaches into it; None removes."""
    made = deployment() if case.kind == "deployment" else site()
    for path, value in copy.deepcopy(case.changes).items():
        *parents, last = path.split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return made


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": "serving.autoglm.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _d(name: str, changes: Json, field: str, message: str) -> Refused:
    return Refused(name, "deployment", changes, field, message)


def _s(name: str, changes: Json, field: str, message: str) -> Refused:
    return Refused(name, "site", changes, field, message)


def _not_yet(kind: str, field: str, value: Any, remedy: str = "remove it") -> Refused:
    return Refused(f"{field} has no effect yet", kind, {field: value}, field, f"{field} is not supported yet: {remedy}")


_INT8: Json = {"name": "int8", "quantization": "int8-weight"}
_SOLVED: Json = {"right": 38, "samples": 131}
_LABEL = "must be a DNS label: at most 63 of a-z, 0-9"
_URI = (
    "must be builtin://autoglm-tiny, builtin://autoglm-tiny-grounded, file:///absolute/path or hf://organisation/model"
)
_MODEL = 'must be a model id such as "autoglm-phone-9b"'
_CPU = 'must be CPU cores from 1m to 9999, such as 2, "1.5" or "500m"'
_ADDRESS = "must be http://HOST:PORT or https://HOST:PORT, with the port and without a path"
_BANDWIDTH = 'must be a bandwidth above zero, such as "800kbit", "100Mbit" or "1Gbit"'
_NO_CPU = "must be absent with type cpu: remove it, or set spec.worker.accelerator.type to gpu or npu"
_SECRET = {"namespace": "autoglm", "name": "ca", "key": "ca.crt"}
_GPU = {"type": "gpu"}
ROLLOUT = {"maxSurge": 1, "steps": [{"weight": 5}]}

REFUSED_DEPLOYMENTS = (
    _not_yet(
        "deployment", "spec.scaling", {"max": 3, "forecast": {}}, "remove it; replicas follow the load as it is"
    )._replace(field="spec.scaling.forecast", message="spec.scaling.forecast is not supported yet: remove it;"),
    _d("empty scaling", {"spec.scaling": {}}, "spec.scaling.max", "Required value"),
    _d("scaling upside down", {"spec.scaling": {"min": 3, "max": 2}}, "spec.scaling.min", "must not be above"),
    _d("scaling to nothing", {"spec.scaling": {"max": 0}}, "spec.scaling.max", "greater than or equal to 1"),
    _d(
        "two owners of replicas",
        {"spec.scaling": {"max": 3}, "spec.replicas": 2},
        "spec.replicas",
        "must be absent with spec.scaling, which decides how many replicas there are",
    ),
    _d(
        "replicas that go at once",
        {"spec.scaling": {"max": 3, "downAfter": "5s"}},
        "spec.scaling.downAfter",
        "must be a duration between 10s and 1h",
    ),
    _d(
        "a variant that is the model itself",
        {"spec.model.variants": [{"name": "same"}]},
        "spec.model.variants[0]",
        "is the model itself without quantization and uri: set one of them",
    ),
    _d(
        "a variant called base",
        {"spec.model.variants": [_INT8 | {"name": "base"}]},
        "spec.model.variants[0].name",
        "must not be base, which is what the model itself is called: choose another name",
    ),
    _d("a variant twice", {"spec.model.variants": [_INT8, _INT8]}, "spec.model.variants[1]", "Duplicate value"),
    _d("no variants", {"spec.model.variants": []}, "spec.model.variants", "should have at least 1 items"),
    _d(
        "a quantization with a space",
        {"spec.model.variants": [{"name": "int8", "quantization": "int8 weight"}], "spec.engine.name": "vllm"},
        "spec.model.variants[0].quantization",
        "must be the name of a quantization such as int8-weight",
    ),
    _d(
        "a quantization of the other engine",
        {"spec.model.variants": [{"name": "fp8", "quantization": "fp8"}]},
        "spec.model.variants",
        "must have int8-dynamic, int8-weight or int4-weight as quantization with the transformers engine: change it, or set"
        " spec.engine.name to vllm",
    ),
    _d(
        "shards of a named variant",
        {"spec.model.variants": [_INT8], "spec.engine.parallelism.tensor": 2},
        "spec.model.variants",
        "must not have a quantization with tensor parallelism, which cannot split such weights: remove it, or set"
        " spec.engine.parallelism.tensor to 1",
    ),
    _d(
        "a variant by option and by name",
        {"spec.model.variants": [_INT8], "spec.engine.options": {"variant": "int4-weight"}},
        "spec.engine.options",
        "must not have variant or quantization with spec.model.variants, which say it for each site: remove it",
    ),
    _d(
        "a quantization by option and by name",
        {
            "spec.model.variants": [_INT8 | {"quantization": "fp8"}],
            "spec.engine": {"name": "vllm", "options": {"quantization": "awq"}},
        },
        "spec.engine.options",
        "must not have variant or quantization with spec.model.variants, which say it for each site: remove it",
    ),
    _d(
        "variants in steps",
        {"spec.model.variants": [_INT8], "spec.rollout": {"maxSurge": 1, "steps": [{"weight": 5}]}},
        "spec.model.variants",
        "must be absent with spec.rollout.steps, where one revision is for all sites: remove it, or remove the steps",
    ),
    _d(
        "a quality without variants",
        {"spec.model.quality": _SOLVED},
        "spec.model.quality",
        "has no effect without variants: add spec.model.variants, or remove it",
    ),
    _d(
        "a floor without variants",
        {"spec.model.qualityFloor": 0.9},
        "spec.model.qualityFloor",
        "has no effect without variants: add spec.model.variants, or remove it",
    ),
    _d(
        "a share of nothing",
        {"spec.model.variants": [_INT8 | {"quality": _SOLVED}]},
        "spec.model.quality",
        "must be there, with right above 0, where a variant has a quality, which is a share of it",
    ),
    _d(
        "a share of a model that solves nothing",
        {"spec.model.variants": [_INT8 | {"quality": _SOLVED}], "spec.model.quality": {"right": 0, "samples": 9}},
        "spec.model.quality",
        "must be there, with right above 0, where a variant has a quality, which is a share of it",
    ),
    _d(
        "a floor of a variant that nobody measured",
        {"spec.model.variants": [_INT8], "spec.model.qualityFloor": 0.9},
        "spec.model.variants",
        "must all have a quality with spec.model.qualityFloor: measure it by `python -m benchmarks variants`, or remove"
        " qualityFloor",
    ),
    _d(
        "more tasks right than asked",
        {"spec.model.variants": [_INT8 | {"quality": {"right": 9, "samples": 8}}], "spec.model.quality": _SOLVED},
        "spec.model.variants[0].quality.right",
        "must not be above samples: lower it",
    ),
    _d(
        "a variant for names and a selector",
        {"spec.model.variants": [_INT8 | {"sites": {"names": ["a"], "selector": {}}}]},
        "spec.model.variants[0].sites",
        "names and selector exclude each other: remove one of them",
    ),
    _d(
        "memory in decimal units",
        {"spec.worker.resources.memory": "16GB"},
        "spec.worker.resources.memory",
        'must be an amount of memory in Mi, Gi or Ti, such as "512Mi" or "16Gi"',
    ),
    _d(
        "a percent of a step that is not there",
        {"spec.rollout": ROLLOUT | {"steps": [{}]}},
        "spec.rollout.steps[0].weight",
        "Required value",
    ),
    _d(
        "a step with everything",
        {"spec.rollout": ROLLOUT | {"steps": [{"weight": 100}]}},
        "spec.rollout.steps[0].weight",
        "equal to 99",
    ),
    _d("no step", {"spec.rollout": ROLLOUT | {"steps": []}}, "spec.rollout.steps", "should have at least 1 items"),
    _d(
        "steps without room",
        {"spec.rollout": ROLLOUT | {"maxSurge": 0}},
        "spec.rollout.maxSurge",
        "must be at least 1 with steps, since both revisions run side by side: set spec.rollout.maxSurge to 1 or more",
    ),
    _d(
        "steps that fall",
        {"spec.rollout": ROLLOUT | {"steps": [{"weight": 10}, {"weight": 5}]}},
        "spec.rollout.steps",
        "must not fall in weight from one step to the next",
    ),
    _d(
        "gates without steps",
        {"spec.rollout": {"gates": [{"metric": "errors", "maximum": 0.1}]}},
        "spec.rollout.steps",
        "must be set with gates, mirror, revision or paused, which have no effect without",
    ),
    _d(
        "a pause without steps",
        {"spec.rollout": {"paused": True}},
        "spec.rollout.steps",
        "must be set with gates, mirror, revision or paused, which have no effect without",
    ),
    _d(
        "agreement without a mirror",
        {"spec.rollout": ROLLOUT | {"gates": [{"metric": "agreement", "minimum": 0.9}]}},
        "spec.rollout.mirror",
        "must be set with a percent above 0 for the gate agreement, which compares mirrored requests",
    ),
    _d(
        "agreement without a minimum",
        {"spec.rollout": ROLLOUT | {"mirror": {"percent": 5}, "gates": [{"metric": "agreement"}]}},
        "spec.rollout.gates[0].minimum",
        "must be set with metric agreement, and only there",
    ),
    _d(
        "errors without a maximum",
        {"spec.rollout": ROLLOUT | {"gates": [{"metric": "errors"}]}},
        "spec.rollout.gates[0].maximum",
        "must be set with metric errors, must be absent with metric agreement, and may give way to maximumRatio otherwise",
    ),
    _d(
        "a ratio of errors",
        {"spec.rollout": ROLLOUT | {"gates": [{"metric": "errors", "maximum": 0.1, "maximumRatio": 2}]}},
        "spec.rollout.gates[0].maximumRatio",
        "can be set with metric ttft and latency only",
    ),
    _d(
        "a gate twice",
        {
            "spec.rollout": ROLLOUT
            | {"gates": [{"metric": "errors", "maximum": 0.1}, {"metric": "errors", "maximum": 0.2}]}
        },
        "spec.rollout.gates[1]",
        'Duplicate value: {"metric":"errors"}',
    ),
    _d(
        "a hold without a unit",
        {"spec.rollout": ROLLOUT | {"steps": [{"weight": 5, "hold": "10"}]}},
        "spec.rollout.steps[0].hold",
        "must be a duration between 0s and 24h",
    ),
    _d("a negative surge", {"spec.rollout": {"maxSurge": -1}}, "spec.rollout.maxSurge", "equal to 0"),
    _d(
        "a quality floor without measurements",
        {"spec.resolution": {"qualityFloor": 0.9}},
        "spec.resolution.qualityFloor",
        "needs measurements: add spec.resolution.quality, or remove it",
    ),
    _d(
        "more right than asked",
        {"spec.resolution": {"quality": [{"shortSide": 480, "right": 3, "samples": 2}]}},
        "spec.resolution.quality[0].right",
        "must not be above samples: lower it",
    ),
    _not_yet("deployment", "spec.routing.slo.latency", "5s", "remove it and set spec.routing.slo.ttft"),
    _not_yet("deployment", "spec.routing.spillover", {}, "remove it; requests already go to every site in spec.sites"),
    _not_yet("deployment", "spec.routing.mirror", {"name": "next", "percent": 5}),
    _not_yet("deployment", "spec.routing.canary", {"name": "next", "percent": 5}),
    _d("a name with a dot", {"metadata.name": "phones.v2"}, "metadata.name", _LABEL),
    _d("a name that is too long", {"metadata.name": "x" * 64}, "metadata.name", "Too long"),
    _d("no model", {"spec.model": None}, "spec.model", "Required value"),
    _d("no model name", {"spec.model.name": None}, "spec.model.name", "Required value"),
    _d("no model URI", {"spec.model.uri": None}, "spec.model.uri", "Required value"),
    _d("an empty model name", {"spec.model.name": ""}, "spec.model.name", _MODEL),
    _d("a model name with a space", {"spec.model.name": "phone 9b"}, "spec.model.name", _MODEL),
    _d("a model name with a newline", {"spec.model.name": "phone\n"}, "spec.model.name", _MODEL),
    _d("a model name that is too long", {"spec.model.name": "a" * 129}, "spec.model.name", "Too long"),
    _d("an unknown URI scheme", {"spec.model.uri": "s3://weights/phone"}, "spec.model.uri", _URI),
    _d("an unknown built-in model", {"spec.model.uri": "builtin://huge"}, "spec.model.uri", _URI),
    _d("a relative path", {"spec.model.uri": "file://weights"}, "spec.model.uri", _URI),
    _d("a repository without an organisation", {"spec.model.uri": "hf://phone"}, "spec.model.uri", _URI),
    _d(
        "an unknown engine", {"spec.engine.name": "tgi"}, "spec.engine.name", 'supported values: "transformers", "vllm"'
    ),
    _d(
        "three shards",
        {"spec.engine.parallelism": {"tensor": 3}, "spec.worker.accelerator": _GPU},
        "spec.engine.parallelism.tensor",
        "must be 1, 2, 4 or 8: set it to one of them",
    ),
    _d(
        "shards of a variant",
        {"spec.engine": {"parallelism": {"tensor": 2}, "options": {"variant": "int8-weight"}}},
        "spec.engine.options",
        "must not have a variant with tensor parallelism, which cannot split such weights: remove variant, or set"
        " spec.engine.parallelism.tensor to 1",
    ),
    _d(
        "shards on one device",
        {"spec.engine": {"parallelism": {"tensor": 2}, "options": {"device": "cuda:1"}}},
        "spec.engine.options",
        "must have auto, cpu, cuda or npu as device with tensor parallelism, which takes several devices: remove device",
    ),
    _d(
        "three shards with vllm",
        {"spec.engine": {"name": "vllm", "parallelism": {"tensor": 3}}, "spec.worker.accelerator": _GPU},
        "spec.engine.parallelism.tensor",
        "must be 1, 2, 4 or 8: set it to one of them",
    ),
    _d(
        "no tensor parallel",
        {"spec.engine.parallelism.tensor": 0},
        "spec.engine.parallelism.tensor",
        "should be greater than or equal to 1",
    ),
    _d("a context that is too short", {"spec.engine.maxModelLen": 100}, "spec.engine.maxModelLen", "equal to 512"),
    _d("no concurrency", {"spec.engine.maxConcurrency": 0}, "spec.engine.maxConcurrency", "equal to 1"),
    _d(
        "an option that is a flag",
        {"spec.engine.options": {"--trust-remote-code": "true"}},
        "spec.engine.options",
        "must have option names of letters, digits and _ only, such as max_num_seqs",
    ),
    _d(
        "an option that is too long",
        {"spec.engine.options": {"chat_template": "x" * 257}},
        "spec.engine.options.chat_template",
        "Too long: may not be more than 256 bytes",
    ),
    _d(
        "an option with a fraction",
        {"spec.engine.options": {"gpu_memory_utilization": 0.9}},
        "spec.engine.options.gpu_memory_utilization",
        "must be of type integer",
    ),
    _d(
        "an unknown accelerator",
        {"spec.worker.accelerator.type": "tpu"},
        "spec.worker.accelerator.type",
        'supported values: "cpu", "gpu", "npu"',
    ),
    _d("accelerators of a cpu", {"spec.worker.accelerator.count": 1}, "spec.worker.accelerator.count", _NO_CPU),
    _d(
        "a resource of a cpu",
        {"spec.worker.accelerator.resourceName": "GPU"},
        "spec.worker.accelerator.resourceName",
        _NO_CPU,
    ),
    _d(
        "more accelerators than shards",
        {"spec.worker.accelerator": {"type": "gpu", "count": 2}},
        "spec.worker.accelerator.count",
        "must be spec.engine.parallelism.tensor, over which a replica is split: set both to the same number, or remove it",
    ),
    _d(
        "shards on a resource of the user's own",
        {
            "spec.engine.parallelism.tensor": 2,
            "spec.worker.accelerator": {"type": "gpu", "resourceName": "H100"},
        },
        "spec.worker.accelerator.resourceName",
        "must be GPU or NPU with tensor parallelism, because Ray gives each process devices of its own by these names alone:"
        " remove it, or set spec.engine.parallelism.tensor to 1",
    ),
    _d("CPU with a wrong unit", {"spec.worker.resources.cpu": "2 cores"}, "spec.worker.resources.cpu", _CPU),
    _d("too many CPUs", {"spec.worker.resources.cpu": 10_000}, "spec.worker.resources.cpu", _CPU),
    _d("no CPU", {"spec.worker.resources.cpu": 0}, "spec.worker.resources.cpu", _CPU),
    _d("no CPU as text", {"spec.worker.resources.cpu": "0.0"}, "spec.worker.resources.cpu", _CPU),
    _d("CPU as a fraction", {"spec.worker.resources.cpu": 1.5}, "spec.worker.resources.cpu", "must be of type integer"),
    _d(
        "names and a selector",
        {"spec.sites": {"names": ["a"], "selector": {}}},
        "spec.sites",
        "names and selector exclude each other: remove one of them",
    ),
    _d("a site name in capitals", {"spec.sites.names": ["Region"]}, "spec.sites.names[0]", _LABEL),
    _d("a site twice", {"spec.sites.names": ["a", "a"]}, "spec.sites.names[1]", 'Duplicate value: "a"'),
    _d("an empty list of sites", {"spec.sites.names": []}, "spec.sites.names", "should have at least 1 items"),
    _d(
        "too many sites",
        {"spec.sites.names": [f"s{i}" for i in range(65)]},
        "spec.sites.names",
        "must have at most 64 items",
    ),
    _d("negative replicas", {"spec.replicas": -1}, "spec.replicas", "should be greater than or equal to 0"),
    _d("too many replicas", {"spec.replicas": 1001}, "spec.replicas", "should be less than or equal to 1000"),
    _d("replicas as text", {"spec.replicas": "2"}, "spec.replicas", "must be of type integer"),
    _d(
        "an unknown resolution mode",
        {"spec.resolution.mode": "auto"},
        "spec.resolution.mode",
        'supported values: "fixed", "dynamic"',
    ),
    _d(
        "crossed bounds",
        {"spec.resolution.minShortSide": 1200},
        "spec.resolution.minShortSide",
        "must not be above spec.resolution.maxShortSide: lower it",
    ),
    _d("alpha above 1", {"spec.resolution.alpha": 1.5}, "spec.resolution.alpha", "should be less than or equal to 1"),
    _d(
        "an unknown policy",
        {"spec.routing.policy": "random"},
        "spec.routing.policy",
        'supported values: "leastWork", "roundRobin"',
    ),
    _d("too many retries", {"spec.routing.retries": 6}, "spec.routing.retries", "should be less than or equal to 5"),
    _d(
        "a timeout without a unit",
        {"spec.routing.timeout": "30"},
        "spec.routing.timeout",
        "must be a duration between 1s and 1h, such as",
    ),
    _d("a timeout as a number", {"spec.routing.timeout": 30}, "spec.routing.timeout", "must be of type string"),
    _d(
        "a timeout that is too long",
        {"spec.routing.timeout": "61m"},
        "spec.routing.timeout",
        "must be a duration between 1s and 1h, such as",
    ),
    _d(
        "a target of zero",
        {"spec.routing.slo.ttft": "0s"},
        "spec.routing.slo.ttft",
        "must be a duration between 1ms and 10m",
    ),
    _d(
        "a deadline in days",
        {"spec.deletionDeadline": "2d"},
        "spec.deletionDeadline",
        "must be a duration between 0s and 24h",
    ),
    _d("suspend as text", {"spec.suspend": "yes"}, "spec.suspend", "must be of type boolean"),
    _d(
        "a body that is too large",
        {"spec.limits.maxBodyBytes": 10**9},
        "spec.limits.maxBodyBytes",
        "should be less than or equal to 67108864",
    ),
    _d("an unknown field", {"spec.replica": 2}, "spec.replica", 'unknown field "spec.replica"'),
    _d(
        "an unknown field deep down",
        {"spec.routing.slo.ttfb": "1s"},
        "spec.routing.slo.ttfb",
        'unknown field "spec.routing.slo.ttfb"',
    ),
    _d(
        "a field in Python's spelling",
        {"spec.engine.max_model_len": 1024},
        "spec.engine.max_model_len",
        'unknown field "spec.engine.max_model_len"',
    ),
)

REFUSED_SITES = (
    _s("both back ends", {"spec.backend.kubeRay": kuberay()}, "spec.backend", "ray and kubeRay exclude each other"),
    _s("no image", {"spec.backend": {"kubeRay": {"namespace": "ray"}}}, "spec.backend.kubeRay.image", "Required value"),
    _s(
        "a remote cluster without addresses",
        {"spec.backend": {"kubeRay": kuberay(kubeconfigSecret={"namespace": "autoglm", "name": "edge"})}},
        "spec.backend.kubeRay.serveAddresses",
        "needs an address with kubeconfigSecret",
    ),
    _s(
        "a toleration of nothing",
        {"spec.backend": {"kubeRay": kuberay(tolerations=[{"effect": "NoSchedule"}])}},
        "spec.backend.kubeRay.tolerations[0].key",
        "needs a key with operator Equal",
    ),
    _s(
        "two places for the head's state",
        {"spec.backend": {"kubeRay": kuberay(gcsFaultTolerance={"claim": "gcs", "redisAddress": "redis:6379"})}},
        "spec.backend.kubeRay.gcsFaultTolerance",
        "needs either claim or redisAddress",
    ),
    _s(
        "a password without a Redis",
        {"spec.backend": {"kubeRay": kuberay(gcsFaultTolerance={"claim": "gcs", "redisPassword": {"name": "redis"}})}},
        "spec.backend.kubeRay.gcsFaultTolerance.redisPassword",
        "has no effect without redisAddress",
    ),
    _s("no backend", {"spec.backend": None}, "spec.backend", "Required value"),
    _s("an empty backend", {"spec.backend": {}}, "spec.backend", "needs spec.backend.ray or spec.backend.kubeRay"),
    _s("an unknown tier", {"spec.tier": "fog"}, "spec.tier", 'supported values: "cloud", "edge"'),
    _s("no address", {"spec.backend.ray": ray(address=None)}, "spec.backend.ray.address", "Required value"),
    _s(
        "an address without a port",
        {"spec.backend.ray": ray(address="http://ray")},
        "spec.backend.ray.address",
        _ADDRESS,
    ),
    _s(
        "a port that is none",
        {"spec.backend.ray": ray(address="http://ray:65536")},
        "spec.backend.ray.address",
        _ADDRESS,
    ),
    _s(
        "a broken IPv6 address",
        {"spec.backend.ray": ray(address="http://[::::]:80")},
        "spec.backend.ray.address",
        _ADDRESS,
    ),
    _s(
        "an address with a path",
        {"spec.backend.ray": ray(address="http://ray:8265/api")},
        "spec.backend.ray.address",
        _ADDRESS,
    ),
    _s(
        "an address with a user",
        {"spec.backend.ray": ray(address="http://me:pw@ray:8265")},
        "spec.backend.ray.address",
        _ADDRESS,
    ),
    _s(
        "no Serve address",
        {"spec.backend.ray": ray(serveAddresses=[])},
        "spec.backend.ray.serveAddresses",
        "should have at least 1 items",
    ),
    _s(
        "a Serve address of another protocol",
        {"spec.backend.ray": ray(serveAddresses=["grpc://ray:9000"])},
        "spec.backend.ray.serveAddresses[0]",
        _ADDRESS,
    ),
    _s(
        "no token",
        {"spec.backend.ray": ray(tokenSecret=None)},
        "spec.backend.ray",
        "spec.backend.ray.tokenSecret is missing: name the Secret with the cluster's token,"
        " or set spec.backend.ray.allowOpenCluster to true",
    ),
    _s(
        "a Secret without a namespace",
        {"spec.backend.ray": ray(tokenSecret={"name": "ray"})},
        "spec.backend.ray.tokenSecret.namespace",
        "Required value",
    ),
    _s(
        "a key with a slash",
        {"spec.backend.ray": ray(tokenSecret={"namespace": "a", "name": "b", "key": "a/b"})},
        "spec.backend.ray.tokenSecret.key",
        "must be a key of a Secret",
    ),
    _s(
        "TLS without https",
        {"spec.backend.ray": ray(tls={"caSecret": _SECRET})},
        "spec.backend.ray.tls",
        "needs an https:// address: change spec.backend.ray.address, or remove it",
    ),
    _s("a bandwidth without a unit", {"spec.link.bandwidth": "100"}, "spec.link.bandwidth", _BANDWIDTH),
    _s("a bandwidth in bytes", {"spec.link.bandwidth": "100MB"}, "spec.link.bandwidth", _BANDWIDTH),
    _s("no bandwidth", {"spec.link.bandwidth": "0Mbit"}, "spec.link.bandwidth", _BANDWIDTH),
    _s("a round trip of a minute", {"spec.link.rtt": "1m"}, "spec.link.rtt", "must be a duration between 0s and 10s"),
    _s("a negative price", {"spec.price": -1}, "spec.price", "should be greater than or equal to 0"),
    _not_yet("site", "spec.accelerators", [{"type": "gpu", "count": 2}], "remove it; Ray reports what the site has"),
    _s("an unknown field", {"spec.links": {}}, "spec.links", 'unknown field "spec.links"'),
    _s("a name with a dot", {"metadata.name": "region.1"}, "metadata.name", _LABEL),
)

REFUSED = REFUSED_DEPLOYMENTS + REFUSED_SITES

ACCEPTED = (
    Accepted("the least", "deployment", {}),
    Accepted("nothing running", "deployment", {"spec.replicas": 0}),
    Accepted("replicas that follow the load", "deployment", {"spec.scaling": {"max": 3}}),
    Accepted(
        "replicas that follow the load down to none",
        "deployment",
        {"spec.scaling": {"min": 0, "max": 1000, "target": {"queue": 8, "ttft": "2s"}, "downAfter": "1h"}},
    ),
    Accepted("scaling beside the default of replicas", "deployment", {"spec.scaling": {"max": 3}, "spec.replicas": 1}),
    Accepted("the most replicas", "deployment", {"spec.replicas": 1000}),
    Accepted("a model in a folder", "deployment", {"spec.model.uri": "file:///weights/模型/phone-9b"}),
    Accepted("a model of Hugging Face", "deployment", {"spec.model.uri": "hf://zai-org/AutoGLM-Phone-9B"}),
    Accepted("a model name with a slash", "deployment", {"spec.model.name": "zai-org/AutoGLM-Phone-9B"}),
    Accepted("part of a core", "deployment", {"spec.worker.resources.cpu": "500m"}),
    Accepted("cores as a number", "deployment", {"spec.worker.resources.cpu": 4}),
    Accepted("the most cores", "deployment", {"spec.worker.resources.cpu": 9999}),
    Accepted("cores as a fraction", "deployment", {"spec.worker.resources.cpu": "1.5"}),
    Accepted("one gpu", "deployment", {"spec.worker.accelerator.type": "gpu"}),
    Accepted(
        "tensor parallel over npus",
        "deployment",
        {
            "spec.engine": {
                "parallelism": {"tensor": 4},
                "options": {"threads": 8, "pixelCacheMib": "64"},
            },
            "spec.worker.accelerator": {"type": "npu", "count": 4, "resourceName": "NPU"},
        },
    ),
    Accepted(
        "tensor parallel on cpu",
        "deployment",
        {"spec.engine": {"parallelism": {"tensor": 2}, "options": {"variant": "none", "device": "cpu"}}},
    ),
    Accepted(
        "tensor parallel with vllm",
        "deployment",
        {"spec.engine": {"name": "vllm", "parallelism": {"tensor": 2}}, "spec.worker.accelerator": _GPU},
    ),
    Accepted("a variant", "deployment", {"spec.model.variants": [_INT8]}),
    Accepted(
        "measured variants by site",
        "deployment",
        {
            "spec.model.variants": [
                _INT8 | {"quality": _SOLVED, "sites": {"names": ["store-17"]}},
                {"name": "distilled", "uri": "file:///models/small", "quality": _SOLVED, "sites": {"selector": {}}},
            ],
            "spec.model.quality": {"right": 39, "samples": 131},
            "spec.model.qualityFloor": 0.95,
        },
    ),
    Accepted(
        "variants with vllm, in parts",
        "deployment",
        {
            "spec.model.variants": [{"name": "fp8", "quantization": "fp8"}],
            "spec.engine": {"name": "vllm", "parallelism": {"tensor": 2}},
            "spec.worker.accelerator": _GPU,
        },
    ),
    Accepted(
        "another folder in parts",
        "deployment",
        {
            "spec.model.variants": [{"name": "distilled", "uri": "file:///models/small"}],
            "spec.engine.parallelism.tensor": 2,
        },
    ),
    Accepted("named sites", "deployment", {"spec.sites.names": ["region-1", "store-17"]}),
    Accepted("selected sites", "deployment", {"spec.sites.selector.matchLabels": {"fleet": "phones"}}),
    Accepted("every site by selector", "deployment", {"spec.sites.selector": {}}),
    Accepted("dynamic resolution", "deployment", {"spec.resolution": {"mode": "dynamic", "alpha": 1}}),
    Accepted("routing", "deployment", {"spec.routing": {"slo": {"ttft": "1.5s"}, "retries": 0, "timeout": "1h"}}),
    Accepted("limits", "deployment", {"spec.limits": {"maxImages": 1, "maxQueue": 1}}),
    Accepted("a rollout in steps", "deployment", {"spec.rollout": ROLLOUT}),
    Accepted(
        "a rollout with everything",
        "deployment",
        {
            "spec.rollout": {
                "maxSurge": 2,
                "steps": [{"weight": 0, "hold": "10m"}, {"weight": 25, "approval": True}, {"weight": 25}],
                "mirror": {"percent": 10, "concurrency": 2, "tolerance": 30},
                "gates": [
                    {"metric": "agreement", "minimum": 0.98, "minSamples": 200},
                    {"metric": "errors", "maximum": 0.01},
                    {"metric": "ttft", "maximumRatio": 1.2},
                    {"metric": "latency", "maximum": 20, "maximumRatio": 2},
                ],
                "paused": True,
                "revision": "0123456789",
                "historyLimit": 10,
                "progressDeadline": "30m",
            }
        },
    ),
    Accepted("suspended", "deployment", {"spec.suspend": True, "spec.deletionDeadline": "0s"}),
    Accepted("pods of one's own", "deployment", {"spec.worker.template": {"spec": {"runtimeClassName": "nvidia"}}}),
    Accepted("a rollout budget", "deployment", {"spec.rollout": {"maxSurge": 4, "maxUnavailable": 0}}),
    Accepted("a site", "site", {}),
    Accepted("a site with KubeRay", "site", {"spec.backend": {"kubeRay": kuberay()}}),
    Accepted(
        "a site with KubeRay elsewhere",
        "site",
        {
            "spec.backend": {
                "kubeRay": kuberay(
                    kubeconfigSecret={"namespace": "autoglm", "name": "edge"},
                    serveAddresses=["https://edge.example:443"],
                    nodeSelector={"accelerator": "ascend"},
                    tolerations=[{"operator": "Exists"}],
                    topologySpread=[{"topologyKey": "kubernetes.io/hostname"}],
                    gcsFaultTolerance={"redisAddress": "redis:6379", "redisPassword": {"name": "redis"}},
                    devices={"npu": "huawei.com/Ascend310P"},
                )
            }
        },
    ),
    Accepted("an open site", "site", {"spec.backend.ray": ray(tokenSecret=None, allowOpenCluster=True)}),
    Accepted("a site by IPv6", "site", {"spec.backend.ray": ray(address="http://[fd00::5]:8265")}),
    Accepted(
        "an edge site",
        "site",
        {
            "metadata.labels": {"fleet": "phones"},
            "spec.tier": "edge",
            "spec.backend.ray": ray(address="https://ray:8265", tls={"caSecret": _SECRET}),
            "spec.link": {"bandwidth": "2.5Mbit", "rtt": "35ms"},
            "spec.price": 0.4,
        },
    ),
)
