"""Requests through a real Envoy and the real picker: where they go, how they are retried, how they are refused."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoglm_operator.local import show
from autoglm_serving import headers
from autoglm_serving.config import Limits
from autoglm_serving.routing_table import MeasuredQuality, ResolutionPolicy, TasksSolved, Variant, VariantPolicy
from support.gateway import DEADLINE_S, MODEL, PREFIX, FakeServer, Gateway, Mode, image_url, question, route
from support.ports import free_port

BODY_TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def one_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One process for all tests here; each brings its own servers and table."""
    shared = Gateway(Path(tmp_path_factory.mktemp("gateway")), body_timeout=BODY_TIMEOUT_S)
    yield shared
    shared.stop()


@pytest.fixture
async def first() -> AsyncIterator[FakeServer]:
    async with FakeServer("first") as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[FakeServer]:
    async with FakeServer("second") as server:
        yield server


def assert_openai_error(body: dict[str, Any], code: str) -> None:
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]


async def test_a_request_reaches_the_deployments_path_and_its_answer_says_who_and_why(
    gateway: Gateway, first: FakeServer
) -> None:
    await gateway.serve(route(first))
    body = question("你好", [image_url(1080, 2400)])
    status, answer_headers, answer = await gateway.ask(body, params={"ignored": "1"})
    assert (status, answer["site"]) == (200, "first")
    assert answer_headers[headers.SITE] == "first"
    assert answer_headers[headers.REVISION] == "r1"
    assert answer_headers[headers.RESOLUTION] == "1080"
    assert answer_headers[headers.REASON] == "only_endpoint"
    assert not [name for name in answer_headers if name.lower().startswith("x-envoy") or name.lower() == "server"]
    seen = first.seen[-1]
    assert seen.path == PREFIX + "/v1/chat/completions"
    assert json.loads(seen.body) == body
    assert seen.headers[headers.MAX_PIXELS] == str(1080 * 2400)

    record = await gateway.record(answer_headers["X-Request-ID"])
    assert record["images"] == [{"width": 1080, "height": 2400, "format": "png"}]
    assert (record["outcome"], record["status"], record["attempts"]) == ("answered", 200, 1)
    assert (record["site"], record["revision"], record["model"]) == ("first", "r1", MODEL)
    assert record["candidates"][0]["totalS"] > 0
    assert "你好" not in json.dumps(record, ensure_ascii=False)


async def test_answers_and_records_say_which_variant_it_was_and_none_below_the_floor_serves(
    gateway: Gateway, first: FakeServer, second: FakeServer
) -> None:
    second.revision, second.variant = "r1-int8", "int8"
    ends = (first.endpoint(variant="base"), second.endpoint(variant="int8", wanted=second.revision))
    known = Variant(name="int8", quality=TasksSolved(right=38, samples=131))
    policy = VariantPolicy(base=TasksSolved(right=40, samples=131), variants=(known,), floor=0.95)
    both = route(first, second, policy="roundRobin", endpoints=ends, variants=policy)
    await gateway.serve(both)
    found = {}
    for _ in range(2):
        _, told, answer = await gateway.ask()
        assert await gateway.record(told["X-Request-ID"])
        found[answer["site"]] = told
    assert found["first"][headers.VARIANT] == "base"
    assert (found["second"][headers.VARIANT], found["second"][headers.REVISION]) == ("int8", "r1-int8")
    record = await gateway.record(found["second"]["X-Request-ID"])
    assert record["variant"] == "int8"
    assert record["variantQuality"] == "38 of 131 tasks right (21.9% to 37.3%), 95.0% of what the model itself solves"
    assert {one["variant"] for one in record["candidates"]} == {"base", "int8"}
    assert record["leftOut"] == []

    stricter = policy.model_copy(update={"floor": 0.96})
    await gateway.serve(both.model_copy(update={"variants": stricter}))
    asked = [await gateway.ask() for _ in range(3)]
    assert {(answer["site"], told[headers.REASON]) for _, told, answer in asked} == {("first", "only_endpoint")}
    record = await gateway.record(asked[0][1]["X-Request-ID"])
    assert [(one["site"], one["variant"]) for one in record["leftOut"]] == [("second", "int8")]
    assert "left out    second" in show.decision(record)
    assert "0.9500 of what the model itself solves, and the floor is 0.96" in show.decision(record)

    only = both.model_copy(update={"endpoints": ends[1:], "variants": stricter})
    await gateway.serve(only)
    status, _, refused = await gateway.ask()
    assert status == 503
    assert_openai_error(refused, "not_ready")
    assert "second runs variant int8" in refused["error"]["message"]


async def test_each_model_goes_to_its_own_deployment_on_the_same_server(gateway: Gateway, first: FakeServer) -> None:
    other = route(
        first,
        deployment="test/other",
        model="other-model",
        endpoints=(first.endpoint(url=f"http://{first.address}/test.other"),),
    )
    await gateway.serve(route(first), other)
    await gateway.ask(question(model="other-model"))
    await gateway.ask(question())
    assert [seen.path for seen in first.seen] == ["/test.other/v1/chat/completions", "/test.phone/v1/chat/completions"]
    lately = {one.deployment: one.ttft for one in (await gateway.report()).first_bytes}
    assert lately["test/other"].total == 1, "the operator hears how fast answers begin, by deployment"
    assert 0 < (lately["test/other"].quantile(0.95) or 0) < DEADLINE_S


async def test_round_robin_reaches_every_site_in_turn(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    await gateway.serve(route(first, second, policy="roundRobin"))
    sites = [(await gateway.ask())[2]["site"] for _ in range(6)]
    assert sites.count("first") == sites.count("second") == 3
    assert sites[:3] == sites[:1] + sites[1:2] + sites[:1]


async def test_a_busy_endpoint_is_avoided(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    """Requests under way count: with one site full of them the next ones go to the other."""
    await gateway.serve(route(first, second))
    first.mode = second.mode = "hang"
    asking = [asyncio.create_task(gateway.ask()) for _ in range(6)]

    async def all_arrived() -> bool:
        return len(first.seen) + len(second.seen) == 6

    await gateway.until(all_arrived, "all requests arrived")
    assert len(first.seen) == len(second.seen) == 3
    first.released.set()
    second.released.set()
    assert {(await task)[0] for task in asking} == {200}


async def test_tokens_arrive_before_the_answer_is_complete(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first))
    first.mode = "stream"
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=question(stream=True)) as answer:
        part = await answer.content.readuntil(b"\n\n")
        assert part == b'data: {"n": 0}\n\n'
        first.released.set()
        assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("mode", ["503", "die", "plain-500", "plain-404", "busy"])
async def test_a_request_that_fails_on_one_site_is_answered_by_the_other(
    gateway: Gateway, first: FakeServer, second: FakeServer, mode: Mode
) -> None:
    await gateway.serve(route(first, second, policy="roundRobin"))
    retried_before = await gateway.metric("autoglm_gateway_retried_requests_total")
    first.mode = mode
    for _ in range(4):
        status, answer_headers, answer = await gateway.ask(question(images=[image_url()]))
        assert (status, answer["site"]) == (200, "second")
        assert answer_headers[headers.SITE] == "second"
    assert first.seen, "the failing site was never tried, so nothing was retried"
    assert all(seen.body == first.seen[0].body for seen in second.seen)
    retried = await gateway.metric("autoglm_gateway_retried_requests_total") - retried_before
    assert retried == len(first.seen)


async def test_a_site_that_refuses_connections_costs_no_request(
    gateway: Gateway, first: FakeServer, second: FakeServer
) -> None:
    await gateway.serve(route(first, second, policy="roundRobin"))
    await first.stop()
    answers = [await gateway.ask() for _ in range(6)]
    assert {(status, answer["site"]) for status, _, answer in answers} == {(200, "second")}

    async def removed() -> bool:
        states = {admission.site: admission.state for admission in (await gateway.report()).admissions}
        return states == {"first": "ProbeFailed", "second": "Admitted"}

    await gateway.until(removed, "the dead site is taken out")


async def test_nothing_is_retried_after_the_first_byte(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    await gateway.serve(route(first, second, policy="roundRobin"))
    first.mode = second.mode = "die-in-stream"
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=question(stream=True)) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
    assert len(first.seen) + len(second.seen) == 1


async def test_attempts_end_with_the_routes_retries(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    await gateway.serve(route(first, second, retries=1))
    first.mode = second.mode = "die"
    status, _, body = await gateway.ask()
    assert status == 502
    assert_openai_error(body, "upstream_failed")
    assert len(first.seen) == len(second.seen) == 1


@pytest.mark.parametrize(
    ("mode", "status", "code"),
    [
        ("503", 503, "overloaded"),
        ("die", 502, "upstream_failed"),
        ("plain-500", 502, "upstream_failed"),
        ("busy", 503, "overloaded"),
    ],
)
async def test_what_cannot_be_answered_is_said_in_openais_shape_without_internals(
    gateway: Gateway, first: FakeServer, mode: Mode, status: int, code: str
) -> None:
    await gateway.serve(route(first, retries=0))
    first.mode = mode
    got, answer_headers, body = await gateway.ask()
    assert got == status
    assert_openai_error(body, code)
    assert answer_headers["Content-Type"].startswith("application/json")
    assert ("Retry-After" in answer_headers) == (status == 503)
    for secret in ("127.0.0.1", "/srv/x", "envoy", "ext_proc"):
        assert secret not in json.dumps(body).lower()


async def test_a_server_that_hangs_is_given_up_after_the_routes_timeout(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first, timeout_s=0.5))
    first.mode = "hang"
    status, _, body = await gateway.ask()
    assert status == 504
    assert_openai_error(body, "timeout")
    first.released.set()


async def test_bad_requests_are_refused_before_any_server_sees_them(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first))
    bomb = image_url(60_000, 60_000)
    cases: list[tuple[Any, int, str, str]] = [
        (question(model="gpt-9"), 404, "model_not_found", MODEL),
        (b"{", 400, "invalid_request", "JSON"),
        (b"\xff\xfe\x00", 400, "invalid_request", "UTF-8"),
        ({"model": MODEL}, 400, "invalid_request", "messages"),
        (question(images=["data:image/png;base64,"]), 400, "invalid_image", "0 bytes"),
        (question(images=["data:image/png;base64,%%%"]), 400, "invalid_image", "base64"),
        (question(images=["data:image/png;base64,aGVsbG8gd29ybGQ="]), 400, "invalid_image", "PNG"),
        (question(images=["http://169.254.169.254/"]), 400, "invalid_image", "inside the request"),
        (question(images=[bomb]), 413, "image_too_large", str(Limits().max_image_side)),
        (question(images=[image_url()] * 11), 400, "invalid_request", "10 images"),
    ]
    for body, status, code, words in cases:
        got, answer_headers, answer = await gateway.ask(body)
        assert got == status, answer
        assert_openai_error(answer, code)
        assert words in answer["error"]["message"]
        assert answer_headers["X-Request-ID"]
    assert first.seen == []


async def test_an_empty_body_is_refused(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first))
    status, _, body = await gateway.ask(b"")
    assert status == 400
    assert_openai_error(body, "invalid_request")


async def test_unknown_paths_and_methods_are_refused_in_openais_shape(gateway: Gateway) -> None:
    for method, path, status, code in [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("POST", "/test.phone/v1/chat/completions", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ]:
        async with gateway.session.request(method, gateway.url + path) as answer:
            assert answer.status == status
            assert_openai_error(await answer.json(), code)


async def test_models_are_listed_and_health_follows_the_servers(gateway: Gateway, first: FakeServer) -> None:
    async with gateway.session.get(f"{gateway.url}/health") as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert_openai_error(await answer.json(), "not_ready")
    await gateway.serve(route(first))
    async with gateway.session.get(f"{gateway.url}/v1/models") as answer:
        listing = await answer.json()
    assert listing["object"] == "list"
    assert [(model["id"], model["object"]) for model in listing["data"]] == [(MODEL, "model")]
    async with gateway.session.get(f"{gateway.url}/health") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("size", "words"), [(30_000_000, "at most 16777216"), (17_000_000, "at most 16777216")])
async def test_a_body_over_the_limit_is_refused_with_the_limit(
    gateway: Gateway, first: FakeServer, size: int, words: str
) -> None:
    await gateway.serve(route(first))
    status, _, body = await gateway.ask(b"x" * size)
    assert status == 413
    assert_openai_error(body, "body_too_large")
    assert words in body["error"]["message"]


@pytest.mark.parametrize("size", [30_000_000, 17_000_000])
async def test_a_body_over_the_limit_is_refused_when_its_length_was_not_announced(
    gateway: Gateway, first: FakeServer, size: int
) -> None:
    await gateway.serve(route(first))

    async def chunks() -> AsyncIterator[bytes]:
        text = json.dumps(question("x" * size)).encode()
        for start in range(0, len(text), 500_000):
            yield text[start : start + 500_000]

    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", data=chunks()) as answer:
        assert answer.status == 413
        assert_openai_error(await answer.json(), "body_too_large")
    assert first.seen == []


async def test_a_large_body_within_the_limit_arrives_whole(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first))
    body = question("é" * 7_000_000)
    status, _, _ = await gateway.ask(json.dumps(body, ensure_ascii=False).encode())
    assert status == 200
    assert json.loads(first.seen[-1].body) == body


async def test_a_client_that_sends_too_slowly_is_cut_off(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"timeout"' in answer.replace(b" ", b"")
    writer.close()


async def test_clients_cannot_speak_for_the_gateway(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    """No header of a client changes the pick, the limits or the retries, and its credentials stay at the gateway."""
    await gateway.serve(route(first, retries=0))
    spoofed = {
        headers.DESTINATION: second.address,
        headers.MAX_PIXELS: "999999999",
        headers.SITE: "spoofed",
        headers.TENANT: "spoofed",
        "x-autoglm-anything": "spoofed",
        "x-gateway-anything": "spoofed",
        "x-envoy-max-retries": "1000",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/spoofed",
        "x-forwarded-for": "6.6.6.6",
        "x-forwarded-host": "spoofed",
        headers.REQUEST_ID: "spoofed",
        "authorization": "Bearer EMPTY-spoofed",
        "cookie": "spoofed=1",
    }
    status, answer_headers, _ = await gateway.ask(question(images=[image_url(600, 600)]), headers=spoofed)
    assert status == 200
    assert answer_headers["X-Request-ID"] != "spoofed"
    assert second.seen == []
    arrived = {name.lower(): value for name, value in first.seen[-1].headers.items()}
    assert not [
        name for name, value in arrived.items() if "spoofed" in value or value in ("6.6.6.6", "999999999", "1000")
    ]
    assert arrived[headers.MAX_PIXELS] == str(600 * 600)
    assert arrived[headers.DESTINATION] == first.address
    assert len(arrived[headers.TENANT]) == 64


async def test_without_any_admitted_endpoint_the_answer_is_not_ready(gateway: Gateway, first: FakeServer) -> None:
    first.probes = False
    await gateway.push(route(first))
    status, answer_headers, body = await gateway.ask()
    assert (status, answer_headers["Retry-After"]) == (503, "5")
    assert_openai_error(body, "not_ready")
    assert first.seen == []


async def test_a_suspended_deployment_says_so(gateway: Gateway, first: FakeServer) -> None:
    await gateway.serve(route(first))
    await gateway.push(route(first, suspended=True))
    status, _, body = await gateway.ask()
    assert status == 503
    assert_openai_error(body, "not_ready")
    assert "suspended" in body["error"]["message"]


async def test_a_thin_link_lowers_the_resolution(gateway: Gateway, first: FakeServer, second: FakeServer) -> None:
    dynamic = ResolutionPolicy(mode="dynamic", min_short_side=480, max_short_side=1080)
    ends = (first.endpoint(bandwidth_bps=1e6, tier="edge"), second.endpoint(bandwidth_bps=1e8))
    await gateway.serve(route(first, second, policy="roundRobin", resolution=dynamic, endpoints=ends))
    shot = question(images=[image_url(1080, 2400)])
    sides = {}
    for _ in range(2):
        _, answer_headers, answer = await gateway.ask(shot)
        sides[answer["site"]] = int(answer_headers[headers.RESOLUTION])
    assert sides["first"] == 480
    assert sides["second"] > 900
    assert first.seen[-1].headers[headers.MAX_PIXELS] == str(480 * 1067)


async def test_measured_quality_moves_the_resolution_and_the_record_says_what_is_lost(
    gateway: Gateway, first: FakeServer, second: FakeServer
) -> None:
    rows = tuple(
        MeasuredQuality(kind="phone", short_side=side, right=n, samples=100)
        for side, n in ((480, 40), (720, 76), (1080, 80))
    )
    policy = ResolutionPolicy(mode="dynamic", min_short_side=480, max_short_side=1080, quality=rows, quality_floor=0.9)
    ends = (first.endpoint(bandwidth_bps=1e6), second.endpoint(bandwidth_bps=1e8))
    await gateway.serve(route(first, second, policy="roundRobin", resolution=policy, endpoints=ends))
    for _ in range(2):
        _, answer_headers, answer = await gateway.ask(question(images=[image_url(1080, 2400)]))
        if answer["site"] == "first":
            assert answer_headers[headers.RESOLUTION] == "720"
            record = await gateway.record(answer_headers["X-Request-ID"])
            assert (record["resolutionReason"], record["qualityBasis"]) == (
                "quality_floor",
                "phone measured, 100 tasks",
            )
            assert (record["expectedQuality"], record["expectedLoss"]) == pytest.approx((0.76, 0.04))
    assert first.seen[-1].headers[headers.MAX_PIXELS] == str(720 * 1600)


async def test_a_storm_of_clients_that_hang_up_leaves_no_work_counted(
    gateway: Gateway, first: FakeServer, second: FakeServer
) -> None:
    await gateway.serve(route(first, second))
    first.mode = second.mode = "hang"

    async def abandon(number: int) -> None:
        # Some hang up within the body, some while the server works.
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        body = json.dumps(question()).encode()
        cut = len(body) - 5 if number % 3 == 0 else len(body)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:cut])
        await writer.drain()
        if number % 3 == 1:
            await arrived.wait()
        if number % 2 == 0:
            linger = writer.get_extra_info("socket")
            linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del reader

    arrived = asyncio.Event()
    storm = [asyncio.create_task(abandon(number)) for number in range(120)]

    async def many_under_way() -> bool:
        return await gateway.metric("autoglm_gateway_in_flight") >= 30

    await gateway.until(many_under_way, "the storm is under way")
    arrived.set()
    await asyncio.gather(*storm)

    async def nothing_counted() -> bool:
        left = [
            await gateway.metric(name)
            for name in (
                "autoglm_gateway_in_flight",
                "autoglm_gateway_queued_work_seconds",
                "autoglm_gateway_requests_under_way",
            )
        ]
        return left == [0, 0, 0]

    await gateway.until(nothing_counted, "all counts are back at zero")
    first.mode = second.mode = "answer"
    first.released.set()
    second.released.set()
    assert (await gateway.ask())[0] == 200


async def test_a_dead_port_in_the_table_hurts_nobody(gateway: Gateway, first: FakeServer) -> None:
    """Endpoints that cannot be resolved, are no URL, or have nobody listening stay out; the others serve."""
    bad = [
        first.endpoint(site="unresolvable", url="http://no-such-host.invalid:8000/test.phone"),
        first.endpoint(site="no-url", url="::::"),
        first.endpoint(site="https", url="https://127.0.0.1/test.phone"),
        first.endpoint(site="nobody", url=f"http://127.0.0.1:{free_port()}/test.phone"),
    ]
    await gateway.serve(route(first, endpoints=(*bad, first.endpoint())), sites=1)
    for _ in range(5):
        assert (await gateway.ask())[2]["site"] == "first"

    async def explained() -> bool:
        found = {admission.site: admission for admission in (await gateway.report()).admissions}
        return all(found[site.site].state == "ProbeFailed" for site in bad) and (
            "resolved" in found["unresolvable"].message
            and "cannot be used" in found["https"].message
            and "cannot be reached" in found["nobody"].message
        )

    await gateway.until(explained, "each bad endpoint is explained")
    assert (await gateway.readiness())["probed"]
