"""Encoders on a real Ray cluster: the same tokens through them, without them, and while they are away."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from autoglm_serving.config import AppConfig, EncoderConfig, EngineConfig, Worker
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import GenerateRequest, ImagePart, Message, TextPart
from support.pictures import data_url, picture
from support.processes import wait_until
from support.ray import DEADLINE_S, RayCluster, application
from support.serving import MODEL, app_config

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1200)]

TEXT = "打开微信"
NEW_TOKENS = 16
SCREENS = (picture(180, 400), picture(200, 300))
START_S = 500.0
"""Three processes that load torch, one after the other on a busy machine."""
TENANT = "x-autoglm-tenant"


def config(wait_s: float) -> AppConfig:
    encoder = EncoderConfig(wait_s=wait_s, worker=Worker(cpus=0.5))
    engine = EngineConfig(max_concurrency=2, max_model_len=4096)
    return app_config(engine=engine, max_ongoing_requests=2, encoder=encoder)


@pytest.fixture(scope="module")
def app(ray_head: RayCluster) -> Iterator[dict[str, Any]]:
    with running(ray_head, wait_s=60) as schema:
        yield schema


@contextmanager
def running(ray_head: RayCluster, wait_s: float) -> Iterator[dict[str, Any]]:
    """An application with one engine replica, which waits so long for its one encoder."""
    schema = application(config(wait_s))
    try:
        ray_head.deploy(schema, wait=False)
        ray_head.wait_running(schema["name"], START_S)
        yield schema
    finally:
        ray_head.delete(schema["name"])


def ask(ray_head: RayCluster, schema: dict[str, Any], screen: bytes, tenant: str) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": data_url(screen)}}, {"type": "text", "text": TEXT}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": NEW_TOKENS}
    url = f"{ray_head.serve_address}{schema['route_prefix']}/v1/chat/completions"
    return httpx.post(
        url, json={**body, "temperature": 0}, headers={TENANT: tenant}, timeout=DEADLINE_S, trust_env=False
    )


def told(answer: httpx.Response) -> tuple[str, int]:
    """The text of an answer, and the tokens of its prompt."""
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"], answer.json()["usage"]["prompt_tokens"]


def encoded(ray_head: RayCluster, schema: dict[str, Any]) -> list[int]:
    """Tokens of the images that encoders have computed, by their logs."""
    folder = ray_head.head.temp_dir
    assert folder is not None
    logs = folder.glob(f"**/logs/serve/replica_{schema['name']}_Encoder_*.log")
    lines = [line for path in {log.resolve() for log in logs} for line in path.read_text().splitlines()]
    return [json.loads(line)["image_tokens"] for line in lines if '"image encoded"' in line]


async def expected(screen: bytes, folder: Path) -> tuple[str, int]:
    """What an engine without encoders says, in this process."""
    path = folder / "screen.png"
    path.write_bytes(screen)
    parts = (ImagePart(Image.open(path).convert("RGB")), TextPart(TEXT))
    engine = create_engine(app_config(engine=EngineConfig(max_concurrency=2, max_model_len=4096)))
    await engine.start()
    try:
        request = GenerateRequest("alone", (Message("user", parts),), NEW_TOKENS)
        deltas = [delta async for delta in engine.generate(request)]
    finally:
        await engine.close()
    return "".join(delta.text for delta in deltas), deltas[-1].prompt_tokens


async def test_answers_are_the_same_with_encoders_and_without(
    ray_head: RayCluster, app: dict[str, Any], tmp_path: Path
) -> None:
    before = len(encoded(ray_head, app))
    answers = [told(ask(ray_head, app, screen, "one")) for screen in SCREENS]
    assert answers == [await expected(screen, tmp_path) for screen in SCREENS]
    assert answers[0] != answers[1]
    wait_until(lambda: len(encoded(ray_head, app)) == before + 2, "the encoder has told of both images")


def test_each_tenant_has_its_images_encoded_anew_and_once(ray_head: RayCluster, app: dict[str, Any]) -> None:
    before = len(encoded(ray_head, app))
    for tenant in ("two", "two", "three"):
        ask(ray_head, app, SCREENS[0], tenant).raise_for_status()
    wait_until(lambda: len(encoded(ray_head, app)) == before + 2, "the encoder has told of both tenants' image")


def test_a_damaged_image_is_refused_by_the_encoder(ray_head: RayCluster, app: dict[str, Any]) -> None:
    answer = ask(ray_head, app, SCREENS[0][:-60], "one")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
    assert answer.json()["error"]["param"] == "messages[0].content[0].image_url.url"


def test_without_its_encoder_a_replica_says_the_same_by_itself(ray_head: RayCluster) -> None:
    with running(ray_head, wait_s=1) as alone:
        before = told(ask(ray_head, alone, SCREENS[0], "one"))
        ray_head.kill_replica(alone["name"], "Encoder")
        assert told(ask(ray_head, alone, SCREENS[0], "four")) == before
