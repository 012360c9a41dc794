"""Where a deployment stands at one selected site, and what to change there."""

from datetime import datetime

from autoglm_operator import applications, clusters, conditions, routes, views
from autoglm_operator.api import DeploymentSiteStatus, SiteState
from autoglm_operator.state import (
    ApplicationView,
    ApplyApplication,
    DeleteApplication,
    SiteOutcome,
    SiteView,
    Verdict,
    clip,
)
from autoglm_operator.subject import Subject
from autoglm_serving.config import BASE


def at_all(subject: Subject) -> tuple[SiteOutcome, ...]:
    """The outcome at each chosen site. A site that does not answer is left as it is."""
    turn = clusters.turn(subject)
    return tuple(_at(subject, view, turn) for view in subject.chosen)


def _at(subject: Subject, view: SiteView, turn: clusters.Turn) -> SiteOutcome:
    if not subject.is_live(view):
        return _silent(subject, view)
    return _served(subject, view, turn) if subject.stopped is None else _emptied(subject, view, subject.stopped)


def second(moment: datetime | None) -> datetime | None:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.replace(microsecond=0) if moment else None


def _served(subject: Subject, view: SiteView, turn: clusters.Turn) -> SiteOutcome:
    found = subject.found(view)
    wanted = applications.kept(found, subject.wanted_at(view.name))
    standing = applications.judge(found, wanted, _history(subject, view.name), subject.now)
    step = _step(clusters.Place(subject, view, wanted, found, turn), standing)
    standing = step.standing
    row = DeploymentSiteStatus(
        name=view.name,
        desired=wanted.replicas,
        ready=standing.ready,
        revision=found.revision if found and found.owner_uid == wanted.uid else None,
        **_variant(subject, view, found if found and found.owner_uid == wanted.uid else None),
        state=standing.state,
        message=clip(_told(standing, view)),
        since=second(view.observed_at),
    )
    return SiteOutcome(row, standing.reason, True, step.change)


def _step(place: clusters.Place, standing: applications.Standing) -> clusters.Step:
    """What to write at the site. An existing Ray cluster has its pods already; there only the application counts."""
    if place.view.site.spec.backend.kube_ray is not None:
        encoders = place.subject.config.encoder is not None
        return _no_encoders(standing) if encoders else clusters.step(place, standing)
    if standing.apply:
        return clusters.Step(standing, ApplyApplication(place.view.name, place.application.application))
    return clusters.Step(standing, place.delete() if standing.restart else None)


def _no_encoders(standing: applications.Standing) -> clusters.Step:
    """A Ray cluster that the operator makes has a pod for each replica and none for an encoder. What runs there stays."""
    text = "the pods of a site with the back end kubeRay have no room for encoders: remove spec.encoder, or choose other sites"
    return clusters.Step(applications.Standing("Failed", "EncodersUnsupported", text, standing.ready))


def _told(standing: applications.Standing, view: SiteView) -> str:
    """What is to be said about a site, with the error that keeps a change from getting there."""
    if standing.apply and view.error is not None:
        return f"{standing.message}; the last attempt failed: {view.error.message}"
    return standing.message


def _emptied(subject: Subject, view: SiteView, stopped: Verdict) -> SiteOutcome:
    """A site of a deployment that shall serve nothing."""
    found, told = subject.ours(view), _is_told(subject, view)
    text = "the application is being removed" if told else "no replicas are needed; gateways are being told"
    row = DeploymentSiteStatus(
        name=view.name,
        ready=found.ready_replicas if found else 0,
        revision=found.revision if found else None,
        state="Deleting" if found else "Suspended",
        message=text if found else stopped.message,
        since=second(view.observed_at),
    )
    if found is None:
        return SiteOutcome(row, stopped.reason, True)
    if found.status == "DELETING" or not told:
        return SiteOutcome(row, "Deleting", True)
    return SiteOutcome(row, "Deleting", True, DeleteApplication(view.name, found.name, subject.wanted.uid))


def _is_told(subject: Subject, view: SiteView) -> bool:
    """Whether no gateway sends requests there any more. Only one that falls asleep waits for that: a request of that moment is
    told to come again, and wakes it. Who suspends wants an end at once, and who has no route gets no requests."""
    if not subject.is_asleep or routes.holder(subject.deployment, subject.observed.deployments) is not None:
        return True
    return subject.is_out_of_routes(view.name, subject.observed.published)


def _silent(subject: Subject, view: SiteView) -> SiteOutcome:
    """A site that does not answer keeps its last figures, and tells since when it is silent."""
    why, old = views.silence(view, subject.now), subject.row(view.name)
    phase = views.phase(view, subject.now)
    state: SiteState = "Pending" if phase is None else "Unreachable" if phase == "Unreachable" else "Stale"
    row = DeploymentSiteStatus(
        name=view.name,
        desired=0 if subject.stopped else subject.wanted_at(view.name).replicas,
        ready=old.ready if old else 0,
        revision=old.revision if old else None,
        variant=old.variant if old else None,
        variant_reason=old.variant_reason if old else None,
        state=state,
        message=clip(why.message),
        since=second(subject.heard(view)),
    )
    return SiteOutcome(row, why.reason, False)


def _variant(subject: Subject, view: SiteView, ours: ApplicationView | None) -> dict[str, str | None]:
    """What a row says of the variant of the model: the one that was last submitted, and why which one shall run."""
    choice = subject.variant_choices.get(view.name)
    submitted = ours.variant or (BASE if choice is not None else None) if ours is not None else None
    return {"variant": submitted, "variant_reason": None if choice is None else clip(choice.why, 512)}


def _history(subject: Subject, site: str) -> applications.History:
    old, ready = subject.row(site), conditions.find(subject.deployment.status, "SitesReady")
    failing = ready is not None and ready.status != "True"
    since = ready.last_transition_time if ready and failing else None
    if old is None or old.revision is None:
        return applications.History(failing_since=since)
    current = old.revision == subject.config_at(site).revision
    # Replicas that follow the load are started again and again, for minutes each time. What was seen to run the revision is
    # not forgotten because a gateway is silent for a moment meanwhile: that is for GatewayReady to tell.
    heard = subject.scaled is not None or subject.is_admitted(site)
    return applications.History(
        earned=current and old.ready > 0 and heard,
        deployed=True,
        rolling=not current or (ready is not None and ready.reason == "RollingOut"),
        failing_since=since,
    )
