"""The routes of a deployment whose spec cannot be used: those of what runs.

A spec becomes unusable while its applications go on running, for instance when a rule of the API is tightened. Whoever
leads then has to send traffic on, also after a restart, when it remembers no route.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from autoglm_operator import routes, views
from autoglm_operator.state import InvalidDeployment, Observed, SiteView
from autoglm_serving.config import BASE, AppConfig
from autoglm_serving.routing_table import Route


def of(deployment: InvalidDeployment, observed: Observed) -> tuple[Route, ...]:
    """The published routes, else those that a gateway still has, else what the applications themselves say."""
    if observed.published is not None:
        return observed.published.routes
    return observed.inherited or _rebuilt(deployment, observed)


def _rebuilt(deployment: InvalidDeployment, observed: Observed) -> tuple[Route, ...]:
    """One route to every site that runs the deployment, with the arguments of the one that has most replicas ready, of those
    that run no variant of the model if there are some.

    Of a rollout's two applications only the stable one counts: the other may be at the weight 0.
    """
    meta, stable = deployment.metadata, _stable(deployment)
    known = [
        (found.ready_replicas, config, _stop(view, config, found.name))
        for view in sorted(observed.sites, key=lambda view: view.name)
        for found in views.owned(view, meta.uid)
        if found.status != "DELETING"
        and stable in ("", found.name)
        and (config := _arguments(found.args)) is not None
        and config.deployment == f"{meta.namespace or 'default'}/{meta.name}"
    ]
    if not known:
        return ()
    _, leading, _ = max(known, key=lambda one: (not one[1].model.variant, one[0], one[1].revision))
    stops = [stop for _, _, stop in known]
    return (routes.of_running(leading, (*stops, *_silent(deployment, observed.sites))),)


def _stop(view: SiteView, config: AppConfig, application: str) -> routes.Stop:
    """What runs at a site. A variant of the model goes on answering with the revision that it has."""
    wanted = config.revision if config.model.variant else ""
    return routes.Stop(view, config.revision, application, config.model.variant or None, wanted)


def _silent(deployment: InvalidDeployment, sites: Iterable[SiteView]) -> Iterable[routes.Stop]:
    """Sites that were not read yet and had the application by the stored status: the gateway finds out by its probes."""
    rows = {row.name: row for row in (deployment.status.sites if deployment.status else ())}
    for view in sorted(sites, key=lambda view: view.name):
        row = rows.get(view.name)
        if view.applications is None and row is not None and row.revision:
            variant = row.variant if row.variant != BASE else None
            yield routes.Stop(view, row.revision, _stable(deployment), variant, row.revision if variant else "")


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
