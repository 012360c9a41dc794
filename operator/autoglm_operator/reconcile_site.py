"""The decision about one AutoGLMSite: phase, orphans, duplicates, deletion."""

from datetime import datetime

from autoglm_operator.state import Fleet, InvalidSite, SitePlan, SiteView


def reconcile_site(site: SiteView | InvalidSite, fleet: Fleet, now: datetime) -> SitePlan:
    """Decide what to do about a site. Pure: the same input gives the same plan."""
    raise NotImplementedError
