"""No field of the API is taken and then ignored: changing it changes what the operator does, or it is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest

from autoglm_operator import crds
from autoglm_operator.api import ScalingDecision, parse_site
from autoglm_operator.reconcile import reconcile
from autoglm_operator.scaling.history import told
from autoglm_operator.scaling.terms import Load, SiteLoad
from autoglm_operator.state import Capacity, Observed, SiteError, SiteView
from support import fleet, kube
from support.simulation import World

Json = dict[str, Any]

GPU = {"accelerator": {"type": "gpu"}}
VLLM = {"name": "vllm"}
QUALITY = {"kind": "*", "shortSide": 480, "right": 8, "samples": 10}

VARIANTS: Json = {
    "name": "autoglm-phone-9b",
    "uri": "builtin://autoglm-tiny",
    "variants": [{"name": "int8", "quantization": "int8-weight", "quality": {"right": 8, "samples": 10}}],
    "quality": {"right": 9, "samples": 10},
}

PLACED: Json = {"placement": {}}


def _domains(label: str, most: int) -> Json:
    return {"replicas": 2, "placement": {"spread": {"domainLabel": label, "maxPerDomain": most}}}


def _moves(replicas: int = 3, **changes: Any) -> Json:
    return {"replicas": replicas, "placement": {"latencyWeight": 100, "settle": "0s", **changes}}


# One change for each field, with what it needs around it: (before, after).
DEPLOYMENT: dict[str, tuple[Json, Json]] = {
    "model.name": ({}, {"model": {"name": "other", "uri": "builtin://autoglm-tiny"}}),
    "model.uri": ({}, {"model": {"name": "autoglm-phone-9b", "uri": "hf://zai-org/AutoGLM-Phone-9B"}}),
    "model.variants": ({}, {"model": VARIANTS}),
    # Whether its site runs the variant follows from the share; without a floor the gateway is told.
    "model.quality.right": ({"model": VARIANTS}, {"model": VARIANTS | {"quality": {"right": 8, "samples": 10}}}),
    "model.quality.samples": ({"model": VARIANTS}, {"model": VARIANTS | {"quality": {"right": 9, "samples": 11}}}),
    "model.qualityFloor": ({"model": VARIANTS}, {"model": VARIANTS | {"qualityFloor": 1}}),
    "engine.name": ({}, {"engine": VLLM}),
    "engine.parallelism.tensor": (
        {"worker": GPU},
        {"engine": {"parallelism": {"tensor": 2}}, "worker": GPU},
    ),
    "engine.maxModelLen": ({}, {"engine": {"maxModelLen": 8192}}),
    "engine.maxConcurrency": ({}, {"engine": {"maxConcurrency": 2}}),
    "engine.options": ({}, {"engine": {"options": {"dtype": "float32"}}}),
    "worker.accelerator.type": ({}, {"worker": GPU}),
    "worker.accelerator.resourceName": (
        {"worker": GPU},
        {"worker": {"accelerator": {"type": "gpu", "resourceName": "L4"}}},
    ),
    # Equal to the tensor size by rule, so it changes together with it.
    "worker.accelerator.count": (
        {"worker": GPU},
        {"engine": {"parallelism": {"tensor": 2}}, "worker": {"accelerator": {"type": "gpu", "count": 2}}},
    ),
    "worker.resources.cpu": ({}, {"worker": {"resources": {"cpu": "500m"}}}),
    "worker.resources.memory": ({}, {"worker": {"resources": {"memory": "64Gi"}}}),
    "worker.template": ({}, {"worker": {"template": {"spec": {"runtimeClassName": "nvidia"}}}}),
    "encoder.min": ({"encoder": {"max": 4}}, {"encoder": {"min": 2, "max": 4}}),
    "encoder.max": ({"encoder": {}}, {"encoder": {"max": 4}}),
    "encoder.tokensPerSecond": ({"encoder": {"max": 4}}, {"encoder": {"max": 4, "tokensPerSecond": 5000}}),
    "encoder.wait": ({"encoder": {}}, {"encoder": {"wait": "1s"}}),
    "encoder.cpu": ({"encoder": {}}, {"encoder": {"cpu": "500m"}}),
    "sites.names": ({}, {"sites": {"names": ["region"]}}),
    "sites.selector.matchLabels": ({}, {"sites": {"selector": {"matchLabels": {"tier": "gold"}}}}),
    "replicas": ({}, {"replicas": 3}),
    "resolution.mode": ({}, {"resolution": {"mode": "dynamic"}}),
    "resolution.minShortSide": ({}, {"resolution": {"minShortSide": 360}}),
    "resolution.maxShortSide": ({}, {"resolution": {"maxShortSide": 720}}),
    "resolution.alpha": ({}, {"resolution": {"alpha": 0.2}}),
    "resolution.quality": ({}, {"resolution": {"quality": [QUALITY]}}),
    "resolution.qualityFloor": (
        {"resolution": {"quality": [QUALITY]}},
        {"resolution": {"quality": [QUALITY], "qualityFloor": 0.9}},
    ),
    "routing.policy": ({}, {"routing": {"policy": "roundRobin"}}),
    "routing.slo.ttft": ({}, {"routing": {"slo": {"ttft": "2s"}}}),
    "routing.retries": ({}, {"routing": {"retries": 3}}),
    "routing.timeout": ({}, {"routing": {"timeout": "30s"}}),
    "limits.maxBodyBytes": ({}, {"limits": {"maxBodyBytes": 4096}}),
    "limits.maxImages": ({}, {"limits": {"maxImages": 1}}),
    "limits.maxImagePixels": ({}, {"limits": {"maxImagePixels": 1_000_000}}),
    "limits.maxImageSide": ({}, {"limits": {"maxImageSide": 4096}}),
    "limits.maxNewTokens": ({}, {"limits": {"maxNewTokens": 128}}),
    "limits.maxQueue": ({}, {"limits": {"maxQueue": 8}}),
    "limits.imageHosts": ({}, {"limits": {"imageHosts": ["pictures.example.com"]}}),
    "rollout.maxSurge": ({}, {"rollout": {"maxSurge": 1}}),
    "rollout.maxUnavailable": ({"replicas": 2}, {"replicas": 2, "rollout": {"maxUnavailable": 0}}),
    "sites.quorum": ({}, {"sites": {"quorum": 50}}),
    "placement.latencyWeight": (PLACED, {"placement": {"latencyWeight": 0}}),
    "placement.siteCost": (_moves(replicas=2), _moves(replicas=2, siteCost=9)),
    "placement.maxRtt": ({"placement": {"latencyWeight": 0}}, {"placement": {"latencyWeight": 0, "maxRtt": "50ms"}}),
    "placement.residency": (PLACED, {"placement": {"residency": ["eu"]}}),
    "placement.spread.minSites": ({"replicas": 2} | PLACED, {"replicas": 2, "placement": {"spread": {"minSites": 2}}}),
    "placement.spread.maxPerSite": (
        {"replicas": 2} | PLACED,
        {"replicas": 2, "placement": {"spread": {"maxPerSite": 1}}},
    ),
    # The two belong together.
    "placement.spread.domainLabel": (_domains("zone", 1), _domains("rack", 1)),
    "placement.spread.maxPerDomain": (_domains("zone", 1), _domains("zone", 2)),
    "placement.maxMoves": (_moves(), _moves(maxMoves=2)),
    "placement.minGain": (_moves(), _moves(minGain=90)),
    "placement.settle": (_moves(), _moves(settle="5m")),
    "placement.grace": (PLACED, {"placement": {"grace": "10m"}}),
    "suspend": ({}, {"suspend": True}),
    "deletionDeadline": ({}, {"deletionDeadline": "1h"}),
}

STEPS = {"maxSurge": 1, "steps": [{"weight": 5}]}
MIRRORED = STEPS | {"mirror": {"percent": 5}}
ERRORS = {"metric": "errors", "maximum": 0.1}

# One change for each field of a rollout in steps: (before, after).
ROLLOUT: dict[str, tuple[Json, Json]] = {
    "steps": (STEPS, STEPS | {"steps": [{"weight": 6}]}),
    "gates": (STEPS, STEPS | {"gates": [ERRORS]}),
    "mirror.percent": (MIRRORED, STEPS | {"mirror": {"percent": 6}}),
    "mirror.concurrency": (MIRRORED, STEPS | {"mirror": {"percent": 5, "concurrency": 2}}),
    "mirror.tolerance": (MIRRORED, STEPS | {"mirror": {"percent": 5, "tolerance": 2}}),
    "paused": (STEPS, STEPS | {"paused": True}),
    "revision": (STEPS, STEPS | {"revision": "0123456789"}),
    "historyLimit": (STEPS, STEPS | {"historyLimit": 1}),
    "progressDeadline": (STEPS, STEPS | {"progressDeadline": "1s"}),
}

UP_TO_8: Json = {"max": 8}

# One change for each field of scaling: (before, after).
SCALING: dict[str, tuple[Json, Json]] = {
    "min": (UP_TO_8, UP_TO_8 | {"min": 2}),
    "max": (UP_TO_8, {"max": 2}),
    "target.queue": (UP_TO_8, UP_TO_8 | {"target": {"queue": 3}}),
    "target.ttft": (UP_TO_8, UP_TO_8 | {"target": {"ttft": "1s"}}),
    "downAfter": (UP_TO_8, UP_TO_8 | {"downAfter": "2m"}),
}

SITE: dict[str, Json] = {
    "tier": {"tier": "edge"},
    "backend.ray.serveAddresses": {"backend": {"ray": {"serveAddresses": ["http://a:8000", "http://b:8000"]}}},
    "link.bandwidth": {"link": {"bandwidth": "100Mbit"}},
    "link.rtt": {"link": {"rtt": "20ms"}},
    "price": {"price": 2.5},
}

SECRET = {"namespace": "autoglm", "name": "edge"}
REDIS = {"redisAddress": "redis:6379"}

# One change for each field of a site with the back end kubeRay, with what it needs around it: (before, after).
KUBERAY: dict[str, tuple[Json, Json]] = {
    "namespace": ({}, {"namespace": "other"}),
    "image": ({}, {"image": "registry.example/autoglm-serving:2"}),
    "rayVersion": ({}, {"rayVersion": "2.61.0"}),
    "imagePullSecrets": ({}, {"imagePullSecrets": ["registry"]}),
    "nodeSelector": ({}, {"nodeSelector": {"pool": "phones"}}),
    "tolerations": ({}, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}),
    "priorityClassName": ({}, {"priorityClassName": "serving"}),
    "topologySpread": ({}, {"topologySpread": [{"topologyKey": "kubernetes.io/hostname"}]}),
    "head.cpu": ({}, {"head": {"cpu": 4}}),
    "head.memory": ({}, {"head": {"memory": "8Gi"}}),
    "devices.gpu": ({}, {"devices": {"gpu": "amd.com/gpu"}}),
    "devices.npu": ({}, {"devices": {"npu": "huawei.com/Ascend310P"}}),
    "tokenSecret": ({}, {"tokenSecret": "ray-token"}),
    "gcsFaultTolerance.claim": ({}, {"gcsFaultTolerance": {"claim": "gcs"}}),
    "gcsFaultTolerance.redisAddress": ({}, {"gcsFaultTolerance": REDIS}),
    "gcsFaultTolerance.redisPassword.name": (
        {"gcsFaultTolerance": REDIS},
        {"gcsFaultTolerance": REDIS | {"redisPassword": {"name": "redis"}}},
    ),
    "gcsFaultTolerance.redisPassword.key": (
        {"gcsFaultTolerance": REDIS | {"redisPassword": {"name": "redis"}}},
        {"gcsFaultTolerance": REDIS | {"redisPassword": {"name": "redis", "key": "secret"}}},
    ),
    "serveAddresses": ({}, {"serveAddresses": ["http://ingress.example:80"]}),
}

# How the operator reaches a cluster: the shell's tests show that it does so by these.
CONNECTION = {
    "backend.ray.address",
    "backend.ray.tokenSecret.namespace",
    "backend.ray.tokenSecret.name",
    "backend.ray.tokenSecret.key",
    "backend.ray.allowOpenCluster",
    "backend.ray.tls.caSecret.namespace",
    "backend.ray.tls.caSecret.name",
    "backend.ray.tls.caSecret.key",
    "backend.kubeRay.kubeconfigSecret.namespace",
    "backend.kubeRay.kubeconfigSecret.name",
    "backend.kubeRay.kubeconfigSecret.key",
}


def leaves(node: Json, path: str = "") -> Iterator[str]:
    """Every field that holds a value and that has an effect already."""
    for name, value in node["properties"].items():
        where = f"{path}.{name}" if path else name
        if value["description"].startswith("Not supported yet."):
            continue
        if "properties" in value:
            yield from leaves(value, where)
        else:
            yield where


def spec_of(position: int) -> Json:
    version = crds.definitions()[position]["spec"]["versions"][0]
    schema: Json = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def test_the_tables_name_every_field_that_has_an_effect() -> None:
    rollout = {f"rollout.{field}" for field in ROLLOUT}
    scaling = {f"scaling.{field}" for field in SCALING}
    assert set(DEPLOYMENT) | rollout | scaling == set(leaves(spec_of(0)))
    kuberay = {f"backend.kubeRay.{field}" for field in KUBERAY}
    assert set(SITE) | kuberay | CONNECTION == set(leaves(spec_of(1)))


def effect(spec: Json) -> object:
    """What the operator does for a deployment: at first, when it runs, and when it is deleted while a site is away."""
    running = fleet.deployment(spec)
    empty = Observed(sites=(fleet.view("region"), fleet.view("store"), kube.view("pods")))
    first = reconcile(running, empty, fleet.NOW)
    views = (
        fleet.view("region", fleet.application(running)),
        fleet.view("store", fleet.application(running)),
        kube.view("pods", kube.stored(running, "pods")),
    )
    gateways = (fleet.gateway(*fleet.admitted(running, "region", "store")),)
    later = reconcile(running, Observed(sites=views, gateways=gateways), fleet.NOW)
    deleted = (fleet.NOW - timedelta(minutes=20)).isoformat()
    left = {"sites": [{"name": "region", "state": "Ready", "revision": "abc", "ready": 1}]}
    gone = fleet.deployment(spec, status=left, deletionTimestamp=deleted)
    away = SiteView(fleet.site("region"), error=SiteError("Unreachable", "no answer"), failures=9)
    last = reconcile(gone, Observed(sites=(away,)), fleet.NOW)
    pods = kube.manifests(running, "pods")
    return (first.applications, later.applications, later.routes, last.remove_finalizer, pods, *placed(spec))


def placed(spec: Json) -> tuple[object, ...]:
    """What is done at two sites of different price and latency: at first, when all runs at one, and when one is silent."""
    labels = {"serving.autoglm.dev/residency": "us", "zone": "z", "rack": "a"}
    region = fleet.site("region", {"price": 1.0, "link": {"rtt": "100ms"}}, labels=labels)
    europe = {"serving.autoglm.dev/residency": "eu", "zone": "z", "rack": "b"}
    store = fleet.site("store", {"price": 1.05, "link": {"rtt": "10ms"}}, labels=europe)
    seen = fleet.NOW - timedelta(seconds=1)

    def sites(cpus: float, *found: Any) -> tuple[SiteView, ...]:
        has = Capacity({"CPU": 8.0}, {"CPU": cpus})
        return (SiteView(region, found, seen, capacity=has), SiteView(store, (), seen, capacity=has))

    moved = {"placement": {"movedAt": "2026-03-01T11:59:00Z", "sites": [{"name": "region", "replicas": 3}]}}
    running = fleet.deployment(spec, status=moved)
    first = reconcile(running, Observed(sites=sites(2.0)), fleet.NOW)
    there = Observed(sites=sites(8.0, fleet.application(running)))
    moving = reconcile(fleet.with_status(running, reconcile(running, there, fleet.NOW)), there, fleet.NOW)
    row = {"name": "region", "state": "Ready", "revision": "abc", "desired": 1, "ready": 1}
    silent = fleet.deployment(spec, status={"sites": [row]})
    away = replace(sites(8.0)[0], observed_at=fleet.NOW - timedelta(minutes=3), error=SiteError("Unreachable", "none"))
    gateways = (fleet.gateway(*fleet.admitted(silent, "store")),)
    other = replace(sites(8.0)[1], applications=(fleet.application(silent),))
    ready = reconcile(silent, Observed(sites=(away, other), gateways=gateways), fleet.NOW).status.conditions[1]
    alone = reconcile(silent, Observed(sites=(away, sites(8.0)[1])), fleet.NOW)
    return (first.applications, moving.applications, alone.applications, ready.status)


@pytest.mark.parametrize("field", sorted(DEPLOYMENT))
def test_changing_a_field_of_a_deployment_changes_what_is_done(field: str) -> None:
    before, after = DEPLOYMENT[field]
    assert effect(before) == effect(before), "the operator decides the same twice"
    assert effect(before) != effect(after)


@cache
def rolled(policy: str) -> object:
    """What three changes do to a world under this policy (JSON): what is written, told and routed on the way."""
    rollout, canaries = json.loads(policy), []
    world = World(fleet.deployment({"replicas": 3, "rollout": rollout}), {"region": {}})
    world.converge()
    for number in (2, 3, 5):
        spec = {"replicas": 3, "rollout": rollout, "engine": {"maxConcurrency": number}}
        made = fleet.deployment(spec, generation=number)
        world.deployment = made.model_copy(update={"status": world.deployment.status})
        for _ in range(12):
            canaries += [route.canary for route in world.step().routes]
            world.settle()
            world.now += timedelta(seconds=2)
    status = world.deployment.status
    assert status is not None
    assert status.rollout is not None
    return (world.log, status.rollout.model_dump(), canaries)


@pytest.mark.parametrize("field", sorted(ROLLOUT))
def test_changing_a_field_of_a_rollout_changes_what_is_done_or_told(field: str) -> None:
    before, after = ROLLOUT[field]
    assert rolled(json.dumps(before)) != rolled(json.dumps(after))


def scaled(policy: Json) -> list[str]:
    """What a load that rises, stays and falls does under this policy."""
    world = World(fleet.deployment({"scaling": policy}), {"region": {}})
    world.converge()
    for in_flight in (12.0,) * 10 + (0.0,) * 50:
        load = Load({"region": SiteLoad(in_flight, ttft_s=2.0)}, ready={"region": 8})
        world.load = told(world.load, load, world.now, timedelta(minutes=10))
        world.step()
        world.step()
        world.settle()
        world.now += timedelta(seconds=10)
    return [f"{one.at} {one.after}" for one in _decisions(world)] + world.log


def _decisions(world: World) -> tuple[ScalingDecision, ...]:
    status = world.deployment.status
    return status.scaling.decisions if status is not None and status.scaling is not None else ()


@pytest.mark.parametrize("field", sorted(SCALING))
def test_changing_a_field_of_scaling_changes_what_is_done(field: str) -> None:
    before, after = SCALING[field]
    assert scaled(before) != scaled(after)


def routes(spec: Json) -> object:
    """The routes to one site with this spec."""
    made = fleet.site("region").model_dump(mode="json", exclude_none=True)
    ray = made["spec"]["backend"]["ray"] | spec.get("backend", {}).get("ray", {})
    made["spec"] = made["spec"] | spec | {"backend": {"ray": ray}}
    running = fleet.deployment()
    view = SiteView(parse_site(made), applications=(fleet.application(running),), observed_at=fleet.NOW)
    gateways = (fleet.gateway(*fleet.admitted(running, "region")),)
    found = reconcile(running, Observed(sites=(view,), gateways=gateways), fleet.NOW).routes
    assert found
    assert found[0].endpoints
    return found


@pytest.mark.parametrize("field", sorted(SITE))
def test_changing_a_field_of_a_site_changes_its_routes(field: str) -> None:
    assert routes({}) != routes(SITE[field])


def objects(field: str, spec: Json) -> object:
    """The routes and the Kubernetes objects of a deployment at a site with this back end."""
    worker: Json = {"worker": {"accelerator": {"type": "npu" if field == "devices.npu" else "gpu"}}}
    plan = reconcile(fleet.deployment(worker), Observed(sites=(kube.view("pods", backend=spec),)), fleet.NOW)
    assert plan.applications
    return plan.applications, plan.routes


@pytest.mark.parametrize("field", sorted(KUBERAY))
def test_changing_a_field_of_a_site_with_kuberay_changes_its_objects_or_routes(field: str) -> None:
    before, after = KUBERAY[field]
    assert objects(field, before) == objects(field, before), "the operator decides the same twice"
    assert objects(field, before) != objects(field, after)
