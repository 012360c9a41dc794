"""The routes of a deployment whose spec cannot be used: those of what runs.

A spec becomes unusable while its applications go on running, for instance when a rule of the API is tightened. Whoever
leads then has to send traffic on, also after a restart, when it remembers no route.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from autoglm_operator import routes, views
from autoglm_operator.state import InvalidDeployment, Observed, SiteView
from autoglm_serving.config import AppConfig
from autoglm_serving.routing_table import Route


def of(deployment: InvalidDeployment, observed: Observed) -> tuple[Route, ...]:
    """The published routes, else those that a gateway still has, else what the applications themselves say."""
    if observed.published is not None:
        return observed.published.routes
    return observed.inherited or _rebuilt(deployment, observed)


def _rebuilt(deployment: InvalidDeployment, observed: Observed) -> tuple[Route, ...]:
    """One route to every site that runs the deployment, with the arguments of the one that has most replicas ready.

    Of a rollout's two applications only the stable one counts: the other may be at the weight 0.
    """
    meta, stable = deployment.metadata, _stable(deployment)
    known = [
        (found.ready_replicas, config, routes.Stop(view, config.revision, found.name))
        for view in sorted(observed.sites, key=lambda view: view.name)
        for found in views.owned(view, meta.uid)
        if found.status != "DELETING"
        and stable in ("", found.name)
        and (config := _arguments(found.args)) is not None
        and config.deployment == f"{meta.namespace or 'default'}/{meta.name}"
    ]
    if not known:
        return ()
    _, leading, _ = max(known, key=lambda one: (one[0], one[1].revision))
    stops = [stop for _, _, stop in known]
    return (routes.of_running(leading, (*stops, *_silent(deployment, observed.sites))),)


def _silent(deployment: InvalidDeployment, sites: Iterable[SiteView]) -> Iterable[routes.Stop]:
    """Sites that were not read yet and had the application by the stored status: the gateway finds out by its probes."""
    had = {row.name: row.revision for row in (deployment.status.sites if deployment.status else ())}
    for view in sorted(sites, key=lambda view: view.name):
        revision = had.get(view.name)
        if view.applications is None and revision:
            yield routes.Stop(view, revision, _stable(deployment))


def _stable(deployment: InvalidDeployment) -> str:
    """The application that serves by the stored status; empty if that tells of no rollout."""
    rollout = deployment.status.rollout if deployment.status else None
    return rollout.application if rollout else ""


def _arguments(args: object) -> AppConfig | None:
    """The arguments of an application, if they are those of this version."""
    try:
        return AppConfig.model_validate(args)
    except ValidationError:
        return None
