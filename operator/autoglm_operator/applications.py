"""The Serve application of a deployment: how it is written, and what an observed one says.

The same deployment always gives the same application, byte for byte, so that nothing is written in a steady state.
Serve restarts every replica when any argument of an application changes. Replicas are therefore not in the arguments but
in the override of the engine's Serve deployment, which Serve changes in place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from autoglm_operator.ages import age
from autoglm_operator.api import AutoGLMDeployment, DeploymentSpec, Reason, SiteState
from autoglm_operator.api.quantities import cpus, option_value, seconds
from autoglm_operator.state import IMPORT_PATH, ApplicationView, clip
from autoglm_serving.config import AppConfig, EncoderConfig, EngineConfig, Limits, ModelConfig, Worker

ENGINE = "Engine"
"""The Serve deployment whose replicas run the model."""

FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(minutes=10)

_ACCELERATORS = {"gpu": "GPU", "npu": "NPU"}


def name_of(namespace: str | None, name: str) -> str:
    """The name of the application, and of its path below the site's Serve address."""
    return f"{namespace or 'default'}.{name}"


def config(deployment: AutoGLMDeployment, cluster: str = "") -> AppConfig:
    """The arguments of the application, without the revision, which is a hash of them. `cluster` is ours, if it is known."""
    spec, meta = deployment.spec, deployment.metadata
    return AppConfig(
        deployment=f"{meta.namespace or 'default'}/{meta.name}",
        uid=meta.uid,
        revision="",
        cluster=cluster,
        model=ModelConfig(name=spec.model.name, uri=spec.model.uri),
        engine=EngineConfig(
            name=spec.engine.name,
            tensor_parallel=spec.engine.parallelism.tensor,
            max_model_len=spec.engine.max_model_len,
            max_concurrency=spec.engine.max_concurrency,
            options={key: option_value(spec.engine.options[key]) for key in sorted(spec.engine.options)},
        ),
        limits=Limits(**spec.limits.model_dump()),
        worker=_worker(spec),
        encoder=encoder(spec),
        max_ongoing_requests=spec.engine.max_concurrency,
    )


@dataclass(frozen=True)
class Wanted:
    """The application that shall run on each selected site."""

    name: str
    uid: str
    revision: str
    replicas: int
    application: Mapping[str, Any]


def wanted(config: AppConfig, replicas: int, name: str = "") -> Wanted:
    """The application in the form of Ray's ServeApplicationSchema. `replicas` is at least 1: Serve takes no 0.

    Without a name it has that of its deployment.

    Arguments that equal their default are left out, so an operator that knows more arguments restarts nothing, and a
    site with an older image is told only what is used.
    """
    name = name or config.deployment.replace("/", ".")
    application = {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": IMPORT_PATH,
        "args": config.model_dump(mode="json", by_alias=True, exclude={"replicas"}, exclude_defaults=True),
        "deployments": [{"name": ENGINE, "num_replicas": replicas}],
    }
    return Wanted(name, config.uid, config.revision, replicas, application)


def kept(view: ApplicationView | None, wanted: Wanted) -> Wanted:
    """The wanted application as it is best put where `view` already is.

    The name of our cluster alone is no reason to restart replicas: an application that was written without it, or while it
    could not be read, keeps its arguments until something that matters changes.
    """
    if view is None or view.args is None or view.owner_uid != wanted.uid:
        return wanted
    if _unnamed(view.args) != _unnamed(wanted.application["args"]):
        return wanted
    return replace(wanted, application={**wanted.application, "args": dict(view.args)})


def matches(view: ApplicationView, wanted: Wanted) -> bool:
    """Whether the submitted configuration is the wanted one. Keys that somebody else added to an override are ignored."""
    return _same_code(view, wanted) and _overrides(view.deployments, wanted) == _overrides(
        wanted.application["deployments"], wanted
    )


@dataclass(frozen=True)
class Standing:
    """What an application at a live site says about the deployment there."""

    state: SiteState
    reason: Reason
    message: str
    ready: int = 0
    apply: bool = False
    restart: bool = False


@dataclass(frozen=True)
class History:
    """What is known of a site from before.

    `earned` says that the wanted revision was seen running there and that a gateway still gets its answers. `deployed`
    says that an application was there, `rolling` that it was of another revision when this rollout began. `failing_since`
    is when the sites ceased to be ready.
    """

    earned: bool = False
    deployed: bool = False
    rolling: bool = False
    failing_since: datetime | None = None


def judge(view: ApplicationView | None, wanted: Wanted, history: History, now: datetime) -> Standing:
    """Where a deployment stands at a site that was just read, and whether something has to be written there."""
    if view is None:
        return _missing(history)
    if view.status == "DELETING":  # Ray shows no configuration of it any more, so nobody can tell whose it was
        return Standing("Pending", "Deploying", "Ray Serve is still removing an earlier application of this name")
    if view.owner_uid != wanted.uid:
        owner = f"resource {view.owner_uid}" if view.owner_uid else f"somebody else ({view.import_path or 'no config'})"
        text = f"application {wanted.name} belongs to {owner} and is left alone: rename the deployment"
        return Standing("Conflict", "NameTaken", text)
    if not matches(view, wanted):
        return _outdated(view, wanted, history)
    return _current(view, wanted, history, now)


def clean(message: str) -> str:
    """Ray's words for people: the last line of a traceback, without frames and process noise, at most 1 KB."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = re.sub(r"ray::[\w.:]+\([^()]*\)\s*\(pid=\d+[^)]*\)", "", text)
    kept: list[str] = []
    frames = False
    for line in text.splitlines():
        if "Traceback (most recent call last)" in line or _is_frame(line):
            frames = True
        elif line.strip() and not (frames and line[0].isspace()):
            frames = False
            kept.append(" ".join(line.split()))
    return clip(" | ".join(dict.fromkeys(kept)))


def _is_frame(line: str) -> bool:
    return bool(re.match(r'\s*(File ".*", line \d+|\^+\s*$|During handling of|The above exception was)', line))


def _missing(history: History) -> Standing:
    if history.deployed:
        text = "the application is gone from the Ray cluster and is put there again"
        return Standing("Pending", "ApplicationMissing", text, apply=True)
    return Standing("Pending", "Deploying", "the application is being put there", apply=True)


def _outdated(view: ApplicationView, wanted: Wanted, history: History) -> Standing:
    if _same_code(view, wanted):
        ready = min(view.ready_replicas, wanted.replicas) if view.status == "RUNNING" or history.earned else 0
        return Standing("Deploying", "Scaling", f"scaling to {wanted.replicas} replicas", ready, apply=True)
    if view.revision != wanted.revision:
        text = f"revision {wanted.revision} replaces {view.revision or 'an unknown one'}"
        return Standing("Deploying", "RollingOut", text, apply=True)
    return Standing(
        "Deploying", "Deploying", "the application was changed by somebody else and is restored", apply=True
    )


def _current(view: ApplicationView, wanted: Wanted, history: History, now: datetime) -> Standing:
    ready = view.ready_replicas if view.status == "RUNNING" or history.earned else 0
    counted = f"{ready} of {wanted.replicas} replicas are ready"
    words = clean(view.message)
    if view.status == "RUNNING":
        if ready >= wanted.replicas:
            return Standing("Ready", "UpToDate", "", ready)
        return Standing("Degraded", "ReplicasMissing", counted, ready)
    if view.status == "UNHEALTHY":
        return Standing("Degraded" if ready else "Failed", "Unhealthy", words or "Ray Serve says UNHEALTHY", ready)
    if view.status == "DEPLOY_FAILED":
        restart = view.ready_replicas == 0 and _retry_is_due(view, history, now)
        return Standing(
            "Failed", _why_failed(view.message), words or "Ray Serve says DEPLOY_FAILED", ready, False, restart
        )
    if "to be scheduled" in view.message:
        return Standing("Deploying", "InsufficientResources", words, ready)
    reason: Reason = "Scaling" if history.earned else "RollingOut" if history.rolling else "Deploying"
    return Standing("Deploying", reason, words or counted, ready)


def _why_failed(message: str) -> Reason:
    if "ModelNotFound" in message:
        return "ModelNotFound"
    return "InsufficientResources" if "to be scheduled" in message else "DeployFailed"


def _retry_is_due(view: ApplicationView, history: History, now: datetime) -> bool:
    """Ray gives up on a failed application, we do not: it is removed and put there again after a growing pause.

    The pause is as long as the failure had lasted when it was last tried, so it doubles with each attempt.
    """
    if view.deployed_at is None:
        return False
    lasted = view.deployed_at - history.failing_since if history.failing_since else timedelta(0)
    return age(view.deployed_at, now) >= min(max(lasted, FIRST_RETRY), LONGEST_RETRY)


def _unnamed(args: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if key != "cluster"}


def _same_code(view: ApplicationView, wanted: Wanted) -> bool:
    application = wanted.application
    return (
        view.import_path == application["import_path"]
        and view.route_prefix == application["route_prefix"]
        and bool(dict(view.args or {}) == application["args"])
    )


def _overrides(deployments: Any, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """The overrides by name, without keys that we never set and without nulls."""
    ours = {override["name"]: set(override) for override in wanted.application["deployments"]}
    return {
        str(override.get("name")): {
            key: value for key, value in override.items() if key in ours.get(str(override.get("name")), override)
        }
        for override in deployments
    }


def submitted_replicas(view: ApplicationView) -> int:
    """How many replicas an application was asked to have: by its override, else as Serve tells."""
    asked = (part.get("num_replicas") for part in view.deployments if part.get("name") == ENGINE)
    return next((count for count in asked if isinstance(count, int)), view.target_replicas)


def running_replicas(view: ApplicationView) -> int:
    """How many replicas take accelerators: those that run, and worker pods that are there with none, or still come."""
    return max(view.ready_replicas, view.ray_service.pods if view.ray_service is not None else 0)


def _worker(spec: DeploymentSpec) -> Worker:
    return _taking(
        spec, cpus(spec.worker.resources.cpu), spec.worker.accelerator.count or spec.engine.parallelism.tensor
    )


def encoder(spec: DeploymentSpec) -> EncoderConfig | None:
    """The encoders of an application, where they are asked for."""
    wanted = spec.encoder
    if wanted is None:
        return None
    return EncoderConfig(
        min_replicas=wanted.min,
        max_replicas=wanted.max,
        tokens_per_s=wanted.tokens_per_second,
        wait_s=seconds(wanted.wait),
        worker=_taking(spec, cpus(wanted.cpu), 1),
    )


def _taking(spec: DeploymentSpec, cores: float, accelerators: int) -> Worker:
    """A process with so many cores and accelerators of the deployment's kind."""
    accelerator = spec.worker.accelerator
    if accelerator.type == "cpu":
        return Worker(cpus=cores)
    count = float(accelerators)
    resource = accelerator.resource_name or _ACCELERATORS[accelerator.type]
    if resource == "GPU":
        return Worker(cpus=cores, gpus=count)
    return Worker(cpus=cores, custom={resource: count})
