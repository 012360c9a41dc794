"""The network to a site on its way from gateways into the site's status and into placement, without a write at rest."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from autoglm_operator import views
from autoglm_operator.api import SiteLink
from autoglm_operator.api.quantities import bandwidth, bits_per_second, duration, seconds
from autoglm_operator.offers import latency_s
from autoglm_operator.reconcile_site import reconcile_site
from autoglm_operator.state import Fleet, GatewayView, SiteView
from autoglm_serving.routing_table import GatewayReport, LinkReport
from support.fleet import NOW, site, view


def report(*links: LinkReport) -> GatewayReport:
    return GatewayReport(table_epoch=1, table_version=1, admissions=(), started_at=NOW, links=links)


def gateway(name: str, *links: LinkReport, at: datetime = NOW) -> GatewayView:
    return GatewayView(name, report(*links), at)


def told(rtt_s: float, bps: float | None = None, at: datetime = NOW, name: str = "a") -> LinkReport:
    return LinkReport(site=name, rtt_s=rtt_s, bandwidth_bps=bps, observed_at=at)


def link(*gateways: GatewayView, now: datetime = NOW) -> SiteLink | None:
    return views.link(gateways, "a", now)


def pass_over(seen: SiteView, *gateways: GatewayView, now: datetime) -> SiteView:
    """One decision about the site; the view with the status that follows."""
    seen = replace(seen, observed_at=now)
    status = reconcile_site(seen, Fleet(sites=(seen.site,), gateways=gateways), now).status
    return replace(seen, site=seen.site.model_copy(update={"status": status}))


def shown(seen: SiteView) -> tuple[str, str | None] | None:
    found = seen.site.status.link if seen.site.status else None
    return (found.rtt, found.bandwidth) if found else None


def test_a_site_without_a_gateway_that_sends_there_has_no_figures() -> None:
    assert link() is None
    assert link(gateway("g", told(0.02, name="b"))) is None
    assert link(GatewayView("g")) is None


def test_of_several_gateways_the_one_in_the_middle_counts_for_each_figure_and_of_two_the_slower() -> None:
    near, far, farther = gateway("1", told(0.001)), gateway("2", told(0.04, 8e6)), gateway("3", told(0.2, 2e6))
    middle = link(near, farther, far)
    assert middle is not None
    assert (middle.rtt, middle.bandwidth, middle.gateways) == ("40ms", "8Mbit", 3)
    slower = link(near, far)
    assert slower is not None
    assert (slower.rtt, slower.bandwidth, slower.gateways) == ("40ms", "8Mbit", 2)


def test_the_age_is_that_of_the_oldest_figure_and_old_ones_do_not_count() -> None:
    old = NOW - timedelta(minutes=4)
    both = link(gateway("1", told(0.02, at=old)), gateway("2", told(0.02)))
    assert both is not None
    assert both.observed_at == old
    assert link(gateway("1", told(0.02, at=NOW - timedelta(minutes=5)))) is None
    silent = gateway("1", told(0.02, at=NOW - timedelta(minutes=2)), at=NOW - timedelta(minutes=2))
    assert link(silent) is not None  # the gateway itself says nothing for a moment
    assert link(silent, now=NOW + timedelta(minutes=3)) is None


def test_a_round_trip_longer_than_a_status_can_say_stays_its_longest() -> None:
    found = link(gateway("1", told(12.0)))
    assert found is not None
    assert found.rtt == "10s"
    assert shown(pass_over(view("a"), gateway("1", told(12.0)), now=NOW)) == ("10s", None)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.1ms"), (0.00123, "1.2ms"), (0.0207, "21ms"), (0.999, "1s"), (3.14, "3.1s")]
)
def test_a_measured_duration_has_two_digits(value: float, text: str) -> None:
    assert duration(value) == text
    assert seconds(text) == pytest.approx(max(value, 0.0001), rel=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.0, "1kbit"), (812_345.0, "810kbit"), (999_999.0, "1Mbit"), (8.44e6, "8.4Mbit"), (47e6, "47Mbit")],
)
def test_a_measured_bandwidth_has_two_digits(value: float, text: str) -> None:
    assert bandwidth(value) == text
    assert bits_per_second(text) == pytest.approx(max(value, 1000.0), rel=0.05)


def test_first_figures_are_told_at_once_and_small_changes_never() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.02, 8e6)), now=NOW)
    assert shown(seen) == ("20ms", "8Mbit")
    before = seen.site.status
    for minute in range(1, 600):
        now = NOW + timedelta(minutes=minute)
        jitter = 1 + 0.15 * (-1) ** minute
        seen = pass_over(seen, gateway("g", told(0.02 * jitter, 8e6 / jitter, at=now), at=now), now=now)
    assert seen.site.status == before


def test_a_few_milliseconds_are_no_news_however_many_times_they_are_what_was_before() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.001)), now=NOW)
    late = NOW + timedelta(hours=1)
    assert shown(pass_over(seen, gateway("g", told(0.0055, at=late), at=late), now=late)) == ("1ms", None)
    assert shown(pass_over(seen, gateway("g", told(0.0075, at=late), at=late), now=late)) == ("7.5ms", None)


def test_figures_that_moved_far_are_told_but_not_more_often_than_every_five_minutes() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.02)), now=NOW)
    soon, late = NOW + timedelta(minutes=4), NOW + timedelta(minutes=5)
    assert shown(pass_over(seen, gateway("g", told(0.08, at=soon), at=soon), now=soon)) == ("20ms", None)
    assert shown(pass_over(seen, gateway("g", told(0.08, at=late), at=late), now=late)) == ("80ms", None)
    assert shown(pass_over(seen, gateway("g", told(0.02, 4e6, at=late), at=late), now=late)) == ("20ms", "4Mbit")


def test_figures_go_when_no_gateway_has_told_any_for_five_minutes() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.02)), now=NOW)
    soon, late = NOW + timedelta(minutes=4), NOW + timedelta(minutes=5)
    assert shown(pass_over(seen, gateway("g", at=soon), now=soon)) == ("20ms", None)
    assert shown(pass_over(seen, gateway("g", at=late), now=late)) is None


def test_a_moment_without_figures_after_a_steady_hour_changes_nothing() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.2)), now=NOW)
    late = NOW + timedelta(hours=1)
    anew = views.with_links_kept(report(told(0.2, at=late)), report(), late + timedelta(seconds=35))
    soon, later = late + timedelta(seconds=35), late + timedelta(minutes=5)
    assert shown(pass_over(seen, GatewayView("g", anew, soon), now=soon)) == ("200ms", None)
    assert shown(pass_over(seen, GatewayView("g"), now=soon)) == ("200ms", None)  # an operator that began just now
    assert shown(pass_over(seen, GatewayView("g", anew, later), now=later)) is None
    fresh = report(told(0.3, at=soon))
    assert views.with_links_kept(anew, fresh, soon) == fresh


def test_more_gateways_that_say_the_same_are_no_news() -> None:
    seen = pass_over(view("a"), gateway("g", told(0.2)), now=NOW)
    late = NOW + timedelta(hours=1)
    both = (gateway("g", told(0.2, at=late), at=late), gateway("h", told(0.2, at=late), at=late))
    assert pass_over(seen, *both, now=late).site.status == seen.site.status


def test_placement_reckons_with_what_is_measured_within_what_is_declared() -> None:
    spec = {"link": {"rtt": "10ms", "bandwidth": "10Mbit"}}
    declared = view("a")
    declared = replace(declared, site=site("a", spec))
    assert latency_s(declared) == pytest.approx(0.41)
    slower = pass_over(declared, gateway("g", told(0.1, 2e6)), now=NOW)
    assert latency_s(slower) == pytest.approx(2.1)
    faster = pass_over(declared, gateway("g", told(0.001)), now=NOW)
    assert latency_s(faster) == pytest.approx(0.401)
