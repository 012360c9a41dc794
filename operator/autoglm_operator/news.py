"""What of a status is news. The same seen again is none: while nothing changes nothing is written, for however long.

So no time in a status moves by itself: `since` tells since when something is so. Figures that always move a little, such as
latency and free memory, are written anew when they moved far, and not often. A routing table with another number that carries
the same is no news either, so that a new leader writes nothing.
"""

import re
from datetime import datetime, timedelta

from autoglm_operator.ages import age
from autoglm_operator.api import (
    DeploymentSiteStatus,
    DeploymentStatus,
    DiscoveredAccelerator,
    GatewayTable,
    PlacementStatus,
    RolloutStatus,
    SiteCapacity,
    SiteLink,
    SiteStatus,
    TtftStatus,
)
from autoglm_operator.api.quantities import bits_per_second, seconds
from autoglm_operator.rollout import record
from autoglm_serving.routing_table import FASTEST_BPS

REFRESH = timedelta(minutes=5)
"""Figures that always move a little are written anew this long after the last ones, at the soonest."""

ROLLING_REFRESH = timedelta(seconds=10)
"""The figures of a rollout that is under way are written this often: people look at them."""

CAPACITY_REFRESH = timedelta(minutes=1)
"""Free accelerators that changed are told this long after the last figures, at the soonest."""

FAR = 0.25
"""A latency that moved by this share is news."""

NEAR_S = 0.005
"""Round trips that differ by less are the same: so much comes from work of either side."""

FAR_OF_ALL = 0.1
"""Free memory and cores that moved by this share of all there is are news; so is a price that moved by this share."""

_DIGITS = re.compile(r"[0-9][0-9.:TZ-]*")


def of_deployment(before: DeploymentStatus | None, after: DeploymentStatus, now: datetime) -> DeploymentStatus:
    """The status to write: the old one where nothing of the new one is news."""
    if before is None:
        return after
    after = _with_old_times(before, after)
    moving = {
        "ttft": before.ttft if not _ttft_is_news(before.ttft, after.ttft, now) else after.ttft,
        "placement": before.placement if _same_placement(before.placement, after.placement) else after.placement,
        "rollout": before.rollout if _same_rollout(before.rollout, after.rollout) else after.rollout,
        "gateway_table": before.gateway_table
        if _same_table(before.gateway_table, after.gateway_table)
        else after.gateway_table,
    }
    return before if after.model_copy(update=moving) == before else after


def of_site(before: SiteStatus | None, after: SiteStatus, now: datetime) -> SiteStatus:
    """The status to write: the old one where nothing of the new one is news."""
    if before is None:
        return after
    if before.phase == after.phase == "Connected" and before.since is not None:
        after = after.model_copy(update={"since": before.since})
    if not _link_is_news(before, after, now):
        after = after.model_copy(update={"link": before.link})
    if _capacity_is_news(before, after):
        return after
    kept = ("capacity", "accelerators", "capacity_observed_at")
    return before if after.model_copy(update={name: getattr(before, name) for name in kept}) == before else after


def _with_old_times(before: DeploymentStatus, after: DeploymentStatus) -> DeploymentStatus:
    """What is as it was keeps the time since when it is so."""
    rows = {row.name: row for row in before.sites}
    table, old = after.gateway_table, before.gateway_table
    if table is not None and old is not None and (table.epoch, table.version) == (old.epoch, old.version):
        table = old if old.since is not None else table
    return after.model_copy(
        update={"sites": tuple(_with_old_time(rows.get(row.name), row) for row in after.sites), "gateway_table": table}
    )


def _same_table(before: GatewayTable | None, after: GatewayTable | None) -> bool:
    """Another number with the same in it is no news; that a gateway holds it for the first time is."""
    if before is None or after is None:
        return before is after
    return before.since is not None or after.since is None


def _with_old_time(before: DeploymentSiteStatus | None, after: DeploymentSiteStatus) -> DeploymentSiteStatus:
    """Of a silent site the time is when it last answered, which the new row knows best."""
    if before is None or before.since is None or after.is_silent:
        return after
    return before if before == after.model_copy(update={"since": before.since}) else after


def _link_is_news(before: SiteStatus, after: SiteStatus, now: datetime) -> bool:
    """The first figures, that there are none any more, and those that moved far. A few milliseconds more or less never are.

    How many gateways measured is none: they come and go with the load. There are none any more when for five minutes no gateway
    has told any (`views.link`), and what was just written stands as long.
    """
    old, new = before.link, after.link
    if old is None or new is None:
        return old is not new and (old is None or age(old.observed_at, now) >= REFRESH)
    if age(old.observed_at, now) < REFRESH:
        return False
    rtts, rates = (seconds(old.rtt), seconds(new.rtt)), (_bits(old), _bits(new))
    return _moved(*rtts, max(FAR * max(rtts), NEAR_S)) or _moved(*rates, FAR * max(rates))


def _bits(link: SiteLink) -> float:
    return FASTEST_BPS if link.bandwidth is None else bits_per_second(link.bandwidth)


def _ttft_is_news(before: TtftStatus | None, after: TtftStatus | None, now: datetime) -> bool:
    if before is None or after is None:
        return before is not after and (before is None or age(before.observed_at, now) >= REFRESH)
    if age(before.observed_at, now) < REFRESH:
        return False
    old, new = seconds(before.p95), seconds(after.p95)
    return before.gateways != after.gateways or _moved(old, new, FAR * max(old, new))


def _same_placement(before: PlacementStatus | None, after: PlacementStatus | None) -> bool:
    """Prices and the numbers in words move with every figure that is measured."""
    if before is None or after is None:
        return before is after
    if _moved(before.price, after.price, FAR_OF_ALL * max(before.price, after.price)):
        return False
    return _without_figures(before) == _without_figures(after)


def _without_figures(placement: PlacementStatus) -> PlacementStatus:
    sites = tuple(row.model_copy(update={"why": _DIGITS.sub("", row.why)}) for row in placement.sites)
    words = {"reason": _DIGITS.sub("", placement.reason), "solver": ""}
    return placement.model_copy(update={"sites": sites, "price": 0.0, "best_price": None, **words})


def _same_rollout(before: RolloutStatus | None, after: RolloutStatus | None) -> bool:
    """Counts of requests are told now and then while two revisions serve."""
    if before is None or after is None:
        return before is after
    if record.timeless(before) != record.timeless(after):
        return False
    if after.candidate is None:
        return True
    pairs = zip(before.traffic, after.traffic, strict=True)
    grown = [new.observed_at - old.observed_at for old, new in pairs if old.observed_at and new.observed_at]
    limit = ROLLING_REFRESH if after.phase == "Progressing" else REFRESH
    return max(grown, default=timedelta(0)) < limit


def _capacity_is_news(before: SiteStatus, after: SiteStatus) -> bool:
    """Free accelerators count at once or nearly so, all else when it moved far."""
    if _all_there_is(before) != _all_there_is(after):
        return True
    then, now = before.capacity_observed_at, after.capacity_observed_at
    if then is None or now is None:
        return then is not now
    if _free_devices(before) != _free_devices(after):
        return now - then >= CAPACITY_REFRESH
    return now - then >= REFRESH and any(
        _moved(old.available, new.available, FAR_OF_ALL * new.total)
        for old, new in zip(before.capacity, after.capacity, strict=True)
    )


def _all_there_is(status: SiteStatus) -> tuple[tuple[SiteCapacity, ...], tuple[DiscoveredAccelerator, ...]]:
    """Capacity without what of it is free."""
    capacity = tuple(one.model_copy(update={"available": 0.0}) for one in status.capacity)
    return capacity, tuple(one.model_copy(update={"free": 0.0}) for one in status.accelerators)


def _free_devices(status: SiteStatus) -> list[tuple[str, float]]:
    """Free accelerators; processor cores, of which some come and go all the time, only where replicas run on nothing else."""
    devices: list[tuple[str, float]] = [(one.type, one.free) for one in status.accelerators]
    return [one for one in devices if one[0] != "cpu"] or devices


def _moved(old: float, new: float, limit: float) -> bool:
    return old != new and abs(new - old) >= limit
