"""What a site with the back end kubeRay has and what is free: from the nodes of its Kubernetes cluster and the pods on them.

Free is what a node can allocate without what its pods request, whoever they belong to. Resources have Ray's names and units,
so that both back ends tell the same. Pure; no I/O here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoglm_operator.api import AutoGLMDeployment, KubeRayBackend
from autoglm_operator.kuberay.pods import head_group, worker_template
from autoglm_operator.kuberay.quantity import number
from autoglm_operator.state import Capacity

Json = Mapping[str, Any]
Amounts = dict[str, float]
Taken = Mapping[str, Amounts]
"""What pods take of each node, by its name."""

TROUBLE = "node.kubernetes.io/"
"""Taints with this prefix tell of a node that is down or cordoned. Others say for whom a node is."""

MODEL_LABELS = {
    "GPU": ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "cloud.google.com/gke-accelerator"),
    "NPU": ("node.kubernetes.io/npu.chip.name", "accelerator-type"),
}
"""Labels by which device plugins and clouds say what the accelerators of a node are."""

_PLAIN = {"cpu": "CPU", "memory": "memory"}
_OVER = ("Succeeded", "Failed")


def taken(pods: Iterable[Json], kube: KubeRayBackend) -> Taken:
    """What the pods on each node request. A pod that has ended holds nothing any more."""
    held = defaultdict[str, Amounts](dict)
    for pod in pods:
        spec = pod.get("spec") or {}
        name = spec.get("nodeName")
        if isinstance(name, str) and (pod.get("status") or {}).get("phase") not in _OVER:
            held[name] = _sum(held[name], {**_requests(spec, kube), _PODS: 1.0})
    return held


def together(one: Taken, other: Taken) -> Taken:
    """What two lists of pods take, so that no more than a page of them has to be kept at once."""
    return {**one, **{name: _sum(one.get(name, {}), amounts) for name, amounts in other.items()}}


def capacity(nodes: Iterable[Json], held: Taken, kube: KubeRayBackend) -> Capacity | None:
    """What the site's nodes have in all, what is free on those that take pods, and what is free on each of them.

    None where there is no such node: a pool that grows from none with its pods would never get one if that were called full.
    """
    ours = {node["metadata"]["name"]: node for node in nodes if _is_of_site(node, kube)}
    if not ours:
        return None
    total, available = defaultdict[str, float](float), defaultdict[str, float](float)
    machines: list[Mapping[str, float]] = []
    for name, node in sorted(ours.items()):
        amounts = _named((node.get("status") or {}).get("allocatable") or {}, kube)
        gone = held.get(name, {})
        room = _room_for_pods(node) - gone.get(_PODS, 0.0)
        free = {one: max(amount - gone.get(one, 0.0), 0.0) for one, amount in amounts.items()}
        usable = _takes_pods(node) and room >= 1
        for one, amount in amounts.items():
            total[one] += amount
            available[one] += free[one] if usable else 0.0
        if usable:
            machines.append(free)
    return Capacity(dict(total), dict(available), tuple(machines), _models(ours.values(), total))


def worker_need(deployment: AutoGLMDeployment, kube: KubeRayBackend) -> Amounts:
    """What one worker pod requests: one replica, whole. The user's template counts."""
    return _requests(worker_template(deployment, kube, {}, {})["spec"], kube)


def head_need(kube: KubeRayBackend) -> Amounts:
    """What the head of a Ray cluster requests."""
    return _requests(head_group(kube, {}, {})["template"]["spec"], kube)


_PODS = "pods"


def _is_of_site(node: Json, kube: KubeRayBackend) -> bool:
    """Whether pods of the site may ever run there: by its labels, and by taints that say for whom a node is."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in kube.node_selector.items()):
        return False
    return all(str(taint.get("key", "")).startswith(TROUBLE) or _tolerates(kube, taint) for taint in _hard_taints(node))


def _takes_pods(node: Json) -> bool:
    """Whether new pods may be bound to a node now."""
    if (node.get("spec") or {}).get("unschedulable"):
        return False
    if any(str(taint.get("key", "")).startswith(TROUBLE) for taint in _hard_taints(node)):
        return False
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _hard_taints(node: Json) -> list[Json]:
    taints = (node.get("spec") or {}).get("taints") or ()
    return [taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")]


def _tolerates(kube: KubeRayBackend, taint: Json) -> bool:
    """By the site's tolerations, or by one that pods get at admission for the device that they request."""
    return taint.get("key") in (kube.devices.gpu, kube.devices.npu) or any(
        one.effect in (None, taint.get("effect"))
        and one.key in (None, taint.get("key"))
        and (one.operator == "Exists" or (one.value or "") == (taint.get("value") or ""))
        for one in kube.tolerations
    )


def _room_for_pods(node: Json) -> float:
    return number(((node.get("status") or {}).get("allocatable") or {}).get("pods", 1_000_000))


def _requests(spec: Json, kube: KubeRayBackend) -> Amounts:
    """What the scheduler reserves for a pod: its containers together, or the largest of those that run before them."""
    running, before = Amounts(), Amounts()
    for container in spec.get("initContainers") or ():
        own = _of_container(container, kube)
        if container.get("restartPolicy") == "Always":  # it goes on beside the others
            running = _sum(running, own)
            before = _larger(before, running)
        else:
            before = _larger(before, _sum(running, own))
    for container in spec.get("containers") or ():
        running = _sum(running, _of_container(container, kube))
    whole = _named(((spec.get("resources") or {}).get("requests")) or {}, kube)
    return _sum(_larger(before, running) | whole, _named(spec.get("overhead") or {}, kube))


def _of_container(container: Json, kube: KubeRayBackend) -> Amounts:
    """A limit without a request is the request."""
    resources = container.get("resources") or {}
    return _named({**(resources.get("limits") or {}), **(resources.get("requests") or {})}, kube)


def _named(amounts: Json, kube: KubeRayBackend) -> Amounts:
    """The resources that replicas can need, by Ray's names."""
    names = {**_PLAIN, kube.devices.gpu: "GPU", kube.devices.npu: "NPU"}
    return {names[key]: number(amount) for key, amount in amounts.items() if key in names}


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}


def _larger(one: Amounts, other: Amounts) -> Amounts:
    return {key: max(one.get(key, 0.0), other.get(key, 0.0)) for key in {**one, **other}}


def _models(nodes: Iterable[Json], total: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """What the accelerators are, as far as labels tell."""
    labels = [node["metadata"].get("labels") or {} for node in nodes]
    found = {name: _values(labels, keys) for name, keys in MODEL_LABELS.items() if total.get(name)}
    return {name: values for name, values in found.items() if values}


def _values(labels: Sequence[Json], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({str(one[key]) for one in labels for key in keys if one.get(key)}))
