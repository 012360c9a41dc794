"""Reads the golden cases of `reconcile`: tests/golden/<case>/{deployment,observed}.yaml -> plan.yaml. See the README there."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from autoglm_operator.api import (
    AutoGLMDeployment,
    InvalidResource,
    Problem,
    parse_deployment,
    parse_deployment_status,
    parse_metadata,
)
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import (
    ApplicationView,
    ApplyApplication,
    GatewayError,
    GatewayView,
    InvalidDeployment,
    InvalidSite,
    Observed,
    Plan,
    SiteError,
    SiteView,
)
from support.fleet import NOW, admitted, application, foreign, gateway, published, site

FOLDER = Path(__file__).parents[1] / "golden"
Json = Mapping[str, Any]


def cases() -> list[str]:
    """The names of all cases."""
    return sorted(path.parent.name for path in FOLDER.glob("*/deployment.yaml"))


def expected(case: str) -> Any:
    """The plan that the case asks for."""
    return yaml.safe_load((FOLDER / case / "plan.yaml").read_text())


def write(case: str, plan: Any) -> None:
    """Writes a plan as the expected one."""
    text = yaml.safe_dump(plan, sort_keys=False, width=120, allow_unicode=True)
    (FOLDER / case / "plan.yaml").write_text(text)


def decide(case: str) -> Any:
    """The plan that `reconcile` makes of a case, as plain data."""
    folder = FOLDER / case
    stored = yaml.safe_load((folder / "deployment.yaml").read_text())
    seen = yaml.safe_load((folder / "observed.yaml").read_text()) or {}
    for past in seen.get("before", ()):
        moment = NOW - timedelta(seconds=past.get("ago", 60))
        earlier = {**stored, "spec": {**stored["spec"], **past.get("spec", {})}}
        earlier["metadata"] = {k: v for k, v in stored["metadata"].items() if k != "deletionTimestamp"}
        earlier["metadata"].update(past.get("metadata", {}))
        status = reconcile(_read(earlier), _observed(_read(earlier), past, moment), moment).status
        stored["status"] = status.model_dump(mode="json", exclude_none=True)
    of = _read(stored)
    return as_data(reconcile(of, _observed(of, seen, NOW), NOW))


def as_data(plan: Plan) -> dict[str, Any]:
    """A plan as it stands in plan.yaml."""
    return {
        "applications": [
            {"apply": {"site": change.site, "application": dict(change.application)}}
            if isinstance(change, ApplyApplication)
            else {"delete": {"site": change.site, "name": change.name, "uid": change.uid}}
            for change in plan.applications
        ],
        "finalizer": "add" if plan.add_finalizer else "remove" if plan.remove_finalizer else "keep",
        "events": [f"{event.type} {event.reason}: {event.message}" for event in plan.events],
        "requeueAfterSeconds": plan.requeue_after.total_seconds(),
        "routes": [route.model_dump(mode="json", by_alias=True, exclude_defaults=True) for route in plan.routes],
        "status": plan.status.model_dump(mode="json", exclude_none=True),
    }


def _read(stored: Json) -> AutoGLMDeployment | InvalidDeployment:
    try:
        return parse_deployment(stored)
    except InvalidResource as invalid:
        return InvalidDeployment(parse_metadata(stored), invalid.problems, parse_deployment_status(stored))


def _observed(of: AutoGLMDeployment | InvalidDeployment, seen: Json, now: datetime) -> Observed:
    invalid = [
        InvalidSite(site(name).metadata, (Problem("spec.backend", "Required value"),))
        for name in seen.get("invalidSites", ())
    ]
    others = [_read(other) for other in seen.get("deployments", ())]
    known = Observed(
        sites=tuple(_site(of, name, told or {}, now) for name, told in seen.get("sites", {}).items()),
        invalid_sites=tuple(invalid),
        gateways=tuple(_gateway(of, name, told or {}, now) for name, told in seen.get("gateways", {}).items()),
        deployments=(of, *others),
        failures=seen.get("failures", 0),
    )
    if not seen.get("published", True):
        return known
    return replace(known, published=published(reconcile(of, known, now)))


def _site(of: AutoGLMDeployment | InvalidDeployment, name: str, told: Json, now: datetime) -> SiteView:
    error = told.get("error")
    seen = told.get("seen", 2)
    return SiteView(
        site(name, told.get("spec"), **told.get("metadata", {})),
        applications=None
        if seen is None
        else tuple(_application(of, one, now) for one in told.get("applications", ())),
        observed_at=None if seen is None else now - timedelta(seconds=seen),
        error=SiteError(error["reason"], error["message"]) if error else None,
        failures=1 if error else 0,
    )


def _application(of: AutoGLMDeployment | InvalidDeployment, told: Json, now: datetime) -> ApplicationView:
    if told.get("owner") == "foreign":
        return foreign()
    if isinstance(of, InvalidDeployment):
        of = AutoGLMDeployment.model_validate({"metadata": of.metadata, "spec": {"model": told["model"]}})
    deployed = told.get("deployed")
    found = application(
        of,
        told.get("status", "RUNNING"),
        ready=told.get("ready"),
        message=told.get("message", ""),
        uid=told.get("uid"),
        args={"revision": told["revision"]} if "revision" in told else None,
        deployed_at=None if deployed is None else now - timedelta(seconds=deployed),
    )
    if "replicas" in told:
        found = replace(found, deployments=({"name": "Engine", "num_replicas": told["replicas"]},))
    return found


def _gateway(of: AutoGLMDeployment | InvalidDeployment, name: str, told: Json, now: datetime) -> GatewayView:
    error = told.get("error")
    failed = GatewayError(error["reason"], error["message"]) if error else None
    if told.get("seen", 1) is None or isinstance(of, InvalidDeployment):
        return GatewayView(name, error=failed)
    admissions = [
        one
        for place, state in told.get("admissions", {}).items()
        for one in admitted(
            of,
            place,
            state="Admitted" if state not in ("Probing", "ProbeFailed") else state,
            revision=None if state in ("Admitted", "Probing", "ProbeFailed") else state,
            now=now,
        )
    ]
    view = gateway(*admissions, name=name, table=tuple(told.get("table", (1, 1))), age=told.get("seen", 1), now=now)
    return replace(view, error=failed)
