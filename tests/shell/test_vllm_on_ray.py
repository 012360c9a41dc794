"""The vLLM engine where it has to work in the end: in a replica of a Serve application."""

import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.model.tiny import build
from support.models import SYSTEM, engine_config, screenshot
from support.pictures import data_url
from support.processes import engine_cores, family, runs, title, wait_until
from support.ray import RayCluster, application

pytest.importorskip("vllm", reason="vLLM is an extra")

DEADLINE_S = 900.0


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(2000)
def test_a_replica_answers_with_vllm_and_takes_its_engine_along_when_it_is_killed(
    ray_head: RayCluster, tmp_path: Path
) -> None:
    build(tmp_path)
    app = application(engine_config(tmp_path, "vllm"))
    ray_head.deploy(app, wait=False)
    try:
        ray_head.wait_running(app["name"], DEADLINE_S)
        answer = _ask(f"{ray_head.serve_address}{app['route_prefix']}/v1/chat/completions")
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["prompt_tokens"] > 98
        assert answer["usage"]["completion_tokens"] > 0
        assert "replica ready" in _log(ray_head, app["name"]), "Serve's log ended when vLLM began"
        (replica,) = ray_head.processes(app["name"])
        engines = engine_cores(replica)
        assert engines, f"no engine core of vLLM below the replica: {[title(pid) for pid in family(replica)]}"
        ray_head.kill_replica(app["name"])
        wait_until(lambda: not any(runs(pid) for pid in engines), "the engine core has ended too")
    finally:
        ray_head.delete(app["name"])


def _log(ray_head: RayCluster, name: str) -> str:
    return "".join(path.read_text() for path in ray_head.serve_logs(f"replica_{name}_Engine_*.log"))


def _ask(url: str) -> Any:
    buffer = io.BytesIO()
    screenshot().save(buffer, "PNG")
    image = data_url(buffer.getvalue())
    body = {
        "model": "autoglm-tiny",
        "max_tokens": 8,
        "temperature": 0,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "打开设置"}],
            },
        ],
    }
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=DEADLINE_S) as response:
        return json.loads(response.read())
