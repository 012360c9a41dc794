"""Sites that are not selected any more: the others get ready, then the routes leave, then the application goes."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoglm_operator import views
from autoglm_operator.api import DeploymentSiteStatus
from autoglm_operator.state import DeleteApplication, Published, SiteOutcome, SiteView, clip
from autoglm_operator.subject import Subject


@dataclass(frozen=True)
class Leaving:
    """A site that is being left. `serves` says that it is still needed, because the others do not serve yet."""

    view: SiteView
    serves: bool
    revision: str


def find(subject: Subject, selected: Sequence[SiteOutcome]) -> tuple[Leaving, ...]:
    """Sites that are not selected and have the application, or may have it while they do not answer."""
    # Two names of one cluster see the same application; the older name answers for it.
    skipped = {choice.site for choice in subject.selection.choices if choice.outcome == "Duplicate"}
    skipped |= {view.name for view in subject.chosen}
    serves = _still_needed(subject, selected)
    return tuple(
        Leaving(view, serves, _revision(subject, view))
        for view in sorted(subject.observed.sites, key=lambda view: view.name)
        if view.name not in skipped and _may_hold(subject, view)
    )


def farewell(subject: Subject, place: Leaving, published: Published | None) -> SiteOutcome:
    """The next step at one site. `published` is the table with the present routes, which do not name the site any more."""
    view, live = place.view, subject.is_live(place.view)
    found, old = subject.ours(view), subject.row(view.name)
    change, gone = None, "not used any more" if subject.allocated else "not selected any more"
    if not live:
        why = views.silence(view, subject.now).message
        text = f"{gone}; the application goes when the site answers: {why}"
    elif place.serves:
        text = f"{gone}; serves until the other sites are ready"
    elif not subject.is_out_of_routes(view.name, published):
        text = f"{gone}; gateways are being told"
    else:
        text = f"{gone}; the application is being removed"
        if found is not None and found.status != "DELETING":
            change = DeleteApplication(view.name, found.name, subject.wanted.uid)
    row = DeploymentSiteStatus(
        name=view.name,
        ready=found.ready_replicas if found and live else (old.ready if old else 0),
        revision=place.revision,
        state="Deleting",
        message=clip(text),
        since=view.observed_at.replace(microsecond=0) if view.observed_at else (old.since if old else None),
    )
    return SiteOutcome(row, "Deleting", live, change)


def _may_hold(subject: Subject, view: SiteView) -> bool:
    old = subject.row(view.name)
    submitted = old is not None and old.revision is not None
    return subject.ours(view) is not None or (submitted and not subject.is_live(view))


def _still_needed(subject: Subject, selected: Sequence[SiteOutcome]) -> bool:
    """Whether sites that are being left have to go on: something shall serve, and not all that shall does."""
    if subject.stopped is not None:
        return False
    ready = all(subject.check(one).status == "True" and one.live and subject.is_admitted(one.name) for one in selected)
    if subject.scaled is not None and subject.allocated is not None:
        ready = ready and sum(one.status.ready for one in selected) >= subject.fewest
    return bool(subject.selection.problems) or not ready


def _revision(subject: Subject, view: SiteView) -> str:
    found, old = subject.ours(view), subject.row(view.name)
    return (
        (found.revision if found else None) or (old.revision if old else None) or subject.config_at(view.name).revision
    )
