"""The decision about an AutoGLMDeployment that is being deleted."""

from datetime import datetime, timedelta

from autoglm_operator import conditions, deletion, news, placement, views
from autoglm_operator.ages import PROGRESSING, backoff
from autoglm_operator.api import AutoGLMDeployment, DeploymentSiteStatus, DeploymentStatus
from autoglm_operator.api.quantities import seconds
from autoglm_operator.state import FINALIZER, InvalidDeployment, Observed, Plan, Verdict, clip

MAX_ROWS = 256


def plan(deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime) -> Plan:
    """Routes leave at once, applications wherever they are, and the finalizer when they are gone or at the deadline."""
    meta, before = deployment.metadata, deployment.status or DeploymentStatus()
    assert meta.deletion_timestamp is not None, "only called for a deletion"
    deadline = _deadline(deployment)
    step = deletion.step(_remains(deployment, observed, now), meta.deletion_timestamp, deadline, now)
    held = FINALIZER in meta.finalizers
    verdict = Verdict("False", "Deleting", step.message or "nothing is left")
    moving = Verdict("False" if step.finished else "True", "Deleting", verdict.message)
    written = conditions.written(conditions.uniform(verdict, others=moving), deployment.status, meta.generation, now)
    rows = tuple(_leaving_row(one, before, now) for one in step.pending)
    status = before.model_copy(
        update={
            "observed_generation": meta.generation,
            "conditions": written,
            "sites": rows[:MAX_ROWS],
            "replicas": sum(row.ready for row in rows),
            "ready_replicas": sum(row.ready for row in rows),
            "gateway_table": None,
        }
    )
    told = conditions.events(deployment.status, written)
    return Plan(
        status=news.of_deployment(deployment.status, status, now),
        requeue_after=PROGRESSING if not observed.failures else backoff(observed.failures),
        applications=step.changes if held else (),
        remove_finalizer=held and step.finished,
        events=(*told, deletion.gave_up(step, deadline)) if held and step.expired else told,
    )


def _deadline(deployment: AutoGLMDeployment | InvalidDeployment) -> timedelta:
    if isinstance(deployment, InvalidDeployment):
        return deletion.DEFAULT_DEADLINE
    return timedelta(seconds=seconds(deployment.spec.deletion_deadline))


def _remains(
    deployment: AutoGLMDeployment | InvalidDeployment, observed: Observed, now: datetime
) -> tuple[deletion.Remains, ...]:
    """Every site where an application of this deployment is, or where nobody can tell that none is."""
    uid = deployment.metadata.uid
    submitted = {row.name for row in (deployment.status or DeploymentStatus()).sites if row.revision is not None}
    sites = tuple(view.site for view in observed.sites)
    remains = []
    for view in sorted(observed.sites, key=lambda view: view.name):
        if placement.duplicate_of(view.site, sites) is not None:
            continue
        if views.is_live(view, now):
            remains.append(deletion.Remains(view.name, views.owned(view, uid)))
        elif view.name in submitted or views.owned(view, uid):
            remains.append(deletion.Remains(view.name, None, views.silence(view, now).message))
    invalid = {site.metadata.name for site in observed.invalid_sites}
    remains += [
        deletion.Remains(name, None, "the site's spec cannot be used, so it cannot be reached")
        for name in sorted(submitted & invalid)
    ]
    return tuple(remains)


def _leaving_row(remains: deletion.Remains, before: DeploymentStatus, now: datetime) -> DeploymentSiteStatus:
    old = next((row for row in before.sites if row.name == remains.site), None)
    seen = remains.seen[0] if remains.seen else None
    return DeploymentSiteStatus(
        name=remains.site,
        desired=0,
        ready=seen.ready_replicas if seen else (old.ready if old else 0),
        revision=(seen.revision if seen else None) or (old.revision if old else None),
        state="Deleting",
        message=clip("Ray Serve is removing the application" if seen else remains.why_unknown),
        since=now.replace(microsecond=0) if seen else (old.since if old else None),
    )
