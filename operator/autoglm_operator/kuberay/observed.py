"""What the objects at a site with the back end kubeRay say, as the views that every back end gives. Pure; no I/O here.

A RayService tells the status of its application in Ray's words, but no number of replicas. The worker pods that serve are
counted: each holds one replica.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from autoglm_operator.kuberay import names
from autoglm_operator.kuberay.names import CLUSTER_HASH, DEPLOYMENT_UID, ENGINE, MANAGER, WORKERS, is_ours
from autoglm_operator.state import IMPORT_PATH, ApplicationStatus, ApplicationView, RayServiceView

Json = Mapping[str, Any]

STATUSES: frozenset[str] = frozenset(get_args(ApplicationStatus))
REFUSALS = ("ValidationFailed", "InitializingTimeout")
"""Reasons of a RayService's condition Ready with which KubeRay gives up on it."""

_KEPT_METADATA = ("name", "namespace", "labels", "annotations", "ownerReferences")


@dataclass(frozen=True)
class Listing:
    """What was found in the namespace of a site: all RayServices there, and this site's other objects."""

    ray_services: Sequence[Json]
    ray_clusters: Sequence[Json] = field(default=())
    children: Sequence[Json] = field(default=())


def applications(found: Listing, site: str) -> tuple[ApplicationView, ...]:
    """One view for each RayService, those of others included: a name that is taken has to be seen."""
    views = [_view(raw, found, site) for raw in found.ray_services]
    return tuple(sorted(views, key=lambda view: view.name))


def _view(raw: Json, found: Listing, site: str) -> ApplicationView:
    metadata = raw["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if not is_ours(labels, annotations, site):
        service = RayServiceView(metadata["name"], metadata["uid"], None, {}, {})
        name = names.unnamed(metadata["name"])
        return ApplicationView(name, name, "RUNNING", ray_service=service)
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    config = _config(spec, annotations.get(DEPLOYMENT_UID))
    told = str(config.get("name") or "")
    name = told if _is_named(raw, told, site) else names.unnamed(metadata["name"])
    state, message = _state(raw, status, told)
    target = _target(config)
    return ApplicationView(
        name=name,
        import_path=IMPORT_PATH,
        status=state,
        message=message,
        route_prefix=config.get("route_prefix"),
        args=config["args"],
        deployments=tuple(one for one in config.get("deployments") or () if isinstance(one, Mapping)),
        ready_replicas=_ready(state, target, status),
        target_replicas=target,
        deployed_at=_applied_at(metadata),
        ray_service=RayServiceView(
            name=metadata["name"],
            uid=metadata["uid"],
            cluster_hash=annotations.get(CLUSTER_HASH),
            objects=_objects(raw, found.children),
            workers=_workers(found.ray_clusters, metadata["uid"]),
            upgrading=_has_two_clusters(status),
            pods=_pods(found.ray_clusters, metadata["uid"]),
            told=_is_told(raw, status),
        ),
    )


def _config(spec: Json, uid: str | None) -> Json:
    """The one application in the Serve document. Where a person has made something else of it, nothing but its owner is left.

    The owner stands in an annotation too: what we made stays ours, and is put right, whatever became of its document.
    """
    try:
        document = json.loads(spec.get("serveConfigV2") or "{}")
    except ValueError:
        document = {}
    listed = document.get("applications") if isinstance(document, Mapping) else None
    first = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
    config = first if isinstance(first, Mapping) else {}
    args = config.get("args")
    owner = args.get("uid") if isinstance(args, Mapping) else None
    if config.get("import_path") == IMPORT_PATH and owner is not None and uid in (None, owner):
        return config
    return {"args": {"uid": uid}}


def _is_named(raw: Json, name: str, site: str) -> bool:
    """Whether the name in the document is that by which its RayService is found. A person may have written any other there.

    Without its label it may be that of another site, which goes by another name than it would here.
    """
    if not names.is_application(name):
        return False
    labels = raw["metadata"].get("labels") or {}
    return names.SITE not in labels or names.ray_service(name, site) == raw["metadata"]["name"]


def _target(config: Json) -> int:
    for one in config.get("deployments") or ():
        if isinstance(one, Mapping) and one.get("name") == ENGINE and isinstance(one.get("num_replicas"), int):
            return int(one["num_replicas"])
    return 1


def _state(raw: Json, status: Json, name: str) -> tuple[ApplicationStatus, str]:
    """Status and Ray's words. What KubeRay has not looked at yet is on its way."""
    if raw["metadata"].get("deletionTimestamp"):
        return "DELETING", ""
    ready = _condition(status, "Ready")
    if ready.get("status") == "False" and ready.get("reason") in REFUSALS:
        return "DEPLOY_FAILED", f"KubeRay: {ready.get('message') or ready['reason']}"
    if not _is_told(raw, status):
        return "DEPLOYING", ""
    service = _serving(status)
    told = (service.get("applicationStatuses") or {}).get(name)
    if not isinstance(told, Mapping):
        return "DEPLOYING", _waits_for(service)
    parts = told.get("serveDeploymentStatuses") or {}
    words = [str(told["message"])] if told.get("message") else []
    words += [
        f"{part}: {one['message']}"
        for part, one in sorted(parts.items())
        if one.get("message") and one.get("status") != "HEALTHY"
    ]
    state = told.get("status")
    return state if state in STATUSES else "NOT_STARTED", "\n".join(words)


def _is_told(raw: Json, status: Json) -> bool:
    """Whether what KubeRay says is about what is stored now."""
    return int(status.get("observedGeneration") or 0) >= int(raw["metadata"].get("generation") or 0)


def _serving(status: Json) -> Json:
    """The cluster that the wanted configuration is put on: the new one while there is one."""
    active, pending = status.get("activeServiceStatus") or {}, status.get("pendingServiceStatus") or {}
    return pending if pending.get("rayClusterName") else active


def _waits_for(service: Json) -> str:
    """Why there is no application yet: the head in KubeRay's words."""
    head = _condition(service.get("rayClusterStatus") or {}, "HeadPodReady")
    if head.get("status") != "False":
        return ""
    words = head.get("message") or head.get("reason")
    return f"the Ray head is not ready: {words}" if words else ""


def _ready(state: ApplicationStatus, target: int, status: Json) -> int:
    """Serve's HEALTHY is no number: KubeRay looks before it submits, so for seconds it is about what was before a change."""
    if state == "DEPLOY_FAILED":
        return 0
    return min(target, int(status.get("numServeEndpoints") or 0))


def _has_two_clusters(status: Json) -> bool:
    active, pending = status.get("activeServiceStatus") or {}, status.get("pendingServiceStatus") or {}
    return bool(active.get("rayClusterName") and pending.get("rayClusterName"))


def _condition(status: Json, kind: str) -> Json:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def _applied_at(metadata: Json) -> datetime | None:
    """When this operator last changed the RayService, by the API server's clock."""
    times = [
        entry["time"]
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") == MANAGER and entry.get("operation") == "Apply" and entry.get("time")
    ]
    try:
        return max(map(datetime.fromisoformat, times), default=None)
    except ValueError:
        return None


def _objects(raw: Json, children: Iterable[Json]) -> dict[str, Json]:
    uid = raw["metadata"]["uid"]
    own = [raw, *(child for child in children if _is_owned(child, uid))]
    return {one["kind"]: _stored(one) for one in own}


def _stored(raw: Json) -> Json:
    """What somebody can have changed, without what changes by itself."""
    metadata = {key: raw["metadata"][key] for key in _KEPT_METADATA if raw["metadata"].get(key)}
    return {"kind": raw["kind"], "metadata": metadata, "spec": raw.get("spec") or {}}


def _is_owned(raw: Json, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in raw["metadata"].get("ownerReferences") or ())


def _workers(clusters: Iterable[Json], uid: str) -> dict[str, int]:
    """Worker pods that each RayCluster of a RayService shall have; clusters on their way out do not count."""
    return {
        raw["metadata"]["name"]: _most(raw)
        for raw in clusters
        if _is_owned(raw, uid) and not raw["metadata"].get("deletionTimestamp") and _groups(raw)
    }


def _pods(clusters: Iterable[Json], uid: str) -> int:
    """Worker pods that hold their accelerators, or may: those that run also where they are not asked for any more.

    KubeRay counts those in phase Running: one beyond the wanted number that still starts is not among them.
    """
    return sum(
        max(
            0 if raw["metadata"].get("deletionTimestamp") else _most(raw),
            int((raw.get("status") or {}).get("availableWorkerReplicas") or 0),
        )
        for raw in clusters
        if _is_owned(raw, uid)
    )


def _groups(cluster: Json) -> list[Json]:
    """The worker groups that hold replicas."""
    groups = (cluster.get("spec") or {}).get("workerGroupSpecs") or ()
    return [group for group in groups if group.get("groupName") == WORKERS]


def _most(cluster: Json) -> int:
    return sum(int(group.get("maxReplicas") or 0) for group in _groups(cluster))
