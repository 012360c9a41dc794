"""Which sites a deployment uses, as data: every site with the reason why it is selected or not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from autoglm_operator.api import AutoGLMSite, Reason, SitesSpec
from autoglm_operator.state import LEFT_OUT, InvalidSite, SiteView, Verdict

MAX_SITES = 200
"""Sites of one deployment. The status has room for 256 entries, and sites that are being left need some."""
_NAMED = 10
"""So many sites that are left out are called by name."""

Outcome = Literal["Selected", "NotMatched", "NotFound", "Invalid", "Leaving", "Duplicate", "TooMany"]

_PROBLEMS: dict[Outcome, Reason] = {"NotFound": "SiteNotFound", "Leaving": "SiteNotFound", "Invalid": "SiteInvalid"}


@dataclass(frozen=True)
class Choice:
    """One site and why it was chosen or not. `asked` says that the deployment names it."""

    site: str
    outcome: Outcome
    why: str
    view: SiteView | None = None
    asked: bool = False


@dataclass(frozen=True)
class Selection:
    """All choices for one deployment, sorted by site."""

    choices: tuple[Choice, ...]

    @property
    def views(self) -> tuple[SiteView, ...]:
        """The selected sites."""
        return tuple(choice.view for choice in self.choices if choice.outcome == "Selected" and choice.view)

    @property
    def problems(self) -> tuple[Choice, ...]:
        """Sites that the user asked for and does not get."""
        return tuple(c for c in self.choices if c.outcome == "Invalid" or (c.asked and c.outcome != "Selected"))


def select(spec: SitesSpec, views: Sequence[SiteView], invalid: Sequence[InvalidSite]) -> Selection:
    """Decide for each site. Nothing is random and nothing depends on the order of the input."""
    firsts = _firsts(view.site for view in views)
    choices = [_judge(spec, view, firsts) for view in views]
    choices += [_judge_invalid(spec, site) for site in invalid]
    known = {choice.site for choice in choices}
    choices += [
        Choice(name, "NotFound", f"there is no AutoGLMSite {name}", asked=True)
        for name in spec.names or ()
        if name not in known
    ]
    return Selection(_bounded(sorted(choices, key=lambda choice: choice.site)))


def verdict(selection: Selection) -> Verdict | None:
    """What is wrong with the selection, if anything."""
    problems = selection.problems
    if problems:
        reason = min((_PROBLEMS.get(choice.outcome, "SiteInvalid") for choice in problems), key=_severity)
        return Verdict("False", reason, "; ".join(f"{choice.site}: {choice.why}" for choice in problems))
    if not selection.views:
        return Verdict("False", "NoSites", "no site is selected: create an AutoGLMSite or change spec.sites")
    return None


def beyond(selection: Selection) -> Verdict | None:
    """That more sites match than a deployment uses, if so: how many, the bound, and what to do about it."""
    names = [choice.site for choice in selection.choices if choice.outcome == "TooMany"]
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    text = (
        f"{LEFT_OUT}{len(selection.views) + len(names)} sites, and a deployment uses at most {MAX_SITES}: the"
        f" {len(names)} newest are not used ({', '.join(names[:_NAMED])}{more}); narrow spec.sites, or serve them by a second"
        " deployment with another spec.model.name"
    )
    return Verdict("True", "TooManySites", text)


def duplicate_of(site: AutoGLMSite, sites: Iterable[AutoGLMSite]) -> AutoGLMSite | None:
    """The site that already stands for the same Ray cluster: the oldest one, and the first by name among equals."""
    return _first_of(site, _firsts((*sites, site)))


def _firsts(sites: Iterable[AutoGLMSite]) -> Mapping[str, AutoGLMSite]:
    """The site that stands for each Ray cluster, by its address."""
    found: dict[str, AutoGLMSite] = {}
    for site in sites:
        address = _address(site)
        if address is not None and (address not in found or _seniority(site) < _seniority(found[address])):
            found[address] = site
    return found


def _first_of(site: AutoGLMSite, firsts: Mapping[str, AutoGLMSite]) -> AutoGLMSite | None:
    first = firsts.get(_address(site) or "", site)
    return None if first.metadata.name == site.metadata.name else first


def _judge(spec: SitesSpec, view: SiteView, firsts: Mapping[str, AutoGLMSite]) -> Choice:
    name, asked = view.name, view.name in (spec.names or ())
    if not _matches(spec, name, view.site.metadata.labels):
        return Choice(name, "NotMatched", "spec.sites does not match it", view)
    if view.site.metadata.deletion_timestamp is not None:
        return Choice(name, "Leaving", "the site is being deleted", view, asked)
    other = _first_of(view.site, firsts)
    if other is not None:
        return Choice(name, "Duplicate", f"its Ray cluster is that of site {other.metadata.name}", view, asked)
    return Choice(name, "Selected", "named in spec.sites.names" if asked else "matches spec.sites", view, asked)


def _judge_invalid(spec: SitesSpec, site: InvalidSite) -> Choice:
    name = site.metadata.name
    if not _matches(spec, name, site.metadata.labels):
        return Choice(name, "NotMatched", "spec.sites does not match it")
    if site.metadata.deletion_timestamp is not None:
        return Choice(name, "Leaving", "the site is being deleted", asked=name in (spec.names or ()))
    problem = str(site.problems[0]) if site.problems else "see its status"
    return Choice(name, "Invalid", f"the site's spec cannot be used: {problem}", asked=name in (spec.names or ()))


def _matches(spec: SitesSpec, name: str, labels: dict[str, str]) -> bool:
    if spec.names is not None:
        return name in spec.names
    if spec.selector is None:
        return True
    return all(labels.get(key) == value for key, value in spec.selector.match_labels.items())


def _bounded(choices: list[Choice]) -> tuple[Choice, ...]:
    """The oldest sites are used: one that is new takes the place of none that serves already."""
    selected = [choice.view for choice in choices if choice.outcome == "Selected" and choice.view is not None]
    left_out = {view.name for view in sorted(selected, key=lambda view: _seniority(view.site))[MAX_SITES:]}
    why = f"a deployment uses at most {MAX_SITES} sites: narrow spec.sites"
    return tuple(
        Choice(choice.site, "TooMany", why, choice.view, choice.asked) if choice.site in left_out else choice
        for choice in choices
    )


def _severity(reason: Reason) -> int:
    return ("SiteNotFound", "SiteInvalid").index(reason)


def _address(site: AutoGLMSite) -> str | None:
    """Host and port of the Ray cluster; the scheme does not make it another cluster."""
    ray = site.spec.backend.ray
    return _netloc(ray.address) if ray else None


@lru_cache(maxsize=4096)
def _netloc(address: str) -> str:
    """Each pass compares the addresses of all sites."""
    return urlsplit(address).netloc.lower()


def _seniority(site: AutoGLMSite) -> tuple[float, str]:
    created = site.metadata.creation_timestamp
    return (created.timestamp() if created else 0.0, site.metadata.name)
