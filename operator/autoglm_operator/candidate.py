"""The revision that is being rolled out: its application at each site, how far it is, and what to write there."""

from dataclasses import dataclass, replace
from functools import cached_property

from autoglm_operator import applications, clusters, routes, views
from autoglm_operator.api import WorkerSpec
from autoglm_operator.rollout import sizes
from autoglm_operator.rollout.terms import Level
from autoglm_operator.state import ApplicationChange, ApplicationView, ApplyApplication, DeleteApplication, SiteView
from autoglm_operator.subject import Lead, Subject
from autoglm_serving.config import AppConfig


@dataclass(frozen=True)
class Progress:
    """How far a candidate is on its way to a step, which takes `need` replicas; `waiting` and `failed` are for people."""

    level: Level
    waiting: str = ""
    failed: str = ""
    need: int = 0


@dataclass(frozen=True)
class Place:
    """The candidate at one site that answers."""

    view: SiteView
    cluster: clusters.Place
    standing: applications.Standing
    sizes: sizes.Sizes
    admitted: bool
    """By every gateway that reports."""
    admitted_somewhere: bool

    @property
    def change(self) -> ApplicationChange | None:
        """What to write at the site. Nothing until the stable revision has made room."""
        if self.sizes.candidate == 0:
            return None
        if self.view.site.spec.backend.kube_ray is not None:
            return clusters.beside(self.cluster, self.standing)
        return ApplyApplication(self.view.name, self.cluster.application.application) if self.standing.apply else None


@dataclass(frozen=True)
class Candidate:
    """A revision on its way. `weight` is that of the step that is prepared; `stable` names the other application. `worker` is
    what its pods are made from, None where that is not remembered."""

    subject: Subject
    config: AppConfig
    name: str
    stable: str
    weight: int
    worker: WorkerSpec | None = None

    @cached_property
    def _leading(self) -> Subject:
        """The deployment as this revision has it."""
        return replace(self.subject, lead=Lead(self.config, self.name, worker=self.worker, accompanied=True))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The sites that answer."""
        return tuple(self.at(view) for view in self.subject.chosen if self.subject.is_live(view))

    def stands_at(self, view: SiteView) -> bool:
        """Whether its application was seen at a site: by this process, else by the one whose table gateways had."""
        if view.applications is None:
            known = (route.canary.endpoints for route in self.subject.observed.inherited if route.canary is not None)
            return any(routes.application_at(ends, view.name) == self.name for ends in known)
        found = views.placed(view, self.name)
        return found is not None and found.owner_uid == self.config.uid and found.status != "DELETING"

    def at(self, view: SiteView) -> Place:
        """The candidate at one site."""
        found = views.placed(view, self.name)
        target = views.Target(self.config.deployment, view.name, self.config.revision)
        gateways, now = self.subject.observed.gateways, self.subject.now
        heard = views.reporting(gateways, now)
        told = [views.admission(gateway, target, now).status == "True" for gateway in heard]
        ours = found is not None and found.owner_uid == self.config.uid and found.revision == self.config.revision
        ready = found.ready_replicas if found is not None and ours and any(told) else 0
        own = counts(found, ready)
        size = sizes.during(room(self.subject, view.name), self.weight, counts(views.placed(view, self.stable)), own)
        wanted = applications.kept(found, applications.wanted(self.config, max(size.candidate, 1), self.name))
        past = applications.History(earned=any(told))
        return Place(
            view=view,
            cluster=clusters.Place(self._leading, view, wanted, found),
            standing=applications.judge(found, wanted, past, now),
            sizes=size,
            admitted=bool(told) and all(told),
            admitted_somewhere=any(told),
        )

    def has_place(self, view: SiteView, found: ApplicationView) -> bool:
        """Whether an application at a site is this revision's, or may become it. Pods of another one cannot."""
        place = self.at(view)
        return found is place.cluster.found and not clusters.has_pods_of_another(place.cluster)

    def progress(self, weight: int) -> Progress:
        """How far it is on its way to this weight, at all sites that answer."""
        gateways, now = self.subject.observed.gateways, self.subject.now
        if not self.places:
            return Progress("unknown", "no selected site answers")
        if not gateways or len(views.reporting(gateways, now)) < len(gateways):
            return Progress("unknown", "not every gateway answers")
        failed = [f"{place.view.name}: {place.standing.message}" for place in self.places if _has_failed(place)]
        needs = {place.view.name: sizes.needed(room(self.subject, place.view.name), weight) for place in self.places}
        late = [
            _told(place, need)
            for place in self.places
            if place.standing.ready < (need := needs[place.view.name]) or not place.admitted
        ]
        some = any(place.standing.ready > 0 and place.admitted_somewhere for place in self.places)
        level: Level = "enough" if not late else "some" if some else "none"
        return Progress(level, "; ".join(late), "; ".join(failed), sum(needs.values()))


def room(subject: Subject, site: str) -> sizes.Room:
    """What a site may hold. `subject` is that of the spec, whose replicas are the wanted ones."""
    spec, replicas = subject.deployment.spec.rollout, subject.wanted_at(site).replicas
    return sizes.Room(replicas, spec.max_surge, min(spec.max_unavailable, replicas))


def counts(found: ApplicationView | None, ready: int | None = None) -> sizes.Counts:
    """The replicas of an application as it was last read. One that is going holds what still runs."""
    if found is None:
        return sizes.Counts()
    going = found.status == "DELETING"
    submitted = 0 if going else applications.submitted_replicas(found)
    running = applications.running_replicas(found)
    return sizes.Counts(submitted, running, found.ready_replicas if ready is None else ready)


def deletion(view: SiteView, found: ApplicationView) -> DeleteApplication:
    """Takes an application of ours away."""
    return DeleteApplication(view.name, found.name, str(found.owner_uid))


def _has_failed(place: Place) -> bool:
    """A candidate that Serve gave up on, or whose name belongs to somebody else. One that is unhealthy may recover."""
    standing = place.standing
    return standing.state == "Conflict" or (standing.state == "Failed" and standing.reason != "Unhealthy")


def _told(place: Place, need: int) -> str:
    if place.standing.ready >= need:
        return f"{place.view.name}: not every gateway has got an answer yet"
    words = place.standing.message
    return f"{place.view.name}: {place.standing.ready} of {need} replicas are ready" + (f" ({words})" if words else "")
