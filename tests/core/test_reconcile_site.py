"""Sites: whether they answer, what lies there without an owner, two names for one cluster, and deletion."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_operator.api import REASONS, AutoGLMSite, ObjectMeta, Problem, parse_site
from autoglm_operator.reconcile_site import reconcile_site
from autoglm_operator.state import (
    FINALIZER,
    ApplicationView,
    Capacity,
    Fleet,
    InvalidSite,
    SiteError,
    SitePlan,
    SiteView,
)
from support.fleet import NOW, aged, application, deployment, foreign, site, view

OF = deployment()
LOST = application(deployment(name="lost", uid="uid-lost"), args={"cluster": "ours"})
FLEET = Fleet(sites=(site("a"),), deployments=(OF,), complete=True, cluster="ours")
DOWN = SiteError("Unreachable", "no route to host")


def connected(plan: SitePlan) -> tuple[str, str]:
    return (plan.status.conditions[0].status, plan.status.conditions[0].reason)


def stored(of: SiteView, plan: SitePlan) -> SiteView:
    """The view after the status was stored and read again."""
    text = of.site.model_copy(update={"status": plan.status}).model_dump(mode="json", exclude_none=True)
    return replace(of, site=parse_site(text))


@pytest.mark.parametrize(
    ("age", "error", "phase", "status", "reason"),
    [
        (2, None, "Connected", "True", "Connected"),
        (29, DOWN, "Connected", "True", "Connected"),
        (31, DOWN, "Stale", "Unknown", "Unreachable"),
        (31, None, "Stale", "Unknown", "Stale"),
        (91, DOWN, "Unreachable", "False", "Unreachable"),
        (None, DOWN, "Unreachable", "False", "Unreachable"),
        (None, None, None, "Unknown", "NotObserved"),
        (None, SiteError("Unauthorized", "403"), "Unreachable", "False", "Unauthorized"),
        (2, SiteError("Unauthorized", "403"), "Connected", "False", "Unauthorized"),
        (2, SiteError("OpenCluster", "open"), "Connected", "False", "OpenCluster"),
        (None, SiteError("SecretMissing", "ray/a-token"), "Unreachable", "False", "SecretMissing"),
    ],
)
def test_a_site_is_connected_by_the_age_of_its_last_answer(
    age: float | None, error: SiteError | None, phase: str | None, status: str, reason: str
) -> None:
    seen = SiteView(site("a"), error=error) if age is None else replace(view("a", age=age), error=error)
    plan = reconcile_site(seen, FLEET, NOW)
    assert plan.status.phase == phase
    assert connected(plan) == (status, reason)
    assert bool(plan.status.message) is (status != "True")


def test_a_status_says_what_the_cluster_has_and_what_of_ours_is_there() -> None:
    has = Capacity({"CPU": 8.0, "GPU": 2.0, "node:10.0.0.5": 1.0}, {"CPU": 6.0, "GPU": 0.0})
    seen = replace(view("a", application(OF), foreign("shop.checkout")), ray_version="2.60.0", capacity=has)
    status = reconcile_site(seen, FLEET, NOW).status
    assert (status.applications, status.ray_version) == (1, "2.60.0")
    assert [(one.resource, one.total, one.available) for one in status.capacity] == [
        ("CPU", 8.0, 6.0),
        ("GPU", 2.0, 0.0),
    ]
    assert status.since == NOW - timedelta(seconds=2)


def test_the_last_figures_of_a_silent_site_stay_with_their_age() -> None:
    seen = replace(view("a", application(OF)), ray_version="2.60.0", capacity=Capacity({"CPU": 8.0}, {"CPU": 8.0}))
    known = stored(seen, reconcile_site(seen, FLEET, NOW))
    asked = NOW + timedelta(minutes=10)
    restarted = SiteView(known.site, error=DOWN, failures=1, silent_since=asked)
    status = reconcile_site(restarted, FLEET, asked).status
    assert (status.phase, status.applications, status.ray_version) == ("Unreachable", 1, "2.60.0")
    assert status.since == asked, "it was called Connected until somebody asked in vain"
    assert status.capacity[0].total == 8.0
    assert status.capacity_observed_at == NOW - timedelta(seconds=2)


def test_a_site_that_was_silent_already_is_silent_since_then_also_for_the_next_operator() -> None:
    gone = replace(view("a", application(OF), age=100), error=DOWN, failures=9)
    known = stored(gone, reconcile_site(gone, FLEET, NOW))
    asked = NOW + timedelta(minutes=10)
    restarted = SiteView(known.site, error=DOWN, failures=1, silent_since=asked)
    assert reconcile_site(restarted, FLEET, asked).status.since == NOW - timedelta(seconds=100)


def test_a_site_that_answers_as_before_is_not_written_again_however_long_that_lasts() -> None:
    first = view("a", application(OF))
    known = stored(first, reconcile_site(first, FLEET, NOW))
    late = NOW + timedelta(days=3)
    plan = reconcile_site(replace(known, observed_at=late), FLEET, late)
    assert plan.status == known.site.status
    assert plan.status.since == NOW - timedelta(seconds=2), "since when it answers"


def test_a_site_that_answers_again_does_so_since_then() -> None:
    gone = replace(view("a", application(OF), age=100), error=DOWN, failures=9)
    known = stored(gone, reconcile_site(gone, FLEET, NOW))
    back = NOW + timedelta(minutes=1)
    assert reconcile_site(replace(known, observed_at=back, error=None), FLEET, back).status.since == back


def test_an_application_without_owner_is_collected() -> None:
    plan = reconcile_site(view("a", application(OF), LOST, foreign("shop.checkout")), FLEET, NOW)
    assert [(one.site, one.name, one.uid) for one in plan.deletions] == [("a", "team.lost", "uid-lost")]


@pytest.mark.parametrize(
    ("name", "seen", "fleet"),
    [
        ("the list of owners is not complete", view("a", LOST), replace(FLEET, complete=False)),
        ("the site was read 31 s ago", view("a", LOST, age=31), FLEET),
        ("the site refuses the token", replace(view("a", LOST), error=SiteError("Unauthorized", "403")), FLEET),
        ("it is already on its way out", view("a", replace(LOST, status="DELETING")), FLEET),
        ("it was put there a moment ago", view("a", replace(LOST, deployed_at=NOW - timedelta(seconds=59))), FLEET),
        (
            "its owner is being deleted",
            view("a", application(deployment(deletionTimestamp="2026-03-01T11:59:00Z"))),
            FLEET,
        ),
        ("it is not ours", view("a", foreign()), FLEET),
        ("another cluster put it there", view("a", replace(LOST, args={**(LOST.args or {}), "cluster": "x"})), FLEET),
        ("it names no cluster", view("a", application(deployment(name="lost", uid="uid-lost"))), FLEET),
        ("our own cluster is not known", view("a", LOST), replace(FLEET, cluster="")),
        ("it names no owner", view("a", replace(LOST, args={})), FLEET),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_application_is_left_alone_when(name: str, seen: SiteView, fleet: Fleet) -> None:
    assert reconcile_site(seen, fleet, NOW).deletions == ()


def twin(**metadata: Any) -> AutoGLMSite:
    ray = {"address": "https://A.example:8265", "serveAddresses": ["http://a.example:8000"], "allowOpenCluster": True}
    return site("twin", {"backend": {"ray": ray}}, **metadata)


def test_of_two_names_for_one_cluster_the_younger_is_refused_and_touches_nothing() -> None:
    younger = twin(creationTimestamp="2026-03-01T11:30:00Z")
    fleet = replace(FLEET, sites=(site("a"), younger))
    plan = reconcile_site(SiteView(younger, (LOST,), NOW), fleet, NOW)
    assert connected(plan) == ("False", "DuplicateCluster")
    assert "site a " in plan.status.message
    assert (plan.deletions, plan.add_finalizer, plan.remove_finalizer) == ((), False, True)
    assert connected(reconcile_site(view("a", LOST), fleet, NOW)) == ("True", "Connected")


def test_the_age_of_a_site_decides_and_not_its_name() -> None:
    older = twin(creationTimestamp="2026-03-01T09:00:00Z")
    fleet = replace(FLEET, sites=(site("a"), older))
    assert connected(reconcile_site(view("a"), fleet, NOW)) == ("False", "DuplicateCluster")
    assert connected(reconcile_site(SiteView(older, (), NOW), fleet, NOW)) == ("True", "Connected")


def leaving(seconds_ago: float, **changes: Any) -> SiteView:
    asked = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    of = site("a", deletionTimestamp=asked)
    return replace(view("a", application(OF), foreign("shop.checkout")), site=of, **changes)


def test_a_site_that_is_deleted_gives_routes_a_moment_then_removes_what_is_ours() -> None:
    assert reconcile_site(leaving(3), FLEET, NOW).deletions == ()
    plan = reconcile_site(leaving(11), FLEET, NOW)
    assert [(one.name, one.uid) for one in plan.deletions] == [("team.quickstart", "uid-quickstart")]
    assert not plan.remove_finalizer
    assert reconcile_site(leaving(20, applications=(foreign(),)), FLEET, NOW).remove_finalizer


def test_the_deletion_of_a_silent_site_ends_at_the_deadline_and_says_what_may_be_left() -> None:
    silent = aged(leaving(200, error=DOWN), 250)
    assert not reconcile_site(silent, FLEET, NOW).remove_finalizer
    plan = reconcile_site(aged(leaving(300, error=DOWN), 350), FLEET, NOW)
    assert plan.remove_finalizer
    assert plan.deletions == ()
    assert [event.reason for event in plan.events if event.type == "Warning"] == ["DeletionDeadlineExceeded"]


def test_a_site_that_never_had_anything_is_deleted_at_once() -> None:
    never = SiteView(site("a", deletionTimestamp="2026-03-01T11:59:59Z"), error=DOWN, failures=4)
    assert reconcile_site(never, FLEET, NOW).remove_finalizer


def test_a_spec_that_cannot_be_used_gives_a_condition_and_does_not_hold_up_deletion() -> None:
    problem = Problem("spec.backend", "needs spec.backend.ray: set it")
    broken = InvalidSite(ObjectMeta(name="a", generation=3, finalizers=(FINALIZER,)), (problem,))
    plan = reconcile_site(broken, FLEET, NOW)
    assert connected(plan) == ("False", "InvalidSpec")
    assert "spec.backend: needs spec.backend.ray" in plan.status.message
    assert plan.status.observed_generation == 3
    assert not plan.remove_finalizer
    gone = replace(broken, metadata=broken.metadata.model_copy(update={"deletion_timestamp": NOW}))
    assert reconcile_site(gone, FLEET, NOW).remove_finalizer


def test_a_finalizer_is_held_while_the_site_exists() -> None:
    assert reconcile_site(replace(view("a"), site=site("a", finalizers=[])), FLEET, NOW).add_finalizer
    assert not reconcile_site(view("a"), FLEET, NOW).add_finalizer


def test_events_tell_when_a_site_goes_and_comes_back() -> None:
    good = view("a")
    first = reconcile_site(good, FLEET, NOW)
    known = stored(good, first)
    lost = reconcile_site(replace(aged(known, 120), error=DOWN), FLEET, NOW)
    away = stored(known, lost)
    back = reconcile_site(away, FLEET, NOW)
    told = [[(event.type, event.reason) for event in plan.events] for plan in (first, lost, back)]
    assert told == [[("Normal", "Connected")], [("Warning", "Unreachable")], [("Normal", "Connected")]]
    assert reconcile_site(known, FLEET, NOW).events == ()


def test_a_site_that_fails_is_looked_at_with_growing_pauses() -> None:
    pauses = [reconcile_site(SiteView(site("a"), error=DOWN, failures=n), FLEET, NOW).requeue_after for n in (1, 3, 60)]
    assert [pause.total_seconds() for pause in pauses] == [2, 8, 60]
    assert reconcile_site(view("a"), FLEET, NOW).requeue_after.total_seconds() == 30


applications = st.lists(
    st.sampled_from(
        [application(OF), LOST, foreign("shop.checkout"), replace(LOST, status="DELETING"), replace(LOST, args=None)]
    ),
    max_size=3,
    unique_by=lambda found: found.name,
)
errors = st.sampled_from([None, None, DOWN, SiteError("OpenCluster", "open"), SiteError("InvalidAnswer", "not JSON")])
ages = st.sampled_from([0, 29, 31, 89, 91, 4000])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(applications, errors, ages, st.booleans(), st.none() | st.integers(0, 600))
def test_whatever_is_seen_only_our_own_goes_only_from_live_sites_and_the_status_comes_to_rest(
    found: list[ApplicationView], error: SiteError | None, age: int, complete: bool, deleting: int | None
) -> None:
    asked: dict[str, Any] = (
        {} if deleting is None else {"deletionTimestamp": (NOW - timedelta(seconds=deleting)).isoformat()}
    )
    seen = SiteView(site("a", **asked), tuple(found), NOW - timedelta(seconds=age), error, 1 if error else 0)
    fleet = replace(FLEET, complete=complete)
    plan = reconcile_site(seen, fleet, NOW)
    assert not plan.deletions or (age < 30 and (error is None or error == DOWN))
    assert {one.uid for one in plan.deletions} <= {"uid-lost", "uid-quickstart"}
    assert plan.remove_finalizer or deleting is None or deleting < 300
    assert all(event.reason in REASONS for event in plan.events)
    again = reconcile_site(stored(seen, plan), fleet, NOW)
    assert again.status == plan.status
    assert all(event.reason == "DeletionDeadlineExceeded" for event in again.events)


def test_two_clusters_that_share_a_ray_cluster_leave_each_others_applications_alone() -> None:
    ours, theirs = deployment(), deployment(name="kiosks", uid="uid-kiosks")
    shared = view(
        "a", application(ours, args={"cluster": "east"}), application(theirs, args={"cluster": "west"}), foreign("shop")
    )
    east = Fleet(sites=(site("a"),), deployments=(ours,), complete=True, cluster="east")
    west = Fleet(sites=(site("a"),), deployments=(theirs,), complete=True, cluster="west")
    for fleet in (east, west):
        plan = reconcile_site(shared, fleet, NOW)
        assert plan.deletions == ()
        assert plan.status.applications == 1, "each counts its own"
    gone = replace(east, deployments=())
    assert [one.uid for one in reconcile_site(shared, gone, NOW).deletions] == [ours.metadata.uid]


def test_accelerators_are_told_by_type_with_what_is_free_and_the_age_of_the_figures() -> None:
    has = Capacity({"CPU": 64.0, "GPU": 8.0}, {"CPU": 12.0, "GPU": 5.0}, models={"GPU": ("H100",)})
    seen = replace(view("a"), capacity=has, capacity_at=NOW - timedelta(seconds=40))
    status = reconcile_site(seen, FLEET, NOW).status
    assert [(one.type, one.total, one.free, one.models) for one in status.accelerators] == [
        ("gpu", 8.0, 5.0, ("H100",)),
        ("cpu", 64.0, 12.0, ()),
    ]
    assert status.free == "5/8 gpu, 12/64 cpu"
    assert status.capacity_observed_at == NOW - timedelta(seconds=40)


def test_figures_that_could_not_be_read_stay_with_their_age_and_it_is_said_why() -> None:
    has = Capacity({"CPU": 8.0}, {"CPU": 8.0})
    first = replace(view("a"), capacity=has, capacity_at=NOW)
    known = stored(first, reconcile_site(first, FLEET, NOW))
    later = replace(known, observed_at=NOW + timedelta(minutes=9), capacity=None, capacity_unknown="pods is forbidden")
    status = reconcile_site(later, FLEET, NOW + timedelta(minutes=9)).status
    assert (status.phase, status.free, status.capacity_observed_at) == ("Connected", "8/8 cpu", NOW)
    assert status.capacity_message == "pods is forbidden"


def test_free_accelerators_that_changed_are_told_within_a_minute_and_free_cores_later() -> None:
    def at(later: int, gpus: float, cpus: float) -> bool:
        has = Capacity({"CPU": 8.0, "GPU": 8.0}, {"CPU": cpus, "GPU": gpus})
        moment = NOW + timedelta(seconds=later)
        seen = replace(known, capacity=has, observed_at=moment, capacity_at=moment)
        return reconcile_site(seen, FLEET, moment).status != known.site.status

    has = Capacity({"CPU": 8.0, "GPU": 8.0}, {"CPU": 8.0, "GPU": 8.0})
    first = replace(view("a"), capacity=has)
    known = stored(first, reconcile_site(first, FLEET, NOW))
    assert [at(30, 4, 8), at(70, 4, 8), at(70, 8, 2), at(400, 8, 2)] == [False, True, False, True]
    assert not at(400, 8, 7.5), "what moved by less than a tenth of all there is is no news"


def test_free_cores_are_told_within_a_minute_where_replicas_run_on_nothing_else() -> None:
    """`autoglm up` showed 8/8 for minutes, though replicas held some."""
    known = stored(
        first := replace(view("a"), capacity=Capacity({"CPU": 8.0}, {"CPU": 8.0})), reconcile_site(first, FLEET, NOW)
    )
    moment = NOW + timedelta(seconds=70)
    seen = replace(known, capacity=Capacity({"CPU": 8.0}, {"CPU": 6.0}), observed_at=moment, capacity_at=moment)
    assert reconcile_site(seen, FLEET, moment).status.free == "6/8 cpu"
