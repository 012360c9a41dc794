"""The Ray cluster of a deployment at a site with the back end kubeRay: what to write there, and what the budget forbids.

The Serve part goes in place, as everywhere. Worker pods follow the replicas: up with them, down only when Serve has emptied
them. Other pods take another Ray cluster, which `kuberay.change` plans.
"""

from dataclasses import dataclass

from autoglm_operator.api import RolloutSpec
from autoglm_operator.applications import Standing, Wanted, matches
from autoglm_operator.kuberay import manifests, pods
from autoglm_operator.kuberay.change import Budget, Change, Need, plan
from autoglm_operator.kuberay.drift import drifted
from autoglm_operator.state import ApplicationChange, ApplicationView, ApplyApplication, DeleteApplication, SiteView
from autoglm_operator.subject import Subject


@dataclass(frozen=True)
class Step:
    """Where the deployment stands at the site, and what to change there."""

    standing: Standing
    change: ApplicationChange | None = None


@dataclass(frozen=True)
class Place:
    """A deployment at one site: the application that it wants there and the one that is there."""

    subject: Subject
    view: SiteView
    application: Wanted
    found: ApplicationView | None

    @property
    def rollout(self) -> RolloutSpec:
        """What a change may take."""
        return self.subject.deployment.spec.rollout

    @property
    def manifests(self) -> manifests.Wanted:
        """The objects that it wants there."""
        wanted, replicas = self.application, self.application.replicas
        surge = self.rollout.max_surge >= replicas
        return manifests.Wanted(self.subject.deployment, self.view.site, wanted.application, replicas, surge)

    def delete(self) -> DeleteApplication:
        """Takes the RayService away, and its pods with it."""
        name = self.found.name if self.found is not None else self.application.name
        return DeleteApplication(self.view.name, name, self.application.uid)


def step(place: Place, standing: Standing) -> Step:
    """The next step. `standing` is what the application says; it holds unless the pods have to change as well."""
    found = place.found
    if standing.state == "Conflict" or (found is not None and found.status == "DELETING"):
        return Step(standing)
    if found is None or found.ray_service is None:
        return Step(standing, apply(place))
    if found.ray_service.cluster_hash != place.manifests.cluster_hash:
        return _replace_cluster(place, found, standing)
    if standing.restart:
        return Step(standing, place.delete())
    change = apply(place)
    stale = standing.apply or change.workers or drifted(found.ray_service.objects, change.manifests)
    return Step(standing, change if stale else None)


def _replace_cluster(place: Place, found: ApplicationView, standing: Standing) -> Step:
    """Another cluster, if the budget has room: beside the first one, or after it."""
    change = _plan(place, found)
    if change.way == "Refused":
        ready = min(found.ready_replicas, place.application.replicas)
        return Step(Standing("Degraded" if ready else "Failed", "ClusterChangeRefused", change.message, ready))
    if change.way == "Staged":
        return Step(Standing("Deploying", "RollingOut", change.message), place.delete())
    return Step(Standing("Deploying", "RollingOut", change.message, standing.ready, apply=True), apply(place))


def _plan(place: Place, found: ApplicationView) -> Change:
    deployment = place.subject.deployment
    need = Need(place.application.replicas, pods.accelerators(deployment), deployment.spec.worker.accelerator.type)
    return plan(need, Budget(place.rollout.max_surge, place.rollout.max_unavailable), found.ready_replicas)


def apply(place: Place) -> ApplyApplication:
    """All objects anew. The children follow when the RayService is there, to which they belong."""
    wanted, found = place.manifests, place.found
    made = [manifests.ray_service_of(wanted)]
    workers: dict[str, int] = {}
    if found is not None and found.ray_service is not None:
        available = max(wanted.replicas - place.rollout.max_unavailable, 0)
        made += manifests.children_of(wanted, found.ray_service.uid, available)
        emptied = found.status == "RUNNING" and matches(found, place.application)
        workers = {
            name: wanted.replicas
            for name, present in found.ray_service.workers.items()
            if present < wanted.replicas or (present > wanted.replicas and emptied)
        }
    return ApplyApplication(place.view.name, wanted.application, tuple(made), workers)
