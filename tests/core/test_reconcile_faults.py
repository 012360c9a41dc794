"""One fault at a time: whatever is taken away from a deployment that is Ready, it is Ready no longer, and says why."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from autoglm_operator import views
from autoglm_operator.api import DeploymentSiteStatus
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import GatewayError, Observed, Published, SiteError, SiteView
from support.fleet import (
    NOW,
    admitted,
    aged,
    application,
    condition,
    deployment,
    foreign,
    gateway,
    names,
    published,
    rows,
    site,
    view,
    with_status,
)

OF = deployment({"replicas": 2})
GOOD = Observed(
    sites=(view("a", application(OF)), view("b", application(OF))),
    gateways=(gateway(*admitted(OF, "a", "b")), gateway(*admitted(OF, "a", "b"), name="edge")),
    deployments=(OF,),
)
GOOD = replace(GOOD, published=published(reconcile(OF, GOOD, NOW)))


def site_b(change: Callable[[SiteView], SiteView]) -> Observed:
    return replace(GOOD, sites=(GOOD.sites[0], change(GOOD.sites[1])))


def edge(**changes: object) -> Observed:
    return replace(GOOD, gateways=(GOOD.gateways[0], replace(GOOD.gateways[1], **changes)))  # type: ignore[arg-type]


def edge_says(state: str = "Admitted", **changes: object) -> Observed:
    told = (*admitted(OF, "a"), *admitted(OF, "b", state=state, **changes))  # type: ignore[arg-type]
    return edge(report=gateway(*told).report)


def has(*found: object) -> Callable[[SiteView], SiteView]:
    return lambda seen: replace(seen, applications=found)  # type: ignore[arg-type]


DOWN = SiteError("Unreachable", "no route to host")
OPEN = SiteError("OpenCluster", "the cluster answers without a token")
OLDER = deployment(name="elder", uid="uid-elder", creationTimestamp="2026-03-01T09:00:00Z")

BEHIND = gateway(*admitted(OF, "a", "b"), table=(1, 0))

FAULTS: dict[str, tuple[Observed, str, str]] = {
    "a site was read 31 s ago": (site_b(lambda seen: aged(seen, 29)), "Unknown", "Stale"),
    "a site was read 91 s ago": (site_b(lambda seen: aged(seen, 89)), "Unknown", "Unreachable"),
    "a site was never read": (site_b(lambda seen: SiteView(seen.site)), "Unknown", "NotObserved"),
    "a site is down": (site_b(lambda seen: replace(aged(seen, 60), error=DOWN)), "Unknown", "Unreachable"),
    "a site refuses the token": (
        site_b(lambda seen: replace(seen, error=SiteError("Unauthorized", "403"))), "Unknown", "Unauthorized"
    ),
    "a site became open to everybody": (site_b(lambda seen: replace(seen, error=OPEN)), "Unknown", "OpenCluster"),
    "a site lost the application": (site_b(has()), "False", "Deploying"),
    "a site has somebody else's application": (site_b(has(foreign())), "False", "NameTaken"),
    "a site still runs the old revision": (
        site_b(has(application(OF, args={"revision": "0123456789"}))), "False", "RollingOut"
    ),
    "a site misses a replica": (site_b(has(application(OF, ready=1))), "False", "ReplicasMissing"),
    "a site is unhealthy": (site_b(has(application(OF, "UNHEALTHY"))), "False", "Unhealthy"),
    "a site failed": (site_b(has(application(OF, "DEPLOY_FAILED", ready=0))), "False", "DeployFailed"),
    "a gateway is probing": (edge_says("Probing"), "False", "Probing"),
    "a gateway's probe failed": (edge_says("ProbeFailed"), "False", "ProbeFailed"),
    "a gateway gets answers of the old revision": (edge_says(revision="0123456789"), "False", "Probing"),
    "a gateway probed 61 s ago": (edge_says(age=61), "Unknown", "Stale"),
    "a gateway reported 61 s ago": (edge(observed_at=NOW - timedelta(seconds=61)), "Unknown", "GatewayUnreachable"),
    "a gateway never reported": (edge(report=None, observed_at=None), "Unknown", "GatewayUnreachable"),
    "a gateway refuses the table": (edge(error=GatewayError("TableRefused", "bad signature")), "False", "TableRefused"),
    "a gateway has an older table": (edge(report=BEHIND.report), "False", "TablePending"),
    "no table was written": (replace(GOOD, published=None), "False", "TablePending"),
    "the table carries other routes": (replace(GOOD, published=Published(1, 1, ())), "False", "TablePending"),
    "there is no gateway": (replace(GOOD, gateways=()), "Unknown", "GatewayMissing"),
    "there is no site": (replace(GOOD, sites=()), "False", "NoSites"),
    "an older deployment has the model name": (replace(GOOD, deployments=(OF, OLDER)), "False", "ModelNameTaken"),
}  # fmt: skip


def test_without_a_fault_it_is_ready() -> None:
    assert condition(reconcile(OF, GOOD, NOW), "Ready") == ("True", "Answering")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_takes_ready_away(fault: str) -> None:
    observed, status, reason = FAULTS[fault]
    plan = reconcile(OF, observed, NOW)
    assert condition(plan, "Ready") == (status, reason)
    message = next(one.message for one in plan.status.conditions if one.type == "Ready")
    assert message, "the message says what is missing"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_once_and_its_end_too(fault: str) -> None:
    observed, _, reason = FAULTS[fault]
    ready = with_status(OF, reconcile(OF, GOOD, NOW))
    broken = reconcile(ready, observed, NOW + timedelta(milliseconds=100))
    if broken.status.conditions[0].status == "True":
        assert reason == "TablePending", "a table that is merely written anew takes nothing back"
        return
    again = reconcile(with_status(ready, broken), observed, NOW + timedelta(milliseconds=200))
    assert reason in ("Probing", "NotObserved", "TablePending") or broken.events
    assert not again.events or reason == "Deploying", again.events
    mended = reconcile(with_status(ready, broken), GOOD, NOW + timedelta(milliseconds=300))
    assert condition(mended, "Ready") == ("True", "Answering")
    assert [event.reason for event in mended.events] == ["Answering"]


def test_one_lost_answer_changes_nothing_while_the_figures_are_young() -> None:
    assert condition(reconcile(OF, site_b(lambda seen: replace(seen, error=DOWN)), NOW), "Ready") == (
        "True",
        "Answering",
    )


def test_a_change_that_does_not_get_through_says_why() -> None:
    plan = reconcile(OF, site_b(lambda seen: replace(seen, applications=(), error=DOWN)), NOW)
    assert "no route to host" in next(row.message for row in plan.status.sites if row.name == "b")


def test_a_table_with_a_later_number_confirms_as_well() -> None:
    later = replace(GOOD, gateways=(gateway(*admitted(OF, "a", "b"), table=(2, 0)),))
    assert condition(reconcile(OF, later, NOW), "Ready") == ("True", "Answering")


def test_a_changed_spec_has_to_be_confirmed_again_even_if_the_revision_stays() -> None:
    ready = with_status(OF, reconcile(OF, GOOD, NOW))
    changed = deployment({"replicas": 2, "routing": {"retries": 3}}, generation=2).model_copy(
        update={"status": ready.status}
    )
    assert condition(reconcile(changed, GOOD, NOW), "GatewayReady") == ("False", "TablePending")


def test_degraded_is_true_while_one_site_serves_and_another_does_not() -> None:
    for fault in (
        "a site is down",
        "a site failed",
        "a site misses a replica",
        "a site has somebody else's application",
    ):
        assert condition(reconcile(OF, FAULTS[fault][0], NOW), "Degraded")[0] == "True", fault
    assert condition(reconcile(OF, GOOD, NOW), "Degraded") == ("False", "Healthy")


def test_a_transition_time_is_that_of_the_status_and_not_of_the_reason_or_the_message() -> None:
    first = with_status(OF, reconcile(OF, site_b(has()), NOW))
    later = NOW + timedelta(seconds=20)
    second = reconcile(first, site_b(has(application(OF, "DEPLOYING", ready=0))), later)
    third = reconcile(with_status(OF, second), GOOD, later)
    by_type = [{one.type: one for one in plan.status.conditions} for plan in (second, third)]
    assert by_type[0]["Ready"].last_transition_time == NOW
    assert by_type[1]["Ready"].last_transition_time == later


@pytest.mark.parametrize("after", [timedelta(seconds=20), timedelta(minutes=6), timedelta(days=30)])
def test_a_status_in_which_nothing_changed_is_never_written_again(after: timedelta) -> None:
    ready, now = with_status(OF, reconcile(OF, GOOD, NOW)), NOW + after
    fresh = Observed(
        sites=(view("a", application(OF), now=now), view("b", application(OF), now=now)),
        gateways=(gateway(*admitted(OF, "a", "b", now=now), now=now),),
        deployments=(OF,),
        published=GOOD.published,
    )
    assert reconcile(ready, fresh, now).status == ready.status


def test_a_row_that_changed_tells_since_when_and_the_others_keep_their_time() -> None:
    ready, now = with_status(OF, reconcile(OF, GOOD, NOW)), NOW + timedelta(hours=1)
    fewer = (view("a", application(OF), now=now), view("b", application(OF, "DEPLOYING", ready=0), now=now))
    gateways = (gateway(*admitted(OF, "a", "b", now=now), now=now),)
    changed = reconcile(ready, Observed(fewer, gateways=gateways, deployments=(OF,), published=GOOD.published), now)
    before = {row.name: row for row in ready.status.sites} if ready.status else {}
    rows = {row.name: row for row in changed.status.sites}
    assert rows["a"] == before["a"]
    assert rows["b"].since == now - timedelta(seconds=2)


def test_a_site_that_is_being_left_goes_in_three_steps() -> None:
    both = with_status(OF, reconcile(OF, GOOD, NOW))
    one = deployment({"replicas": 2, "sites": {"names": ["a"]}}, generation=2).model_copy(
        update={"status": both.status}
    )
    told = reconcile(one, GOOD, NOW)
    assert {end.site for end in told.routes[0].endpoints} == {"a"}
    assert told.applications == (), "the routes leave first"
    behind = replace(GOOD, published=Published(1, 2, told.routes))
    assert reconcile(one, behind, NOW).applications == (), "gateways have to know"
    knowing = replace(behind, gateways=(gateway(*admitted(OF, "a"), table=(1, 2)),))
    gone = reconcile(one, knowing, NOW)
    assert names(gone.applications) == [("DeleteApplication", "b", "team.quickstart")]
    assert rows(gone) == {"a": "Ready", "b": "Deleting"}


def test_a_site_that_is_being_left_serves_on_while_the_others_do_not() -> None:
    one = deployment({"replicas": 2, "sites": {"names": ["a"]}})
    for fault in (
        replace(GOOD, sites=(view("a"), GOOD.sites[1])),
        replace(GOOD, gateways=(gateway(*admitted(OF, "b")),)),
    ):
        plan = reconcile(one, fault, NOW)
        assert {end.site for end in plan.routes[0].endpoints} == {"a", "b"}
        assert ("DeleteApplication", "b", "team.quickstart") not in names(plan.applications)


def test_a_wrong_site_name_does_not_take_the_old_site_away() -> None:
    typo = deployment({"replicas": 2, "sites": {"names": ["aa"]}})
    plan = reconcile(typo, GOOD, NOW)
    assert condition(plan, "SitesReady") == ("False", "SiteNotFound")
    assert plan.applications == ()
    assert {end.site for end in plan.routes[0].endpoints} == {"a", "b"}


def test_a_site_that_is_being_deleted_is_left() -> None:
    leaving = replace(GOOD.sites[1], site=site("b", deletionTimestamp="2026-03-01T11:59:59Z"))
    plan = reconcile(OF, replace(GOOD, sites=(GOOD.sites[0], leaving)), NOW)
    assert {end.site for end in plan.routes[0].endpoints} == {"a"}
    assert rows(plan) == {"a": "Ready", "b": "Deleting"}


def test_the_finalizer_is_asked_for_before_anything_is_applied() -> None:
    bare = deployment(finalizers=[])
    plan = reconcile(bare, Observed(sites=(view("a"),)), NOW)
    assert plan.add_finalizer
    assert plan.applications


def test_a_deleted_deployment_without_our_finalizer_is_not_touched() -> None:
    gone = deployment(finalizers=["other/one"], deletionTimestamp="2026-03-01T11:59:00Z")
    plan = reconcile(gone, GOOD, NOW)
    assert (plan.applications, plan.remove_finalizer, plan.routes) == ((), False, ())


def test_deletion_does_not_wait_for_a_site_that_never_had_the_application() -> None:
    gone = deployment(deletionTimestamp="2026-03-01T11:59:59Z")
    never = SiteView(site("typo"), error=SiteError("Unreachable", "no such host"), failures=9)
    assert reconcile(gone, Observed(sites=(never,)), NOW).remove_finalizer


def test_passes_come_fast_while_something_moves_and_slow_when_nothing_does() -> None:
    """Changes wake it; only what time alone decides, as that a silence lasts, needs a look of its own."""
    assert reconcile(OF, GOOD, NOW).requeue_after == timedelta(minutes=5)
    assert reconcile(OF, site_b(has()), NOW).requeue_after == timedelta(seconds=10)
    lost = replace(GOOD, sites=(GOOD.sites[0], replace(GOOD.sites[1], error=SiteError("Unreachable", "none"))))
    assert reconcile(OF, lost, NOW).requeue_after == timedelta(seconds=20)
    pauses = [
        reconcile(OF, replace(GOOD, failures=n), NOW).requeue_after.total_seconds() for n in (1, 2, 3, 4, 5, 6, 99)
    ]
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


def test_replicas_of_the_old_revision_do_not_count_when_ray_says_running_a_moment_too_long() -> None:
    """Right after a change Ray still says RUNNING, with the new arguments and the old replicas."""
    told = replace(GOOD, gateways=(gateway(*admitted(OF, "a", "b", revision="0123456789")),))
    moment = with_status(OF, reconcile(OF, told, NOW))
    rolling = replace(told, sites=(view("a", application(OF, "DEPLOYING")), view("b", application(OF, "DEPLOYING"))))
    plan = reconcile(moment, rolling, NOW)
    assert condition(plan, "Ready")[0] == "False"
    assert plan.status.ready_replicas == 0


def test_a_second_name_for_a_cluster_does_not_hold_up_deletion() -> None:
    ray = {"address": "http://a.example:8265", "serveAddresses": ["http://a.example:8000"], "allowOpenCluster": True}
    twin = site("twin", {"backend": {"ray": ray}}, creationTimestamp="2026-03-01T11:30:00Z")
    silent = SiteView(twin, (application(OF),), NOW - timedelta(minutes=9), DOWN, 9)
    gone = deployment(deletionTimestamp="2026-03-01T11:59:00Z")
    assert reconcile(gone, Observed(sites=(view("a"), silent)), NOW).remove_finalizer


QUORATE = deployment({"replicas": 1, "sites": {"quorum": 50}})


def quorate(b: SiteView, now: datetime = NOW) -> Observed:
    gateways = (
        gateway(*admitted(QUORATE, "a", now=now), *admitted(QUORATE, "b", state="ProbeFailed", now=now), now=now),
    )
    seen = Observed(sites=(view("a", application(QUORATE), now=now), b), gateways=gateways, deployments=(QUORATE,))
    return replace(seen, published=published(reconcile(QUORATE, seen, now)))


def test_a_site_that_failed_beside_a_quorum_is_tried_again_when_its_time_comes_not_with_the_next_news() -> None:
    failed = application(QUORATE, "DEPLOY_FAILED", ready=0, message="boom", deployed_at=NOW - timedelta(seconds=5))
    plan = reconcile(QUORATE, quorate(view("b", failed)), NOW)
    assert condition(plan, "Ready") == ("True", "Answering")
    assert plan.applications == ()
    assert plan.requeue_after <= timedelta(seconds=30)
    later = NOW + timedelta(seconds=40)
    again = reconcile(with_status(QUORATE, plan), quorate(view("b", failed, now=later), later), later)
    assert [type(change).__name__ for change in again.applications] == ["DeleteApplication"]


def test_a_table_that_a_gateway_holds_at_last_is_told_with_the_time_since_when() -> None:
    late = replace(GOOD, gateways=(BEHIND,))
    plan = reconcile(OF, late, NOW)
    assert plan.status.gateway_table is not None
    assert plan.status.gateway_table.since is None
    then = NOW + timedelta(minutes=1)
    held = replace(GOOD, sites=(view("a", application(OF), now=then), view("b", application(OF), now=then)))
    held = replace(held, gateways=(gateway(*admitted(OF, "a", "b", now=then), now=then),))
    table = reconcile(with_status(OF, plan), held, then).status.gateway_table
    assert table is not None
    assert table.since is not None


def test_a_site_that_an_older_operator_gave_replicas_is_silent_since_the_first_look_in_vain() -> None:
    """Its status tells no time: the pause that silence is granted begins anew, instead of being over at once."""
    older = views.told(DeploymentSiteStatus(name="a", state="Ready", desired=1, ready=1))
    silent = SiteView(site("a"), error=DOWN, failures=1, silent_since=NOW)
    assert views.heard(silent, older) == NOW
    assert views.heard(silent, views.told(DeploymentSiteStatus(name="a", state="Pending"))) is None
