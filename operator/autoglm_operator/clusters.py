"""The Ray cluster of a deployment at a site with the back end kubeRay: what to write there, and what the budget forbids.

The Serve part goes in place, as everywhere. Worker pods follow the replicas: up with them, down only when Serve has emptied
them. Other pods take another Ray cluster, which `kuberay.change` plans. A revision that is rolled out in steps has a Ray
cluster of its own beside that of the stable one, and while there are two neither changes its pods: the budget is spent on
both. Where a change takes the only cluster away before, one site
follows the other: the next one only when the last one serves again, so that a change that does not start stops at one site. A
site that falls silent on its way keeps its turn for a while, since nobody knows whether the change started there.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from autoglm_operator import routes, views
from autoglm_operator.ages import age
from autoglm_operator.api import DeploymentSiteStatus, RolloutSpec
from autoglm_operator.applications import Standing, Wanted, matches
from autoglm_operator.kuberay import manifests, names, pods
from autoglm_operator.kuberay.change import Budget, Change, Need, plan
from autoglm_operator.kuberay.drift import drifted
from autoglm_operator.state import (
    ApplicationChange,
    ApplicationView,
    ApplyApplication,
    DeleteApplication,
    RayServiceView,
    SiteView,
)
from autoglm_operator.subject import Subject

WAITS_FOR_THE_SILENT = timedelta(minutes=30)
"""How long after a site was last heard the others wait for it, if it fell silent on its way."""

EMPTIED_WITHIN = timedelta(seconds=150)
"""Serve ends a replica that it stops after two minutes at most, whatever it still does (the application's `DRAIN_S`)."""


@dataclass(frozen=True)
class Step:
    """Where the deployment stands at the site, and what to change there."""

    standing: Standing
    change: ApplicationChange | None = None


@dataclass(frozen=True)
class Turn:
    """The site that may lose its only Ray cluster now, and the one that all others wait for; both empty where there is none.

    `silent`: what they wait for does not answer.
    """

    site: str = ""
    waits_for: str = ""
    silent: bool = False

    @property
    def words(self) -> str:
        """What is waited for."""
        if self.silent:
            return f"when site {self.waits_for}, which fell silent before it served, is back, or in half an hour"
        return f"when site {self.waits_for} serves with its new pods"


@dataclass(frozen=True)
class Place:
    """A deployment at one site: the application that it wants there and the one that is there."""

    subject: Subject
    view: SiteView
    application: Wanted
    found: ApplicationView | None
    turn: Turn = Turn()

    @property
    def rollout(self) -> RolloutSpec:
        """What a change may take."""
        return self.subject.deployment.spec.rollout

    @property
    def manifests(self) -> manifests.Wanted:
        """The objects that it wants there."""
        wanted, replicas = self.application, self.application.replicas
        surge = self.rollout.max_surge >= replicas and not self.is_accompanied
        return manifests.Wanted(self.subject.with_its_pods, self.view.site, wanted.application, replicas, surge)

    @property
    def is_accompanied(self) -> bool:
        """Whether another revision of the deployment has pods here too, or shall have."""
        name = names.ray_service(self.application.name, self.view.name)
        beside = (one.ray_service for one in views.owned(self.view, self.application.uid))
        lead = self.subject.lead
        return any(one is not None and one.name != name for one in beside) or (lead is not None and lead.accompanied)

    def delete(self) -> DeleteApplication:
        """Takes the RayService away, and its pods with it."""
        name = self.found.name if self.found is not None else self.application.name
        return DeleteApplication(self.view.name, name, self.application.uid)


def turn(subject: Subject) -> Turn:
    """Whose turn it is to be taken away: nobody's while a site that answers is not up with the pods that it shall have."""
    unseen = next((view.name for view in subject.chosen if _is_unseen(view)), "")
    if unseen:
        return Turn(waits_for=unseen)
    lost = next((view.name for view in subject.chosen if _fell_silent_on_its_way(subject, view)), "")
    if lost:
        return Turn(waits_for=lost, silent=True)
    places = [_place(subject, view) for view in subject.chosen if _is_read(subject, view)]
    waiting = ""
    for place in places:
        found = place.found
        if found is not None and found.status != "DELETING" and found.owner_uid != place.application.uid:
            continue  # the name is taken: nothing will change there
        if found is None or found.status == "DELETING" or found.ready_replicas == 0:
            return Turn(waits_for=place.view.name)
        if not _has_pods(place, found):
            if not waiting and _plan(place, found).way == "Staged":
                waiting = place.view.name
        elif not _serves(place, found):
            return Turn(waits_for=place.view.name)
    return Turn(waiting, waiting)


def _serves(place: Place, found: ApplicationView) -> bool:
    """Whether the replicas that it needs run and clients get their answers. A deployment without a route has no clients."""
    if not _runs(place, found):
        return False
    subject, observed = place.subject, place.subject.observed
    routed = bool(observed.gateways) and routes.holder(subject.deployment, observed.deployments) is None
    return not routed or subject.is_admitted(place.view.name)


def _runs(place: Place, found: ApplicationView) -> bool:
    """Whether the replicas that it needs run. Ray calls it DEPLOYING while others start or find no room."""
    wanted = place.application
    needed = place.subject.needed(wanted.replicas)
    waits = needed < wanted.replicas and found.status == "DEPLOYING" and matches(found, wanted)
    return found.ready_replicas >= needed and (found.status == "RUNNING" or waits)


def _is_unseen(view: SiteView) -> bool:
    """Whether nobody looked yet, as after an edit of the site: its cluster may be the one that is away just now."""
    return view.site.spec.backend.kube_ray is not None and view.applications is None and view.error is None


def _fell_silent_on_its_way(subject: Subject, view: SiteView) -> bool:
    """Whether a site served nothing, or less than it shall, when it was last heard, by this process or an earlier one, or
    was asked since then to take away what served.

    Only for a while: it may be asleep, or gone for good, and the others want their change.
    """
    if view.site.spec.backend.kube_ray is None or subject.is_live(view):
        return False
    known, heard = view if view.applications is not None else subject.row(view.name), subject.heard(view)
    if known is None or heard is None or subject.now - heard > WAITS_FOR_THE_SILENT:
        return False
    if isinstance(known, DeploymentSiteStatus):
        return known.ready < subject.needed(known.desired)
    place = _place(subject, view)
    found = place.found
    if found is None or found.status == "DELETING" or found.ready_replicas == 0:
        return found is None or found.owner_uid == place.application.uid
    if found.name in view.going and found.owner_uid == place.application.uid:
        return True
    return _has_pods(place, found) and found.ready_replicas < subject.needed(place.application.replicas)


def _is_read(subject: Subject, view: SiteView) -> bool:
    return view.site.spec.backend.kube_ray is not None and subject.is_live(view)


def _place(subject: Subject, view: SiteView) -> Place:
    return Place(subject, view, subject.wanted_at(view.name), subject.found(view))


def _has_pods(place: Place, found: ApplicationView) -> bool:
    """Whether the Ray cluster is made from what it shall be made from."""
    return found.ray_service is not None and found.ray_service.cluster_hash == place.manifests.cluster_hash


def step(place: Place, standing: Standing) -> Step:
    """The next step. `standing` is what the application says; it holds unless the pods have to change as well."""
    found = place.found
    if standing.state == "Conflict" or (found is not None and found.status == "DELETING"):
        return Step(standing)
    if found is None or found.ray_service is None:
        return Step(standing, apply(place))
    if not _has_pods(place, found):
        keeps = place.subject.is_behind or place.is_accompanied
        return _kept(place, found, standing) if keeps else _replace_cluster(place, found, standing)
    if standing.restart:
        return Step(standing, place.delete())
    return _in_place(found.ray_service, _same_cluster(found.ray_service, apply(place)), standing)


def beside(place: Place, standing: Standing) -> ApplicationChange | None:
    """What to write for a revision that is rolled out beside the one that serves.

    Pods that it has it keeps, unless nothing answers in them or they are those of a revision that it replaces; what serves
    goes when gateways send nothing there any more (`has_pods_of_another`).
    """
    found = place.found
    if standing.state == "Conflict" or (found is not None and found.status == "DELETING"):
        return None
    if found is not None and found.ray_service is not None and not _has_pods(place, found):
        if found.ready_replicas == 0:
            return place.delete()
        return None if has_pods_of_another(place) else _kept(place, found, standing).change
    return step(place, replace(standing, restart=False)).change


def has_pods_of_another(place: Place) -> bool:
    """Whether what is there has the pods of another revision, which is gone from the routes."""
    found = place.found
    if found is None or found.ray_service is None or found.status == "DELETING":
        return False
    return found.revision != place.application.revision and not _has_pods(place, found)


def _same_cluster(present: RayServiceView, change: ApplyApplication) -> ApplyApplication:
    stored = present.objects.get("RayService")
    if stored is None:
        return change
    first, *children = change.manifests
    return replace(change, manifests=(manifests.with_head_s_grace_of(first, stored), *children))


def _in_place(present: RayServiceView, change: ApplyApplication, standing: Standing) -> Step:
    stale = standing.apply or change.workers or drifted(present.objects, change.manifests)
    return Step(standing, change if stale else None)


def _kept(place: Place, found: ApplicationView, standing: Standing) -> Step:
    """Another revision serves than the one whose pods the spec describes, or two do: it keeps the pods that it has."""
    if standing.restart:
        return Step(standing, place.delete())
    present = found.ray_service.objects.get("RayService") if found.ray_service is not None else None
    if found.ray_service is None or present is None:
        return Step(standing)
    change = apply(place)
    first, *children = change.manifests
    same_pods = manifests.with_pods_of(first, present, place.application.replicas)
    return _in_place(found.ray_service, replace(change, manifests=(same_pods, *children)), standing)


def _replace_cluster(place: Place, found: ApplicationView, standing: Standing) -> Step:
    """Another cluster, if the budget has room: beside the first one, or after it."""
    change = _plan(place, found)
    if change.way == "Refused":
        ready = min(found.ready_replicas, place.application.replicas)
        return Step(Standing("Degraded" if ready else "Failed", "ClusterChangeRefused", change.message, ready))
    if change.way == "Staged" and found.ready_replicas and place.turn.site != place.view.name:
        text = f"{change.message}, {place.turn.words}"
        return Step(Standing("Deploying", "RollingOut", text, min(found.ready_replicas, place.application.replicas)))
    if change.way == "Staged":
        return Step(Standing("Deploying", "RollingOut", change.message), place.delete())
    return Step(Standing("Deploying", "RollingOut", change.message, standing.ready, apply=True), apply(place))


def _plan(place: Place, found: ApplicationView) -> Change:
    deployment = place.subject.deployment
    need = Need(place.application.replicas, pods.accelerators(deployment), deployment.spec.worker.accelerator.type)
    serving = 0 if _is_left_behind(place, found) else found.ready_replicas
    return plan(need, Budget(place.rollout.max_surge, place.rollout.max_unavailable), serving)


def _is_left_behind(place: Place, found: ApplicationView) -> bool:
    """Whether steps went past a site that was away, and the name of the wanted revision is taken there by an earlier one.

    Requests go to the sites that have the wanted revision: here nobody loses anything.
    """
    subject, here = place.subject, place.view.name
    if place.rollout.steps is None or found.revision in (None, place.application.revision):
        return False
    served = any(subject.is_admitted(view.name) for view in subject.chosen if view.name != here)
    return served and not subject.is_admitted(here)


def apply(place: Place) -> ApplyApplication:
    """All objects anew. The children follow when the RayService is there, to which they belong."""
    wanted, found = place.manifests, place.found
    made = [manifests.ray_service_of(wanted)]
    workers: dict[str, int] = {}
    if found is not None and found.ray_service is not None:
        available = max(wanted.replicas - place.rollout.max_unavailable, 0)
        made += manifests.children_of(wanted, found.ray_service.uid, available)
        emptied = _is_emptied(place, found)
        workers = {
            name: wanted.replicas
            for name, present in found.ray_service.workers.items()
            if present < wanted.replicas or (present > wanted.replicas and emptied)
        }
    return ApplyApplication(place.view.name, wanted.application, tuple(made), workers)


def _is_emptied(place: Place, found: ApplicationView) -> bool:
    """Whether Serve has taken the replicas away that are not wanted any more, so that pods beyond the others serve nobody.

    Serve says RUNNING when it is done, and never of an application that is broken. Where another revision waits for its room,
    it is enough that nothing answers there, or that Serve was told so long ago that nothing is under way in what it stopped.
    """
    if not matches(found, place.application) or found.ray_service is None:
        return False
    if found.status == "RUNNING":
        return True
    if not place.is_accompanied:
        return False  # replicas of another revision may be replaced in place, one after the other, for as long as that takes
    told, at = found.ray_service.told, found.deployed_at
    return found.ready_replicas == 0 or (told and at is not None and age(at, place.subject.now) >= EMPTIED_WITHIN)
