"""Two revisions behind one real gateway: shares of the sessions, copies of requests, and what is reported of both."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoglm_serving import headers
from autoglm_serving.measurements import RevisionReport
from support.fake_revisions import TwoRevisions
from support.gateway import Gateway, question


@pytest.fixture
async def site() -> AsyncIterator[TwoRevisions]:
    async with TwoRevisions() as site:
        yield site


async def serve(gateway: Gateway, site: TwoRevisions, **canary: Any) -> None:
    await gateway.push(site.route(**canary))

    async def both_admitted() -> bool:
        found = {(one.wanted, one.state) for one in (await gateway.report()).admissions}
        return found == {("r1", "Admitted"), ("r2", "Admitted")}

    await gateway.until(both_admitted, "both revisions are admitted")


async def reports(gateway: Gateway) -> dict[str, RevisionReport]:
    return {one.revision: one for one in (await gateway.report()).revisions}


async def until_canary(gateway: Gateway, what: str, condition: Any) -> RevisionReport:
    async def holds() -> bool:
        return bool(condition((await reports(gateway))["r2"]))

    await gateway.until(holds, what)
    return (await reports(gateway))["r2"]


async def revision_of(gateway: Gateway, text: str, **options: Any) -> str:
    status, answered, _ = await gateway.ask(question(text), **options)
    assert status == 200
    return answered[headers.REVISION]


async def test_sessions_are_shared_by_weight_and_each_stays_on_its_revision(
    gateway: Gateway, site: TwoRevisions
) -> None:
    await serve(gateway, site, weight=30)
    first = [await revision_of(gateway, f"task {number}") for number in range(60)]
    again = [await revision_of(gateway, f"task {number}") for number in range(60)]
    assert first == again
    assert 6 <= first.count("r2") <= 30, "about 18 of 60"
    found = await reports(gateway)
    assert {name: report.weight for name, report in found.items()} == {"r1": 70, "r2": 30}
    await until_canary(gateway, "all is counted", lambda canary: canary.requests == 2 * first.count("r2"))
    assert (await reports(gateway))["r1"].requests == 2 * first.count("r1")


async def test_a_session_is_what_the_client_names_before_what_it_says(gateway: Gateway, site: TwoRevisions) -> None:
    await serve(gateway, site, weight=50)
    by_session = {
        name: {await revision_of(gateway, f"{name} {n}", headers={"X-Session-Id": name}) for n in range(3)}
        for name in ("phone-1", "phone-2", "phone-3", "phone-4", "phone-5", "phone-6", "phone-7", "phone-8")
    }
    assert all(len(revisions) == 1 for revisions in by_session.values())
    assert len({next(iter(revisions)) for revisions in by_session.values()}) == 2


async def test_a_canary_that_is_not_admitted_gets_nothing_and_the_report_says_so(
    gateway: Gateway, site: TwoRevisions
) -> None:
    site.canary.answers_probes = False
    await gateway.serve(site.route(weight=90), sites=1)
    assert {await revision_of(gateway, f"task {number}") for number in range(20)} == {"r1"}
    assert (await reports(gateway))["r2"].weight == 0
    assert site.canary.seen == []


async def test_a_canary_that_answers_as_another_revision_gets_nothing(gateway: Gateway, site: TwoRevisions) -> None:
    site.canary.revision = "r3"
    await gateway.serve(site.route(weight=90), sites=1)
    assert {await revision_of(gateway, f"task {number}") for number in range(20)} == {"r1"}


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_to_copies_are_compared_with_what_the_clients_got(
    gateway: Gateway, site: TwoRevisions, stream: bool
) -> None:
    near, far = 'do(action="Tap", element=[506,204])', 'do(action="Tap", element=[900,204])'
    site.canary.reply = lambda text: far if text.endswith("3") else near
    await serve(gateway, site, mirror=100, tolerance=20)
    for number in range(4):
        body = question(f"task {number}", stream=stream)
        async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            assert answer.headers[headers.REVISION] == "r1"
            assert "element" in await answer.text()
        await until_canary(gateway, "the copy was compared", lambda canary, n=number: canary.compared == n + 1)
    found = (await reports(gateway))["r2"]
    assert (found.requests, found.mirrored, found.errors) == (0, 4, 0)
    assert (found.compared, found.agreed) == (4, 3)
    assert found.ttft.total == found.latency.total == 4
    assert await gateway.metric("autoglm_gateway_mirrored_requests_total") >= 4
    assert [one.endswith("-copy") for one in site.canary.request_ids] == [True] * 4


async def test_a_canary_that_hangs_delays_no_client_and_copies_are_bounded(
    gateway: Gateway, site: TwoRevisions
) -> None:
    site.canary.hangs = True
    await serve(gateway, site, mirror=100, mirror_concurrency=2)
    answers = await asyncio.gather(*(revision_of(gateway, f"task {number}") for number in range(10)))
    assert answers == ["r1"] * 10
    found = await until_canary(gateway, "the others were skipped", lambda canary: canary.skipped == 8)
    assert len(site.canary.seen) == 2
    assert found.mirrored == 0, "what has not ended is not counted"


async def test_a_canary_that_fails_costs_no_client_an_answer_and_counts_as_errors(
    gateway: Gateway, site: TwoRevisions
) -> None:
    site.canary.status = 500
    await serve(gateway, site, mirror=100)
    assert [await revision_of(gateway, f"task {number}") for number in range(5)] == ["r1"] * 5
    found = await until_canary(gateway, "the copies have failed", lambda canary: canary.mirrored == 5)
    assert (found.errors, found.compared) == (5, 0)
    assert (await reports(gateway))["r1"].errors == 0


async def test_a_new_window_starts_from_zero_and_a_new_weight_does_not(gateway: Gateway, site: TwoRevisions) -> None:
    await serve(gateway, site, weight=0, mirror=100)
    await revision_of(gateway, "one")
    await until_canary(gateway, "it was compared", lambda canary: canary.compared == 1)
    await gateway.push(site.route(weight=10, mirror=100))
    assert (await reports(gateway))["r2"].compared == 1
    await gateway.push(site.route(weight=10, mirror=100, window="w2"))
    found = (await reports(gateway))["r2"]
    assert (found.window, found.compared, found.mirrored) == ("w2", 0, 0)
