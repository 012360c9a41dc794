"""Deployments, sites and observed figures for tests of the operator's decisions. Plain builders, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from autoglm_operator import applications, revision
from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite, parse_deployment, parse_site
from autoglm_operator.state import (
    FINALIZER,
    ApplicationStatus,
    ApplicationView,
    GatewayView,
    Plan,
    Published,
    SiteView,
)
from autoglm_serving.routing_table import Admission, AdmissionState, GatewayReport

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "uid-quickstart"


def deployment(
    spec: Mapping[str, Any] | None = None, *, status: Mapping[str, Any] | None = None, **metadata: Any
) -> AutoGLMDeployment:
    """A deployment named team/quickstart, already with its finalizer."""
    meta = {
        "name": "quickstart",
        "namespace": "team",
        "uid": UID,
        "generation": 1,
        "creationTimestamp": "2026-03-01T11:00:00Z",
        "finalizers": [FINALIZER],
    }
    body = {"model": {"name": "autoglm-phone-9b", "uri": "builtin://autoglm-tiny"}}
    return parse_deployment(
        {
            "apiVersion": "serving.autoglm.dev/v1alpha1",
            "kind": "AutoGLMDeployment",
            "metadata": meta | metadata,
            "spec": body | dict(spec or {}),
            "status": status,
        }
    )


def site(name: str, spec: Mapping[str, Any] | None = None, **metadata: Any) -> AutoGLMSite:
    """A site whose Ray cluster is on hosts named after it."""
    ray = {
        "address": f"http://{name}.example:8265",
        "serveAddresses": [f"http://{name}.example:8000"],
        "tokenSecret": {"namespace": "ray", "name": f"{name}-token"},
    }
    meta = {
        "name": name,
        "uid": f"uid-{name}",
        "generation": 1,
        "creationTimestamp": "2026-03-01T10:00:00Z",
        "finalizers": [FINALIZER],
    }
    return parse_site(
        {
            "apiVersion": "serving.autoglm.dev/v1alpha1",
            "kind": "AutoGLMSite",
            "metadata": meta | metadata,
            "spec": {"backend": {"ray": ray}} | dict(spec or {}),
        }
    )


def view(name: str, *found: ApplicationView, age: float = 2.0, now: datetime = NOW) -> SiteView:
    """A site that was read `age` seconds ago."""
    return SiteView(site(name), applications=found, observed_at=now - timedelta(seconds=age))


def wanted(of: AutoGLMDeployment) -> applications.Wanted:
    """The application that a deployment wants."""
    config = revision.stamp(applications.config(of))
    return applications.wanted(config, max(of.spec.replicas, 1))


def application(
    of: AutoGLMDeployment,
    status: ApplicationStatus = "RUNNING",
    *,
    ready: int | None = None,
    message: str = "",
    deployed_at: datetime | None = None,
    uid: str | None = None,
    args: Mapping[str, Any] | None = None,
) -> ApplicationView:
    """The application of a deployment as Ray reports it, with all replicas ready unless told otherwise."""
    want = wanted(of)
    body = want.application
    changed = {**body["args"], **(args or {}), **({"uid": uid} if uid else {})}
    return ApplicationView(
        name=want.name,
        import_path=body["import_path"],
        status=status,
        message=message,
        route_prefix=body["route_prefix"],
        args=changed,
        deployments=tuple(body["deployments"]),
        ready_replicas=want.replicas if ready is None else ready,
        target_replicas=want.replicas,
        deployed_at=deployed_at,
    )


def foreign(name: str = "team.quickstart") -> ApplicationView:
    """An application that somebody else deployed."""
    return ApplicationView(name, "shop.checkout:app", "RUNNING", route_prefix=f"/{name}", args={}, ready_replicas=1)


def admitted(
    of: AutoGLMDeployment,
    *sites: str,
    state: AdmissionState = "Admitted",
    revision: str | None = None,
    age: float = 2.0,
    now: datetime = NOW,
) -> tuple[Admission, ...]:
    """Admissions of a deployment at some sites."""
    want = wanted(of)
    return tuple(
        Admission(
            deployment=f"{of.metadata.namespace}/{of.metadata.name}",
            site=name,
            revision=want.revision if revision is None else revision,
            state=state,
            message="",
            observed_at=now - timedelta(seconds=age),
        )
        for name in sites
    )


def gateway(
    *admissions: Admission,
    name: str = "central",
    table: tuple[int, int] = (1, 1),
    age: float = 1.0,
    now: datetime = NOW,
) -> GatewayView:
    """A gateway that reported `age` seconds ago."""
    report = GatewayReport(
        table_epoch=table[0], table_version=table[1], admissions=admissions, started_at=now - timedelta(hours=1)
    )
    return GatewayView(name, report, now - timedelta(seconds=age))


def published(plan: Plan, epoch: int = 1, version: int = 1) -> Published:
    """The table in which the routes of a plan stand."""
    return Published(epoch, version, plan.routes)


def with_status(of: AutoGLMDeployment, plan: Plan) -> AutoGLMDeployment:
    """The deployment after the status of a plan was stored and read again."""
    stored = of.model_copy(update={"status": plan.status}).model_dump(mode="json", exclude_none=True)
    return parse_deployment(stored)


def aged(of: SiteView, seconds: float) -> SiteView:
    """The same view, read longer ago."""
    assert of.observed_at is not None
    return replace(of, observed_at=of.observed_at - timedelta(seconds=seconds))


def condition(plan: Plan, kind: str) -> tuple[str, str]:
    """Status and reason of one condition."""
    return next((one.status, one.reason) for one in plan.status.conditions if one.type == kind)


def rows(plan: Plan) -> dict[str, str]:
    """The state of each site in the status."""
    return {row.name: row.state for row in plan.status.sites}


def names(changes: Sequence[Any]) -> list[tuple[str, str, str]]:
    """Changes as (kind, site, application)."""
    return [(type(change).__name__, change.site, change.name) for change in changes]
