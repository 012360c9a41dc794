"""Encoders on a real Ray cluster follow the image tokens that arrive, upwards and downwards."""

import random
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from autoglm_serving.config import EncoderConfig
from support.pictures import noise
from support.processes import wait_until
from support.ray import DEADLINE_S, TESTS, RayCluster, unique_name
from support.serving import app_config

MOST = 3
TOKENS_PER_S = 20


@pytest.fixture
def app(ray_head: RayCluster) -> Iterator[dict[str, Any]]:
    encoder = EncoderConfig(min_replicas=1, max_replicas=MOST, tokens_per_s=TOKENS_PER_S)
    name = unique_name()
    schema = {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "support.encoder_app:build",
        "args": app_config(encoder=encoder).model_dump(mode="json", by_alias=True),
        "runtime_env": {"env_vars": {"PYTHONPATH": str(TESTS)}},
    }
    try:
        ray_head.deploy(schema)
        yield schema
    finally:
        ray_head.delete(name)


def test_there_are_more_encoders_under_image_tokens_and_fewer_when_they_stop(
    ray_head: RayCluster, app: dict[str, Any]
) -> None:
    url = f"{ray_head.serve_address}{app['route_prefix']}/"
    rng = random.Random(1)

    def encoders() -> int:
        return len(ray_head.running_replicas(app["name"], "Encoder"))

    def asked_once_more() -> int:
        answer = httpx.post(url, content=noise(rng, 280, 560), timeout=DEADLINE_S, trust_env=False)
        assert answer.json() == {"tokens": 200}
        return encoders()

    assert encoders() == 1
    # One client asks for one picture after the other: by requests at a time there would never be a second encoder.
    wait_until(lambda: asked_once_more() == MOST, "there are as many encoders as there may be", DEADLINE_S)
    wait_until(lambda: encoders() == 1, "one encoder is left", DEADLINE_S)
    assert asked_once_more() == 1
