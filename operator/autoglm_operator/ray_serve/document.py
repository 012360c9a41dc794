"""Ray's Serve document: what `GET /api/serve/applications/` answers and what `PUT` wants. Pure; no I/O here.

The PUT is declarative for the whole cluster: every application that was deployed this way and is not in the body is
deleted. So the body is the document that was read, with our changes in it, and everything that belongs to others word
for word. Applications that a program deployed (`serve.run`) are not in the body and are not touched by the PUT.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from autoglm_operator.backend import SiteFailure
from autoglm_operator.state import (
    ApplicationChange,
    ApplicationStatus,
    ApplicationView,
    ApplyApplication,
    Capacity,
)
from autoglm_operator.within import within

Json = Mapping[str, Any]

ENGINE_DEPLOYMENT = "Engine"
STATUSES: frozenset[str] = frozenset(get_args(ApplicationStatus))
KEPT = ("proxy_location", "http_options", "grpc_options", "target_capacity")
REDACTED = "<redacted>"
MODEL = "accelerator_type:"


def applications(document: Json) -> tuple[ApplicationView, ...]:
    """The applications on the cluster, sorted by name. Raises `SiteFailure` if the document is not Ray's."""
    return tuple(_view(name, details) for name, details in sorted(_applications(document).items()))


def capacity(status: Json) -> Capacity | None:
    """What the cluster has and what is free, from `/api/cluster_status`; None if it does not say."""
    usage = _at(status, "data", "clusterStatus", "loadMetricsReport", "usage")
    if not isinstance(usage, Mapping):
        return None
    total = {str(name): float(value[1]) for name, value in usage.items() if _is_pair(value)}
    by_node = _at(status, "data", "clusterStatus", "loadMetricsReport", "usageByNode")
    nodes = [node for _, node in sorted(by_node.items())] if isinstance(by_node, Mapping) else []
    return Capacity(
        total, _free(usage), tuple(_free(node) for node in nodes if isinstance(node, Mapping)), _models(total)
    )


def _free(usage: Json) -> dict[str, float]:
    """What is left, of (used, total)."""
    pairs = {str(name): value for name, value in usage.items() if _is_pair(value)}
    return {name: max(float(total) - float(used), 0.0) for name, (used, total) in pairs.items()}


def _models(total: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Ray names what the accelerators of a node are by a resource of which the node has 1."""
    names = sorted(name.removeprefix(MODEL) for name in total if name.startswith(MODEL))
    npus = tuple(name for name in names if name.startswith("Ascend"))
    kinds = {"GPU": tuple(name for name in names if name not in npus), "NPU": npus}
    return {kind: found for kind, found in kinds.items() if found and total.get(kind)}


def merged(document: Json, changes: Sequence[ApplicationChange], start_options: Json) -> dict[str, Any] | None:
    """The body to PUT, or None when it would change nothing.

    `start_options` are the HTTP options for a cluster on which Serve does not run yet; Serve ignores them later.
    Raises `SiteFailure` when a change would touch somebody else's application, or when a foreign configuration
    cannot be read and would be lost.
    """
    present = _applications(document)
    bodies = {name: body for name, details in present.items() if (body := _kept(name, details)) is not None}
    changed = False
    for change in changes:
        if isinstance(change, ApplyApplication):
            _refuse_foreign(change, present.get(change.name))
            wanted = dict(change.application)
            if bodies.get(change.name) != wanted:
                bodies[change.name] = wanted
                changed = True
        elif owner(bodies.get(change.name)) == change.uid:
            del bodies[change.name]
            changed = True
    if not changed:
        return None
    options = {name: document[name] for name in KEPT if document.get(name) is not None}
    if "http_options" not in options:
        options["http_options"] = dict(start_options)
    return {**options, "applications": list(bodies.values())}


def differences(document: Json, body: Json) -> tuple[str, ...]:
    """Names of applications that are not on the cluster as `body` wanted them, or are there and should not be."""
    present = {
        name: config
        for name, details in _applications(document).items()
        if isinstance(config := details.get("deployed_app_config"), Mapping) and details.get("status") != "DELETING"
    }
    wanted = {application["name"]: application for application in body["applications"]}
    lost = {name for name, config in wanted.items() if name not in present or not within(config, present[name])}
    extra = set(present) - set(wanted)
    return tuple(sorted(lost | extra))


def owner(config: Json | None) -> str | None:
    """The uid of the resource that an application's configuration names; None if it is not one of ours."""
    if config is None:
        return None
    view = ApplicationView(str(config.get("name")), str(config.get("import_path")), "RUNNING", args=_args(config))
    return view.owner_uid


def _applications(document: Json) -> Mapping[str, Json]:
    found = document.get("applications")
    if not isinstance(found, Mapping) or not all(isinstance(details, Mapping) for details in found.values()):
        raise SiteFailure("InvalidAnswer", "the address answers, but not as the Serve REST API of Ray does")
    return found


def _view(name: str, details: Json) -> ApplicationView:
    config = details.get("deployed_app_config")
    config = config if isinstance(config, Mapping) else {}
    ready, target = _replicas(details)
    status = details.get("status")
    return ApplicationView(
        name=name,
        import_path=str(config.get("import_path") or ""),
        status=status if status in STATUSES else "NOT_STARTED",
        message="\n".join(_messages(details)),
        route_prefix=config.get("route_prefix"),
        args=_args(config),
        deployments=tuple(part for part in config.get("deployments") or () if isinstance(part, Mapping)),
        ready_replicas=ready,
        target_replicas=target,
        deployed_at=_time(details.get("last_deployed_time_s")),
    )


def _time(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _args(config: Json) -> Json | None:
    args = config.get("args")
    return args if isinstance(args, Mapping) else None


def _deployments(details: Json) -> Mapping[str, Json]:
    found = details.get("deployments")
    found = found if isinstance(found, Mapping) else {}
    return {name: part for name, part in found.items() if isinstance(part, Mapping)}


def _replicas(details: Json) -> tuple[int, int]:
    """Running and wanted replicas of the engine."""
    engine = _deployments(details).get(ENGINE_DEPLOYMENT, {})
    replicas = engine.get("replicas") or ()
    running = sum(1 for replica in replicas if isinstance(replica, Mapping) and replica.get("state") == "RUNNING")
    target = engine.get("target_num_replicas")
    return running, target if isinstance(target, int) else 0


def _messages(details: Json) -> Iterable[str]:
    if details.get("message"):
        yield str(details["message"])
    for name, deployment in sorted(_deployments(details).items()):
        if deployment.get("message") and deployment.get("status") != "HEALTHY":
            yield f"{name}: {deployment['message']}"


def _kept(name: str, details: Json) -> dict[str, Any] | None:
    """The configuration that has to stay in the body for this application to live on; None if it needs none."""
    if details.get("status") == "DELETING":
        return None
    config = details.get("deployed_app_config")
    if isinstance(config, Mapping):
        if owner(config) is None and _contains(config, REDACTED):
            raise SiteFailure(
                "InvalidAnswer", f"Ray hides values of application {name}: writing it back would destroy them"
            )
        return dict(config)
    if details.get("source") == "declarative":
        raise SiteFailure(
            "InvalidAnswer", f"Ray does not tell the configuration of application {name}: a write would delete it"
        )
    return None


def _refuse_foreign(change: ApplyApplication, details: Json | None) -> None:
    if details is None:
        return
    config = details.get("deployed_app_config")
    ours = owner(config) == change.uid if isinstance(config, Mapping) else details.get("source") == "declarative"
    if not ours:
        raise SiteFailure("NameTaken", f"application {change.name} on this Ray cluster belongs to somebody else")


def _contains(value: Any, text: str) -> bool:
    if isinstance(value, Mapping):
        return any(_contains(part, text) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_contains(part, text) for part in value)
    return bool(value == text)


def _at(value: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, int | float) for part in value)
