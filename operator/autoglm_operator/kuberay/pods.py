"""Pods of a Ray cluster: one head that runs no replica, and workers of which each holds one replica whole.

A replica that is split over several accelerators must have all of them or none. So they are in one pod: the Kubernetes
scheduler binds a pod with all its devices or leaves it pending, and Ray places the replica on that one node.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from autoglm_operator.api import AutoGLMDeployment, KubeRayBackend
from autoglm_operator.api.quantities import cpus
from autoglm_operator.kuberay.merge import merged
from autoglm_operator.kuberay.names import DASHBOARD_PORT, NODE_ENVIRONMENT, RAY_SERVICE, SERVE_PORT

Json = dict[str, Any]

GCS_PATH = "/var/lib/autoglm/gcs"
RECONNECT_S = 600
"""How long workers wait for a head that is started anew; Ray's default is a minute."""

HEAD_ENDS_S = 30
"""How long a head may take to end. It answers no requests, and Ray's autoscaler beside it does not end before it is killed."""

_RAY_RESOURCES = {"gpu": "GPU", "npu": "NPU"}
_RESTRICTED: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_SILENT_NODE = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
_PORTS = (("gcs", 6379), ("dashboard", DASHBOARD_PORT), ("client", 10001), ("serve", SERVE_PORT), ("metrics", 8080))


def accelerators(deployment: AutoGLMDeployment) -> int:
    """Accelerators of one replica."""
    accelerator = deployment.spec.worker.accelerator
    if accelerator.type == "cpu":
        return 0
    return accelerator.count or deployment.spec.engine.parallelism.tensor


def head_group(kube: KubeRayBackend, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Json:
    """The head. Without CPUs of its own Ray puts no replica there."""
    size = {"cpu": str(kube.head.cpu), "memory": kube.head.memory}
    container: Json = {
        "name": "head",
        "image": kube.image,
        "env": _node_environment(),
        "ports": [{"name": name, "containerPort": port} for name, port in _PORTS],
        "resources": {"requests": size, "limits": {"memory": kube.head.memory}},
        "securityContext": _RESTRICTED,
    }
    spec = _pod(kube, container) | {"terminationGracePeriodSeconds": HEAD_ENDS_S}
    claim = kube.gcs_fault_tolerance.claim if kube.gcs_fault_tolerance else None
    if claim is not None:
        _keep_state(spec, claim)
    return {
        "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # noqa: S104 - KubeRay comes from another pod
        "template": {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}, "spec": spec},
    }


def worker_template(
    deployment: AutoGLMDeployment, kube: KubeRayBackend, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> Json:
    """The pod of one replica, with the user's template merged over it."""
    resources = deployment.spec.worker.resources
    count, kind = accelerators(deployment), deployment.spec.worker.accelerator.type
    memory = resources.memory or f"{4 + 8 * count}Gi"
    devices = {} if kind == "cpu" else {kube.devices.gpu if kind == "gpu" else kube.devices.npu: str(count)}
    container: Json = {
        "name": "worker",
        "image": kube.image,
        "env": [{"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": str(RECONNECT_S)}, *_node_environment()],
        "ports": [{"name": "serve", "containerPort": SERVE_PORT}, {"name": "metrics", "containerPort": 8080}],
        "resources": {
            "requests": {"cpu": str(resources.cpu), "memory": memory, **devices},
            "limits": {"memory": memory, **devices},
        },
        "securityContext": _RESTRICTED,
    }
    spec = _pod(kube, container) | {"automountServiceAccountToken": False}
    if kube.topology_spread:
        spec["topologySpreadConstraints"] = [
            {**spread.model_dump(by_alias=True), "labelSelector": {"matchLabels": _workers(labels)}}
            for spread in kube.topology_spread
        ]
    template: Json = {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}, "spec": spec}
    result: Json = merged(template, deployment.spec.worker.template or {})
    # What the children, the routes and the plans rely on is not for a template to change.
    own: Json = {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}}
    kept: Json = merged(result, own)
    return kept


def worker_start(deployment: AutoGLMDeployment) -> dict[str, str]:
    """What a worker offers to Ray: exactly one replica's need.

    KubeRay derives GPUs from the device plugin's resource; NPUs and names of the user's own it does not know.
    """
    accelerator, count = deployment.spec.worker.accelerator, accelerators(deployment)
    params = {"num-cpus": str(math.ceil(cpus(deployment.spec.worker.resources.cpu)))}
    if accelerator.type == "cpu":
        return params
    if accelerator.type == "gpu":
        params["num-gpus"] = str(count)
    resource = accelerator.resource_name or _RAY_RESOURCES[accelerator.type]
    if resource != "GPU":
        params["resources"] = f"'{json.dumps({resource: count})}'"
    return params


def has_room_for_two(deployment: AutoGLMDeployment) -> bool:
    """Whether Ray would put a second replica into a worker: a worker offers whole CPUs, a replica may ask for half of one."""
    asked = cpus(deployment.spec.worker.resources.cpu)
    return accelerators(deployment) == 0 and 2 * asked <= math.ceil(asked)


def while_cut_off(spec: Json) -> Json:
    """The pod spec of a place whose link may be away for long: Kubernetes takes pods of a silent node away after 5 minutes.

    It could not end them there before the link is back; then it would, and everything would start anew.
    """
    told = spec.get("tolerations") or []
    known = {one.get("key") for one in told}
    more = [{"key": key, "operator": "Exists", "effect": "NoExecute"} for key in _SILENT_NODE if key not in known]
    return {**spec, "tolerations": [*told, *more]}


def _workers(labels: Mapping[str, str]) -> dict[str, str]:
    """Selects the workers of one RayService. KubeRay labels every pod with its node type."""
    return {RAY_SERVICE: labels[RAY_SERVICE], "ray.io/node-type": "worker"}


def _node_environment() -> list[Json]:
    return [{"name": name, "value": value} for name, value in NODE_ENVIRONMENT.items()]


def _pod(kube: KubeRayBackend, container: Json) -> Json:
    """What head and workers share: where they may run, under which priority, and the restricted pod security."""
    spec: Json = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 150,
    }
    if kube.node_selector:
        spec["nodeSelector"] = dict(sorted(kube.node_selector.items()))
    if kube.tolerations:
        spec["tolerations"] = [one.model_dump(by_alias=True, exclude_none=True) for one in kube.tolerations]
    if kube.priority_class_name:
        spec["priorityClassName"] = kube.priority_class_name
    if kube.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in kube.image_pull_secrets]
    return spec


def _keep_state(spec: Json, claim: str) -> None:
    """RocksDB on a volume. Each Ray cluster has a folder of its own: two heads on one database would break it."""
    container = spec["containers"][0]
    container["env"] += [
        {
            "name": "AUTOGLM_RAY_CLUSTER",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}},
        },
        {"name": "RAY_gcs_storage", "value": "rocksdb"},
        {"name": "RAY_gcs_storage_path", "value": GCS_PATH},
    ]
    container["volumeMounts"] = [
        {"name": "gcs", "mountPath": GCS_PATH, "subPathExpr": "$(AUTOGLM_RAY_CLUSTER)"},
    ]
    spec["volumes"] = [{"name": "gcs", "persistentVolumeClaim": {"claimName": claim}}]
