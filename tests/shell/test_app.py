"""The application on a real Ray cluster: with the tiny model, and with an engine that is slow or fails on demand."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from autoglm_serving.config import EngineConfig, Limits
from support.pictures import data_url, picture, png_header
from support.processes import wait_until
from support.ray import DEADLINE_S, RayCluster, application
from support.serving import MODEL, app_config

URL = "messages[0].content[0].image_url.url"
RUNNING_AT_ONCE = 2
QUEUE = 4


@dataclass(frozen=True)
class App:
    """A deployed application. `url` has Serve's route prefix."""

    name: str
    url: str
    schema: dict[str, Any]

    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="EMPTY", max_retries=0, timeout=DEADLINE_S)


def deployed(ray_head: RayCluster, schema: dict[str, Any]) -> Iterator[App]:
    try:
        ray_head.deploy(schema)
        yield App(schema["name"], f"{ray_head.serve_address}{schema['route_prefix']}", schema)
    finally:
        ray_head.delete(schema["name"])


@pytest.fixture(scope="module")
def tiny(ray_head: RayCluster) -> Iterator[App]:
    """One replica of the real engine with the tiny model."""
    engine = EngineConfig(max_concurrency=2, max_model_len=4096)
    yield from deployed(ray_head, application(app_config(engine=engine, max_ongoing_requests=2)))


@pytest.fixture(scope="module")
def scripted(ray_head: RayCluster) -> Iterator[App]:
    """Two replicas of the scripted engine, each with two places, and a short queue."""
    config = app_config(max_ongoing_requests=RUNNING_AT_ONCE, limits=Limits(max_queue=QUEUE))
    yield from deployed(ray_head, application(config, replicas=2, scripted=True))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits, trust_env=False) as client:
        yield client


def chat(text: Any, **changes: Any) -> dict[str, Any]:
    content = json.dumps(text) if isinstance(text, dict) else text
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **changes}


def shot(url: str, text: str = "打开微信", **changes: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return chat(parts, **changes)


async def test_the_openai_client_gets_a_whole_answer_to_a_screenshot(tiny: App) -> None:
    answer = await tiny.openai().chat.completions.create(**shot(data_url(picture(180, 400)), max_tokens=8))
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.choices[0].message.content is not None
    assert "</answer>" not in answer.choices[0].message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 8
    details: Any = answer.usage.prompt_tokens_details
    assert 0 < details.image_tokens < answer.usage.prompt_tokens


async def test_the_openai_client_gets_a_stream_with_an_image_and_its_usage(tiny: App) -> None:
    stream = await tiny.openai().chat.completions.create(
        **shot(data_url(picture(180, 400, "JPEG"), "jpeg"), "把屏幕上的“微信”打开 😀", max_tokens=8),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] in (
        ["stop"],
        ["length"],
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 8


async def test_the_same_request_gets_the_same_answer_streamed_or_not(tiny: App) -> None:
    request = shot(data_url(picture(120, 240)), max_tokens=6, temperature=0)
    whole = await tiny.openai().chat.completions.create(**request)
    stream = await tiny.openai().chat.completions.create(**request, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


async def test_a_pixel_limit_from_the_gateway_makes_the_image_cost_less(tiny: App) -> None:
    counts = []
    for headers in ({}, {"x-autoglm-max-pixels": "30000"}):
        answer = await tiny.openai().chat.completions.create(
            **shot(data_url(picture(360, 800)), max_tokens=1), extra_headers=headers
        )
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    assert counts[1] < counts[0]


async def test_the_models_and_the_health_of_the_application(tiny: App, http: httpx.AsyncClient) -> None:
    assert [model.id async for model in tiny.openai().models.list()] == [MODEL]
    health = await http.get(f"{tiny.url}/health")
    assert (health.status_code, health.json()) == (200, {"revision": "rev-1"})
    assert health.headers["x-autoglm-revision"] == "rev-1"


async def test_prometheus_reads_what_replicas_and_routers_count(tiny: App, ray_head: RayCluster) -> None:
    """Through the agent of their node, which drops all where `opentelemetry/proto` is too old."""
    request = shot(data_url(picture(180, 400)), "设置", max_tokens=4)
    for _ in range(2):
        await tiny.openai().chat.completions.create(**request)
    told: dict[str, float] = {}
    counted = (
        "completion_tokens_total",
        "replica_choices_total",
        "cached_tokens_total",
        "cache_hits_total",
        "cache_bytes",
    )

    def arrived() -> bool:
        told.update(ray_head.metrics(tiny.name))
        return all(told.get(f"ray_autoglm_{name}", 0) > 0 for name in counted)

    await asyncio.to_thread(wait_until, arrived, "the metrics arrive", DEADLINE_S, poll=1.0)
    assert told["ray_autoglm_prompt_tokens_total"] > told["ray_autoglm_cached_tokens_total"]


async def test_the_request_id_of_the_gateway_comes_back(tiny: App, http: httpx.AsyncClient) -> None:
    answer = await http.post(
        f"{tiny.url}/v1/chat/completions", json=chat("hi", max_tokens=1), headers={"x-request-id": "req-77"}
    )
    assert answer.json()["id"] == "chatcmpl-req-77"
    assert answer.headers.get_list("x-request-id") == ["req-77"]


@pytest.mark.parametrize(
    ("request_body", "status", "code", "param"),
    [
        (chat("hi", model="other"), 404, "model_not_found", "model"),
        (chat("hi", n=2), 400, "invalid_request", "n"),
        (shot("https://example.com/a.png"), 400, "invalid_request", URL),
        (shot("file:///etc/passwd"), 400, "invalid_request", URL),
        (shot("data:image/png;base64,"), 400, "invalid_image", URL),
        (shot(data_url(b"no image")), 400, "invalid_image", URL),
        (shot(data_url(picture())[:-9] + "!!!!"), 400, "invalid_image", URL),
        (shot(data_url(picture()[:-60])), 400, "invalid_image", URL),
        (shot(data_url(png_header(60_000, 60_000))), 413, "image_too_large", URL),
        (chat("字" * 9000), 400, "context_length_exceeded", "messages"),
    ],
)
async def test_bad_requests_get_openais_errors(
    tiny: App, http: httpx.AsyncClient, request_body: dict[str, Any], status: int, code: str, param: str
) -> None:
    for stream in (False, True):
        answer = await http.post(f"{tiny.url}/v1/chat/completions", json={**request_body, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["param"] == param
        assert answer.headers["x-autoglm-revision"] == "rev-1"


async def test_a_30_mb_body_is_refused_and_the_client_reads_why(tiny: App, http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 1_000_000

    for content in (b"x" * 30_000_000, pieces()):
        answer = await http.post(f"{tiny.url}/v1/chat/completions", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_overload_is_answered_and_never_waits_forever(scripted: App, http: httpx.AsyncClient) -> None:
    body = chat({"tokens": 100, "pace": 0.05}, max_tokens=200)
    answers = await asyncio.gather(*[http.post(f"{scripted.url}/v1/chat/completions", json=body) for _ in range(24)])
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 2 * RUNNING_AT_ONCE
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [True, False])
async def test_clients_that_leave_free_their_places(scripted: App, http: httpx.AsyncClient, stream: bool) -> None:
    endless = chat({"tokens": 4000, "pace": 1.0}, max_tokens=4000, stream=stream)
    url = f"{scripted.url}/v1/chat/completions"
    leaving = [asyncio.create_task(_hold(url, endless)) for _ in range(2 * RUNNING_AT_ONCE)]
    if stream:
        await asyncio.gather(*leaving)  # each has read a token and left
    else:
        await _until_busy(http, url)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
    # Without the places that are free again, these would wait in the queue and be refused after a minute.
    for _ in range(2 * RUNNING_AT_ONCE):
        answer = await http.post(url, json=chat("anyone there?"))
        assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "echo: anyone there?")


async def _hold(url: str, body: dict[str, Any]) -> None:
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client,
        client.stream("POST", url, json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if '"content":"w0 ' in line:
                return
    raise AssertionError("the stream ended before its first token")


async def _until_busy(http: httpx.AsyncClient, url: str) -> None:
    """Until all places and the queue are taken: the next request is refused at once."""
    waiting: list[asyncio.Task[httpx.Response]] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not any(task.done() and task.result().status_code == 503 for task in waiting):
                waiting.append(asyncio.create_task(http.post(url, json=chat("one more"))))
                await asyncio.wait(waiting, timeout=0.2)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.faults
async def test_a_killed_replica_costs_no_whole_answer(
    scripted: App, ray_head: RayCluster, http: httpx.AsyncClient
) -> None:
    url = f"{scripted.url}/v1/chat/completions"
    body = chat({"tokens": 20, "pace": 0.05}, max_tokens=20)
    answers: list[httpx.Response] = []
    killed = asyncio.Event()

    async def client() -> None:
        after = 0
        while after < 4:
            answers.append(await http.post(url, json=body))
            after += killed.is_set()

    _wait_for_replicas(ray_head, scripted.name, 2)
    clients = [asyncio.create_task(client()) for _ in range(3)]
    async with asyncio.timeout(DEADLINE_S):
        while len(answers) < 6:
            await asyncio.sleep(0.05)
    pid = await asyncio.to_thread(ray_head.kill_replica, scripted.name)
    before = len(answers)
    killed.set()
    await asyncio.gather(*clients)
    assert pid not in ray_head.processes(scripted.name)
    assert len(answers) >= before + 12
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    whole = "".join(f"w{index} " for index in range(20))
    assert all(answer.json()["choices"][0]["message"]["content"] == whole for answer in answers)


@pytest.mark.faults
async def test_a_killed_replica_ends_its_streams_with_an_error_event(scripted: App, ray_head: RayCluster) -> None:
    _wait_for_replicas(ray_head, scripted.name, 2)
    url = f"{scripted.url}/v1/chat/completions"
    body = chat({"tokens": 200, "pace": 0.05}, max_tokens=200, stream=True, temperature=0)
    undisturbed = await _read(url, body)
    begun = [asyncio.Event() for _ in range(2 * RUNNING_AT_ONCE)]
    streams = [asyncio.create_task(_read(url, body, first)) for first in begun]
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*[first.wait() for first in begun])
    await asyncio.to_thread(ray_head.kill_replica, scripted.name)
    read = await asyncio.gather(*streams)
    broken = [each for each in read if each.end != "[DONE]"]
    assert len(broken) == RUNNING_AT_ONCE
    for each in read:
        each.expect_end()
        assert each.tokens == undisturbed.tokens[: len(each.tokens)], "none is doubled, none left out"
    assert all(each.tokens == undisturbed.tokens for each in read if each not in broken)
    assert undisturbed.tokens == [f"w{index}" for index in range(200)]


@pytest.mark.faults
async def test_a_killed_replica_costs_no_stream_that_has_no_token_yet(
    scripted: App, ray_head: RayCluster, tmp_path: Path
) -> None:
    """All places of both replicas are taken when one dies. What it had is begun again at the other one, once."""
    _wait_for_replicas(ray_head, scripted.name, 2)
    url = f"{scripted.url}/v1/chat/completions"
    body = chat({"tokens": 20, "gate": str(tmp_path)}, max_tokens=20, stream=True, temperature=0)
    streams = [asyncio.create_task(_read(url, body)) for _ in range(2 * RUNNING_AT_ONCE)]

    def begun() -> int:
        return len(list(tmp_path.glob("begun-*")))

    await asyncio.to_thread(wait_until, lambda: begun() == 2 * RUNNING_AT_ONCE, "all have begun", DEADLINE_S)
    await asyncio.to_thread(ray_head.kill_replica, scripted.name)
    assert not any(each.done() for each in streams)
    (tmp_path / "open").touch()
    read = await asyncio.gather(*streams)
    assert begun() == 3 * RUNNING_AT_ONCE, "those of the killed replica have begun twice"
    for each in read:
        each.expect_end()
        assert each.end == "[DONE]"
        assert each.tokens == [f"w{index}" for index in range(20)]


@dataclass(frozen=True)
class Stream:
    """What a client read of one streamed answer: its events without `data: `."""

    events: list[str]

    @property
    def end(self) -> str:
        return self.events[-1]

    @property
    def tokens(self) -> list[str]:
        """Of the whole text: an event may have several."""
        choices = [choice for each in self.events[:-1] for choice in json.loads(each)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices).split()

    def expect_end(self) -> None:
        """Fails unless there is one end, and it is [DONE] after a reason to finish, or an error that can be read."""
        others = [json.loads(each) for each in self.events[:-1]]
        assert all(each["object"] == "chat.completion.chunk" and "error" not in each for each in others)
        reasons = [choice["finish_reason"] for each in others for choice in each["choices"] if choice["finish_reason"]]
        if self.end == "[DONE]":
            assert len(reasons) == 1
        else:
            assert not reasons
            told = json.loads(self.end)
            assert set(told) == {"error"}
            assert told["error"]["code"] == "upstream_failed"
            assert told["error"]["message"]


async def _read(url: str, body: dict[str, Any], first: asyncio.Event | None = None) -> Stream:
    """The whole stream; `first` is set once it has a token."""
    lines = []
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client,
        client.stream("POST", url, json=body) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            lines.append(line)
            if first is not None and '"content":"w0 ' in line:
                first.set()
    assert all(line.startswith("data: ") for line in lines if line)
    return Stream([line.removeprefix("data: ") for line in lines if line])


@pytest.mark.faults
async def test_replicas_whose_engines_die_are_replaced_and_a_deadly_request_is_given_up(
    scripted: App, ray_head: RayCluster, http: httpx.AsyncClient
) -> None:
    _wait_for_replicas(ray_head, scripted.name, 2)
    before = set(ray_head.running_replicas(scripted.name))
    url = f"{scripted.url}/v1/chat/completions"
    answer = await http.post(url, json=chat({"tokens": 3, "fault": "dead", "after": 1}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")  # after both replicas
    ray_head.wait_for(
        scripted.name,
        lambda _: len(set(ray_head.running_replicas(scripted.name)) - before) == 2,
        "has two new replicas",
    )
    assert (await http.post(url, json=chat("again"))).status_code == 200


async def test_scaling_adds_replicas_and_restarts_none(scripted: App, ray_head: RayCluster) -> None:
    _wait_for_replicas(ray_head, scripted.name, 2)
    before = set(ray_head.running_replicas(scripted.name))
    scaled = {**scripted.schema, "deployments": [{"name": "Engine", "num_replicas": 3}]}
    ray_head.deploy(scaled)
    _wait_for_replicas(ray_head, scripted.name, 3)
    assert before < set(ray_head.running_replicas(scripted.name))
    ray_head.deploy(scripted.schema)
    _wait_for_replicas(ray_head, scripted.name, 2)


async def test_a_web_proxy_in_the_environment_is_not_asked_for_the_way_to_replicas(
    ray_head: RayCluster, http: httpx.AsyncClient
) -> None:
    schema = application(app_config(), scripted=True)
    schema["runtime_env"]["env_vars"] |= dict.fromkeys(
        ("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9"
    )
    for app in deployed(ray_head, schema):
        answer = await http.post(f"{app.url}/v1/chat/completions", json=chat("anyone there?"))
        assert answer.status_code == 200


def test_a_missing_model_is_named_in_one_line_after_few_tries(ray_head: RayCluster) -> None:
    missing = app_config(model={"name": MODEL, "uri": "file:///missing"})
    schema = application(missing, scripted=True)
    try:
        ray_head.deploy(schema, wait=False)
        app = ray_head.wait_for(
            schema["name"], lambda app: app is not None and app["status"] == "DEPLOY_FAILED", "is DEPLOY_FAILED"
        )
        assert app is not None
        message = app["deployments"]["Engine"]["message"]
        assert "failed to start 3 times" in message
        assert (
            message.rstrip().splitlines()[-1].endswith("ModelUnavailable: ModelNotFound: there is no folder /missing")
        )
    finally:
        ray_head.delete(schema["name"])


def _wait_for_replicas(ray_head: RayCluster, name: str, count: int) -> None:
    ray_head.wait_for(name, lambda _: len(ray_head.running_replicas(name)) == count, f"has {count} running replicas")
