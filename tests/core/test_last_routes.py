"""A deployment whose stored spec cannot be used keeps the routes of what runs, also when the operator was started anew."""

from dataclasses import replace

import pytest

from autoglm_operator.api import DeploymentSiteStatus, DeploymentStatus, Problem, RolloutStatus
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import InvalidDeployment, Observed, Published, SiteView
from autoglm_serving.routing_table import Route
from support.fleet import NOW, admitted, application, deployment, foreign, gateway, site, view

FIRST, SECOND = "team.quickstart", "team.quickstart.2"
OF = deployment({"limits": {"maxImages": 3}})
RUNS = Observed(
    sites=(view("a", application(OF), foreign("shop")), view("b", application(OF))),
    gateways=(gateway(*admitted(OF, "a", "b")),),
    deployments=(OF,),
)
BROKEN = InvalidDeployment(OF.metadata, (Problem("spec.model.uri", "unknown scheme"),), reconcile(OF, RUNS, NOW).status)


def routes(observed: Observed) -> tuple[Route, ...]:
    return reconcile(BROKEN, observed, NOW).routes


def test_after_a_restart_the_routes_come_from_the_applications() -> None:
    assert routes(RUNS) == reconcile(OF, RUNS, NOW).routes
    assert [end.site for end in routes(RUNS)[0].endpoints] == ["a", "b"]
    assert routes(RUNS)[0].limits.max_images == 3


def test_a_site_that_was_not_read_yet_stays_in_the_routes_if_the_status_says_that_it_had_the_application() -> None:
    away = replace(RUNS, sites=(RUNS.sites[0], SiteView(site("b"))))
    assert [end.site for end in routes(away)[0].endpoints] == ["a", "b"]
    empty = replace(RUNS, sites=(RUNS.sites[0], view("b")))
    assert [end.site for end in routes(empty)[0].endpoints] == ["a"]


def test_the_table_that_a_gateway_still_has_knows_more_than_the_applications() -> None:
    tuned = deployment({"routing": {"policy": "roundRobin"}})
    before = reconcile(tuned, RUNS, NOW).routes
    assert routes(replace(RUNS, inherited=before)) == before
    assert routes(replace(RUNS, inherited=before, published=Published(1, 1, ()))) == ()


def test_nothing_is_made_up() -> None:
    assert routes(replace(RUNS, sites=(view("a"), view("b", foreign())))) == ()
    other = deployment(name="kiosks", uid="uid-kiosks")
    assert routes(replace(RUNS, sites=(view("a", application(other)),))) == ()
    unread = application(OF, args={"written": "by a later version"})
    assert routes(replace(RUNS, sites=(view("a", unread),))) == ()
    leaving = replace(application(OF), status="DELETING")
    assert routes(replace(RUNS, sites=(view("a", leaving),))) == ()


def test_the_revision_with_most_replicas_ready_is_the_one_that_clients_get() -> None:
    old = application(OF, args={"revision": "0123456789"}, ready=0)
    mixed = replace(RUNS, sites=(view("a", old), view("b", application(OF))))
    found = routes(mixed)[0]
    assert found.revision == application(OF).revision
    assert [end.revision for end in found.endpoints] == ["0123456789", found.revision]


@pytest.mark.parametrize(("name", "beside"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_of_a_rollout_only_the_stable_application_gets_requests_also_at_a_silent_site(name: str, beside: str) -> None:
    stable = replace(application(OF, ready=1), name=name)
    candidate = replace(application(deployment({"replicas": 3, "engine": {"maxConcurrency": 9}})), name=beside)
    told = RolloutStatus(phase="Progressing", stable=str(stable.revision), application=name)
    row = DeploymentSiteStatus(name="b", state="Ready", revision=stable.revision)
    broken = replace(BROKEN, status=DeploymentStatus(rollout=told, sites=(row,)))
    found = reconcile(broken, Observed(sites=(view("a", stable, candidate), SiteView(site("b")))), NOW).routes[0]
    assert found.revision == stable.revision
    assert [(end.site, end.revision, end.url.rsplit("/", 1)[1]) for end in found.endpoints] == [
        ("a", stable.revision, name),
        ("b", stable.revision, name),
    ]
