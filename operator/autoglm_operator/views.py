"""What observed figures say, and whether they are young enough to be believed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoglm_operator.ages import CONNECTED_FOR, FIGURE_LIMIT, STALE_FOR, is_fresh
from autoglm_operator.api import DeploymentSiteStatus, Reason, SiteLink, SitePhase, TtftStatus
from autoglm_operator.api.quantities import bandwidth, duration
from autoglm_operator.kuberay import names
from autoglm_operator.scaling.terms import TELLING, Load, SiteLoad
from autoglm_operator.state import ApplicationView, GatewayView, Published, SiteView, Verdict
from autoglm_serving.measurements import LoadReport, SiteLoadReport, added
from autoglm_serving.routing_table import Admission, GatewayReport

LINK_LIMIT = timedelta(minutes=5)
"""A gateway tells a round trip for so long, in which it asks the site some fifteen times."""

LONGEST_RTT_S = 10.0
"""A status says no longer one: whoever answers later than that does not serve."""

TTFT_SAMPLES = 20
"""Fewest answers of which a 95th percentile is told: with fewer it is the slowest one."""


def phase(view: SiteView, now: datetime) -> SitePhase | None:
    """Connected, Stale or Unreachable by the age of the last answer; None before the first attempt."""
    if view.observed_at is None:
        return "Unreachable" if view.error else None
    if is_fresh(view.observed_at, now, CONNECTED_FOR):
        return "Connected"
    return "Stale" if is_fresh(view.observed_at, now, STALE_FOR) else "Unreachable"


def is_live(view: SiteView, now: datetime) -> bool:
    """Whether the figures of a site may be acted on.

    One lost answer, or a configuration that Ray did not take, changes nothing while the figures are young. A cluster that
    refused us, or that answered without asking for a token, is left alone at once.
    """
    if phase(view, now) != "Connected" or view.applications is None:
        return False
    return view.error is None or view.error.reason in ("Unreachable", "DeployFailed")


@dataclass(frozen=True)
class Told:
    """What a stored status says of a site: since when it answered (`live`), or since when it did not."""

    since: datetime | None = None
    live: bool = False
    served: bool = False
    """Whether the site was given replicas, so that somebody must have seen it. A status of before 0116 has no `since`."""


def told(row: DeploymentSiteStatus | None) -> Told:
    """What a row says of its site."""
    if row is None:
        return Told()
    return Told(row.since, live=not row.is_silent, served=row.desired > 0)


def heard(view: SiteView, told: Told) -> datetime | None:
    """When a site last answered, as far as anybody knows: this process, or the status that an earlier one left.

    A status is not written anew while nothing changes. One that called the site live held until somebody asked in vain.
    """
    if view.observed_at is not None:
        return view.observed_at
    if told.since is None:
        return view.silent_since if told.served else None
    return max(told.since, view.silent_since) if told.live and view.silent_since is not None else told.since


def silence(view: SiteView, now: datetime) -> Verdict:
    """Why a site that is not live is not."""
    if view.error is not None:
        return Verdict("Unknown", view.error.reason, view.error.message)
    found = phase(view, now)
    if found is None or view.observed_at is None:
        return Verdict("Unknown", "NotObserved", "the site was not looked at yet")
    reason: Reason = "Unreachable" if found == "Unreachable" else "Stale"
    return Verdict("Unknown", reason, f"the site did not answer since {view.observed_at:%Y-%m-%dT%H:%M:%SZ}")


def application(view: SiteView, name: str) -> ApplicationView | None:
    """The application of this name at a site, whoever it belongs to."""
    return next((found for found in view.applications or () if found.name == name), None)


def ray_service(view: SiteView, name: str) -> ApplicationView | None:
    """The application of the RayService of this name at a site, whoever it belongs to."""
    return next((one for one in view.applications or () if one.ray_service and one.ray_service.name == name), None)


def placed(view: SiteView, application_name: str) -> ApplicationView | None:
    """What stands at a site where the application of this name belongs, whoever it belongs to.

    With the back end kubeRay that is a RayService, of which a person may have made anything.
    """
    if view.site.spec.backend.kube_ray is None:
        return application(view, application_name)
    return ray_service(view, names.ray_service(application_name, view.name))


def owned(view: SiteView, uid: str) -> tuple[ApplicationView, ...]:
    """The applications at a site that belong to one resource."""
    return tuple(found for found in view.applications or () if uid and found.owner_uid == uid)


def reporting(gateways: Iterable[GatewayView], now: datetime) -> tuple[GatewayView, ...]:
    """The gateways whose report is young enough to be believed."""
    return tuple(view for view in gateways if view.report and is_fresh(view.observed_at, now, FIGURE_LIMIT))


def ttft(gateways: Iterable[GatewayView], deployment: str, now: datetime) -> TtftStatus | None:
    """How fast the answers of a deployment began lately, at all gateways that are heard; None where that says too little."""
    told = [
        (view.observed_at, one.ttft)
        for view in reporting(gateways, now)
        if view.report is not None and view.observed_at is not None
        for one in view.report.first_bytes
        if one.deployment == deployment
    ]
    sketch = added(one for _, one in told)
    p95 = sketch.quantile(0.95)
    if p95 is None or sketch.total < TTFT_SAMPLES:
        return None
    oldest = min(at for at, _ in told).replace(microsecond=0)
    return TtftStatus(p95=duration(p95), samples=sketch.total, gateways=len(told), observed_at=oldest)


def load(gateways: Iterable[GatewayView], deployment: str, now: datetime) -> Load | None:
    """What a deployment has to do, at all gateways together; None while none tells."""
    views = tuple(gateways)
    heard = [view for view in reporting(views, now) if view.loads is not None]
    if not heard:
        return None
    told = [(view.observed_at or now, one) for view in heard if (one := (view.loads or {}).get(deployment)) is not None]
    asked = [at - timedelta(seconds=one.asked_s) for at, one in told if one.asked_s is not None]
    return Load(
        _by_site(one for _, one in told),
        max(asked, default=None),
        complete=len(heard) == len(views) and all(_is_telling(view, now) for view in heard),
        told_at=min((view.observed_at for view in heard if view.observed_at is not None), default=None),
    )


def _is_telling(view: GatewayView, now: datetime) -> bool:
    """Whether a gateway tells what it does now. What it told a minute ago is enough to add replicas, and not to take any away:
    one that the operator does not reach may serve all the same. Of a time to come is another clock's error."""
    return view.error is None and view.observed_at is not None and timedelta(0) <= now - view.observed_at < TELLING


def _by_site(reports: Iterable[LoadReport]) -> dict[str, SiteLoad]:
    found: dict[str, list[SiteLoadReport]] = {}
    for report in reports:
        for one in report.sites:
            found.setdefault(one.site, []).append(one)
    return {site: _site_load(parts) for site, parts in found.items()}


def _site_load(parts: list[SiteLoadReport]) -> SiteLoad:
    sketch = added(one.ttft for one in parts)
    return SiteLoad(
        in_flight=sum(one.in_flight for one in parts),
        arrivals=sum(one.arrivals for one in parts),
        completions=sum(one.completions for one in parts),
        ttft_s=sketch.quantile(0.95) if sketch.total >= TTFT_SAMPLES else None,
    )


def link(gateways: Iterable[GatewayView], site: str, now: datetime) -> SiteLink | None:
    """The network to a site: of several gateways the one in the middle, and of two the slower one."""
    told = [
        (one, min(one.observed_at, now))
        for view in gateways  # one that is silent for a moment has its figures still
        if view.report is not None
        for one in view.report.links
        if one.site == site and is_fresh(one.observed_at, now, LINK_LIMIT)
    ]
    if not told:
        return None
    rtts = sorted(one.rtt_s for one, _ in told)
    rates = sorted((one.bandwidth_bps or float("inf") for one, _ in told), reverse=True)
    rate = rates[len(rates) // 2]
    return SiteLink(
        rtt=duration(min(rtts[len(rtts) // 2], LONGEST_RTT_S)),
        bandwidth=None if rate == float("inf") else bandwidth(rate),
        gateways=len(told),
        observed_at=min(at for _, at in told).replace(microsecond=0),
    )


def with_links_kept(before: GatewayReport, after: GatewayReport, now: datetime) -> GatewayReport:
    """A gateway that started anew has measured nothing yet: what it told before holds until it would be too old."""
    told = {one.site for one in after.links}
    kept = [one for one in before.links if one.site not in told and is_fresh(one.observed_at, now, LINK_LIMIT)]
    return after.model_copy(update={"links": (*after.links, *kept)}) if kept else after


def holds(view: GatewayView, published: Published) -> bool:
    """Whether a gateway has the published table or a later one."""
    report = view.report
    return report is not None and (report.table_epoch, report.table_version) >= (published.epoch, published.version)


@dataclass(frozen=True)
class Target:
    """What a gateway shall have admitted. `expected` is False while the application itself is not ready."""

    deployment: str
    site: str
    revision: str
    expected: bool = True


@dataclass(frozen=True)
class Admissible:
    """What every gateway has to confirm.

    `published` is the table that carries the present routes, None while there is none. `confirmed` says that all gateways
    had confirmed this generation before: then a table that was merely written anew (another leader, another deployment)
    takes nothing back, since the admissions still tell what is served.
    """

    targets: tuple[Target, ...]
    published: Published | None
    confirmed: bool


def gateway_checks(gateways: Iterable[GatewayView], needs: Admissible, now: datetime) -> tuple[Verdict, ...]:
    """One verdict for each thing that a gateway has to confirm, in the order of gateways and sites."""
    checks: list[Verdict] = []
    for view in gateways:
        problem = _gateway_problem(view, needs, now)
        checks += [problem] if problem else [admission(view, target, now) for target in needs.targets]
    return tuple(checks)


def admission(view: GatewayView, target: Target, now: datetime) -> Verdict:
    """Whether one gateway sends traffic to the wanted revision at one site. The report itself is known to be young."""
    where = f"{target.site} by gateway {view.name}"
    found = _admission(view, target)
    if found is None or found.state == "Probing" or (found.state == "ProbeFailed" and not target.expected):
        return Verdict("False", "Probing", f"{where}: no answer yet")
    if not is_fresh(found.observed_at, now, FIGURE_LIMIT):
        return Verdict("Unknown", "Stale", f"{where}: last probed {found.observed_at:%Y-%m-%dT%H:%M:%SZ}")
    if found.state == "ProbeFailed":
        return Verdict("False", "ProbeFailed", f"{where}: {found.message or 'the probe failed'}")
    if found.revision != target.revision:
        return Verdict("False", "Probing", f"{where}: still answers as revision {found.revision or 'unknown'}")
    return Verdict("True", "Admitted", where)


def is_admitted(gateways: Iterable[GatewayView], target: Target, now: datetime) -> bool:
    """Whether at least one gateway that reports has admitted the target."""
    return any(admission(view, target, now).status == "True" for view in reporting(gateways, now))


def outdated(report: GatewayReport, now: datetime) -> frozenset[Target]:
    """The admissions of which a gateway that reports has a word that is too old to be believed."""
    return frozenset(
        Target(one.deployment, one.site, one.wanted)
        for one in report.admissions
        if not is_fresh(one.observed_at, now, FIGURE_LIMIT)
    )


def _gateway_problem(view: GatewayView, needs: Admissible, now: datetime) -> Verdict | None:
    if view.error and view.error.reason == "TableRefused":
        return Verdict("False", "TableRefused", f"gateway {view.name}: {view.error.message}")
    if not reporting((view,), now):
        why = view.error.message if view.error else "no report yet"
        return Verdict(
            "Unknown", view.error.reason if view.error else "GatewayUnreachable", f"gateway {view.name}: {why}"
        )
    if needs.confirmed:
        return None
    if needs.published is None:
        return Verdict("False", "TablePending", "the routing table is being written")
    if not holds(view, needs.published):
        wanted = f"{needs.published.epoch}/{needs.published.version}"
        return Verdict("False", "TablePending", f"gateway {view.name} does not have routing table {wanted} yet")
    return None


def _admission(view: GatewayView, target: Target) -> Admission | None:
    there = view.admissions.get((target.deployment, target.site), ())
    # Of two revisions at one site each has its own admission; a gateway that knows of one only does not name it.
    return next((found for found in there if found.wanted == target.revision), there[0] if there else None)
