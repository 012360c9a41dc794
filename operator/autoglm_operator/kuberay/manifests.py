"""The Kubernetes objects of a deployment at a site with the back end kubeRay: a RayService and its children. Pure.

The same deployment and site always give the same objects, so that nothing is written in a steady state. The Serve part
is the application that every other back end is given.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite, KubeRayBackend
from autoglm_operator.kuberay import pods
from autoglm_operator.kuberay.names import (
    CLUSTER_HASH,
    DASHBOARD_PORT,
    DEPLOYMENT_UID,
    ENGINE,
    RAY_SERVICE,
    SERVE_PORT,
    WORKERS,
    labels,
    ray_service,
)

Json = dict[str, Any]

IDLE_S = 300
"""Ray's autoscaler removes only what is beyond the wanted number of workers, the idle ones first; never sooner than this."""

_ELSEWHERE = ("namespace", "kubeconfig_secret", "serve_addresses")
"""Fields of a site that shape no pod."""

_GRACE = "terminationGracePeriodSeconds"


@dataclass(frozen=True)
class Wanted:
    """What a deployment shall have at one site. `surge` says that a second cluster may run beside the first for a while."""

    deployment: AutoGLMDeployment
    site: AutoGLMSite
    application: Mapping[str, Any]
    replicas: int
    surge: bool = False

    @property
    def kube(self) -> KubeRayBackend:
        """The back end of the site."""
        kube = self.site.spec.backend.kube_ray
        assert kube is not None, "only made for sites with the back end kubeRay"
        return kube

    @property
    def name(self) -> str:
        """Name of the RayService."""
        return ray_service(str(self.application["name"]), self.site.metadata.name)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object."""
        return labels(self.deployment, str(self.application["name"]), self.site.metadata.name)

    @property
    def cluster_hash(self) -> str:
        """What the Ray cluster is made from; another hash needs other pods. Replicas and the Serve part do not count.

        Values that equal their default do not count either, so an operator that knows more fields replaces no pod.
        """
        made_from: Json = {
            "site": self.kube.model_dump(mode="json", exclude=set(_ELSEWHERE), exclude_defaults=True),
            "worker": self.deployment.spec.worker.model_dump(mode="json", exclude_defaults=True),
            "accelerators": pods.accelerators(self.deployment),
        }
        if self.site.spec.tier != "cloud":
            made_from["tier"] = self.site.spec.tier
        text = json.dumps(made_from, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def ray_service_of(wanted: Wanted) -> Json:
    """The RayService."""
    kube = wanted.kube
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": wanted.name,
            "namespace": kube.namespace,
            "labels": wanted.labels,
            "annotations": {
                CLUSTER_HASH: wanted.cluster_hash,
                DEPLOYMENT_UID: wanted.deployment.metadata.uid,
            },
        },
        "spec": {
            # Nothing makes KubeRay start a second cluster unless the budget has room for it.
            "upgradeStrategy": {"type": "NewCluster" if wanted.surge else "None"},
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": serve_config(_in_pods(wanted)),
            "rayClusterConfig": _cluster(wanted),
        },
    }


def with_pods_of(made: Mapping[str, Any], stored: Mapping[str, Any], replicas: int) -> Json:
    """The RayService with the pods of the stored one, and so many workers."""
    cluster = copy.deepcopy(dict(stored["spec"]["rayClusterConfig"]))
    for group in cluster.get("workerGroupSpecs") or ():
        if group.get("groupName") == WORKERS:
            group.update(_counts(replicas))
    known = (stored["metadata"].get("annotations") or {}).get(CLUSTER_HASH)
    annotations = {**made["metadata"]["annotations"], **({CLUSTER_HASH: known} if known else {})}
    return {
        **made,
        "metadata": {**made["metadata"], "annotations": annotations},
        "spec": {**made["spec"], "rayClusterConfig": cluster},
    }


def with_head_s_grace_of(made: Mapping[str, Any], stored: Mapping[str, Any]) -> Json:
    """The RayService whose head may take as long to end as the stored one's: this alone is worth no other Ray cluster.

    To KubeRay any other pod is one, and where a second cluster is allowed it would make it without a plan of ours.
    """
    result = copy.deepcopy(dict(made))
    head = stored["spec"]["rayClusterConfig"].get("headGroupSpec") or {}
    known = ((head.get("template") or {}).get("spec") or {}).get(_GRACE)
    if known is not None:
        result["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][_GRACE] = known
    return result


def children_of(wanted: Wanted, owner_uid: str, available: int) -> tuple[Json, ...]:
    """PodDisruptionBudget and NetworkPolicy. They belong to the RayService and go with it.

    `available` replicas stay through voluntary disruptions. KubeRay's pods have no controller that can be scaled, so only a
    number works here, not a share.
    """
    return (
        _child(wanted, owner_uid, "policy/v1", "PodDisruptionBudget", _disruption(wanted, available)),
        _child(wanted, owner_uid, "networking.k8s.io/v1", "NetworkPolicy", _network(wanted)),
    )


def serve_config(application: Mapping[str, Any]) -> str:
    """KubeRay's serveConfigV2: Ray's Serve document with this one application. JSON is YAML."""
    document = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},  # noqa: S104 - gateways come from other pods
        "applications": [application],
    }
    return json.dumps(document, indent=2, sort_keys=True)


def _in_pods(wanted: Wanted) -> Json:
    """The application. Where a worker has room for two replicas, Serve is told that it holds one: its memory is for one."""
    application = dict(wanted.application)
    parallel = wanted.deployment.spec.engine.parallelism.tensor
    # Serve takes no such bound where a replica brings a placement group.
    if parallel == 1 and pods.has_room_for_two(wanted.deployment):
        application["deployments"] = [
            {**part, "max_replicas_per_node": 1} if part["name"] == ENGINE else part
            for part in application["deployments"]
        ]
    return application


def _cluster(wanted: Wanted) -> Json:
    kube, marks, hashed = wanted.kube, wanted.labels, {CLUSTER_HASH: wanted.cluster_hash}
    cluster: Json = {
        "rayVersion": kube.ray_version,
        "authOptions": {"mode": "token", **({"secretName": kube.token_secret} if kube.token_secret else {})},
        # Whoever lowers the number of workers must know which of them are idle. Ray's autoscaler does, KubeRay does not.
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_S,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        },
        "headGroupSpec": pods.head_group(kube, marks, hashed),
        "workerGroupSpecs": [
            {
                "groupName": WORKERS,
                **_counts(wanted.replicas),
                "rayStartParams": pods.worker_start(wanted.deployment),
                "template": pods.worker_template(wanted.deployment, kube, marks, hashed),
            }
        ],
    }
    if wanted.site.spec.tier == "edge":
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            group["template"]["spec"] = pods.while_cut_off(group["template"]["spec"])
    gcs = kube.gcs_fault_tolerance
    if gcs is not None and gcs.redis_address is not None:
        cluster["gcsFaultToleranceOptions"] = {"redisAddress": gcs.redis_address}
        if gcs.redis_password is not None:
            secret = {"name": gcs.redis_password.name, "key": gcs.redis_password.key}
            cluster["gcsFaultToleranceOptions"]["redisPassword"] = {"valueFrom": {"secretKeyRef": secret}}
    return cluster


def _counts(replicas: int) -> dict[str, int]:
    """Wanted, fewest and most workers."""
    return {"replicas": replicas, "minReplicas": replicas, "maxReplicas": replicas}


def _child(wanted: Wanted, owner_uid: str, api_version: str, kind: str, spec: Json) -> Json:
    """Without blockOwnerDeletion: some clusters then ask for a right to the finalizers of RayServices, which we do not have."""
    owner = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "name": wanted.name,
        "uid": owner_uid,
        "controller": True,
    }
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": wanted.name,
            "namespace": wanted.kube.namespace,
            "labels": wanted.labels,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def _disruption(wanted: Wanted, available: int) -> Json:
    selector = {RAY_SERVICE: wanted.name, "ray.io/node-type": "worker"}
    return {"minAvailable": available, "selector": {"matchLabels": selector}}


def _network(wanted: Wanted) -> Json:
    """Ray's own ports for the cluster itself, the dashboard for KubeRay, Serve for everybody who may come that far."""
    own = {RAY_SERVICE: wanted.name}
    kuberay: Json = {
        "namespaceSelector": {},
        "podSelector": {
            "matchExpressions": [
                {"key": "app.kubernetes.io/name", "operator": "In", "values": ["kuberay", "kuberay-operator"]}
            ]
        },
    }
    return {
        "podSelector": {"matchLabels": own},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": own}}]},
            {"from": [kuberay], "ports": [{"protocol": "TCP", "port": DASHBOARD_PORT}]},
            {"ports": [{"protocol": "TCP", "port": SERVE_PORT}]},
        ],
    }
