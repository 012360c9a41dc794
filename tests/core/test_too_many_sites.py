"""More sites match than one deployment uses: those that serve go on, and the status says which are left out and what to do."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from autoglm_operator import conditions, placement
from autoglm_operator.api import SitesSpec
from autoglm_operator.placement import MAX_SITES
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import Observed, Plan, SiteView, Verdict
from support.fleet import NOW, admitted, application, condition, deployment, gateway, published, site, view, with_status

OF = deployment()
USED = [f"s{number:03}" for number in range(MAX_SITES)]
LATER = "2026-03-01T11:30:00Z"


def newcomer(name: str, created: str = LATER) -> SiteView:
    return replace(view(name), site=site(name, creationTimestamp=created))


def world(*more: SiteView, used: Sequence[str] = USED) -> Observed:
    """As many sites as may be are in order, and more of them match."""
    sites = (*(view(name, application(OF)) for name in used), *more)
    seen = Observed(sites=sites, gateways=(gateway(*admitted(OF, *used)),), deployments=(OF,))
    return replace(seen, published=published(reconcile(OF, seen, NOW)))


def degraded(plan: Plan) -> str:
    assert plan.status is not None
    found = conditions.find(plan.status, "Degraded")
    assert found is not None
    return found.message


def test_the_status_names_the_count_the_bound_the_sites_and_the_remedy() -> None:
    plan = reconcile(OF, world(newcomer("new-1"), newcomer("new-2")), NOW)
    assert condition(plan, "Degraded") == ("True", "TooManySites")
    assert degraded(plan) == (
        "spec.sites matches 202 sites, and a deployment uses at most 200: the 2 newest are not used (new-1, new-2);"
        " narrow spec.sites, or serve them by a second deployment with another spec.model.name"
    )
    assert condition(plan, "Ready") == ("True", "Answering"), "what is used answers"
    assert plan.status is not None
    assert [row.name for row in plan.status.sites] == USED
    assert plan.applications == ()


def test_a_long_list_is_cut_and_says_how_long_it_is() -> None:
    plan = reconcile(OF, world(*(newcomer(f"new-{number:02}") for number in range(13))), NOW)
    assert "the 13 newest are not used (new-00, new-01, " in degraded(plan)
    assert "new-09 and 3 more)" in degraded(plan)


def test_exactly_as_many_as_may_be_are_no_fault() -> None:
    assert condition(reconcile(OF, world(), NOW), "Degraded") == ("False", "Healthy")


@pytest.mark.parametrize("name", ["a-first-by-name", "z-last-by-name"])
def test_a_new_site_takes_the_place_of_none_that_serves(name: str) -> None:
    plan = reconcile(OF, world(newcomer(name)), NOW)
    assert plan.applications == ()
    (route,) = plan.routes
    assert sorted({endpoint.site for endpoint in route.endpoints}) == USED
    assert f"({name})" in degraded(plan)


def test_when_a_site_goes_the_oldest_that_waits_takes_its_place() -> None:
    waiting = (newcomer("a-younger", "2026-03-01T11:40:00Z"), newcomer("b-older"))
    chosen = placement.select(SitesSpec(), world(*waiting, used=USED[1:]).sites, ())
    assert {found.name for found in chosen.views} == {*USED[1:], "b-older"}
    plan = reconcile(OF, world(waiting[1], used=USED[1:]), NOW)
    assert [change.site for change in plan.applications] == ["b-older"]
    assert condition(plan, "Degraded")[1] != "TooManySites"


def test_it_is_told_by_one_event_and_nothing_is_written_while_it_stays_so() -> None:
    seen = world(newcomer("new-1"))
    first = reconcile(OF, seen, NOW)
    assert [event.reason for event in first.events if event.type == "Warning"] == ["TooManySites"]
    again = reconcile(with_status(OF, first), seen, NOW)
    assert again.events == ()
    assert again.status == first.status


def test_it_is_told_once_however_often_the_reason_of_a_site_comes_and_goes() -> None:
    broken = view(USED[0], application(OF, "UNHEALTHY", message="CUDA error"))
    sound = world(newcomer("new-1"))
    failing = replace(sound, sites=(broken, *sound.sites[1:]))
    for first, second in ((sound, failing), (failing, sound)):
        of, told = OF, []
        for seen in (first, second, first, second):
            plan = reconcile(of, seen, NOW)
            told += [event.reason for event in plan.events]
            of = with_status(of, plan)
        assert told.count("TooManySites") == 1
    over = with_status(with_status(OF, reconcile(OF, sound, NOW)), reconcile(OF, world(), NOW))
    assert [event.reason for event in reconcile(over, sound, NOW).events] == ["TooManySites"], "it was over meanwhile"


def test_a_site_that_fails_meanwhile_keeps_its_reason_and_the_count_comes_first() -> None:
    broken = view(USED[0], application(OF, "UNHEALTHY", message="CUDA error"))
    seen = world(newcomer("new-1"))
    plan = reconcile(OF, replace(seen, sites=(broken, *seen.sites[1:])), NOW)
    assert condition(plan, "Degraded")[0] == "True"
    assert condition(plan, "Degraded")[1] != "TooManySites"
    assert degraded(plan).startswith("spec.sites matches 201 sites")
    assert f"; {USED[0]}: " in degraded(plan)


def test_what_nobody_could_look_at_hides_nothing_of_it() -> None:
    left_out = Verdict("True", "TooManySites", "201 sites")
    silent = Verdict("Unknown", "Unreachable", "s000: silent")
    assert conditions.with_left_out(left_out, silent) == Verdict("True", "TooManySites", "201 sites; s000: silent")
    assert conditions.with_left_out(None, silent) == silent
