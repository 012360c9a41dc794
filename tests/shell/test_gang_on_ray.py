"""A gang where it lives: a replica of a Serve application whose ranks are actors of one placement group."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.model.tiny import build
from support.gangs import gang_config
from support.processes import wait_until
from support.ray import RayCluster, application

DEADLINE_S = 400.0
ASKED = {
    "model": "autoglm-tiny",
    "max_tokens": 8,
    "temperature": 0,
    "messages": [{"role": "user", "content": "打开设置 open settings"}],
}


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_lost_rank_takes_its_replica_with_it_and_a_whole_gang_comes_back(
    ray_head: RayCluster, tmp_path: Path
) -> None:
    build(tmp_path)
    app = application(gang_config(tmp_path))
    name, url = app["name"], f"{ray_head.serve_address}{app['route_prefix']}/v1/chat/completions"
    ray_head.deploy(app, wait=False)
    try:
        ray_head.wait_running(name, DEADLINE_S)
        before = _ask(url)
        (replica,) = ray_head.running_replicas(name)
        (process,) = ray_head.processes(name)
        (rank,) = ray_head.actors("RankActor.run")
        os.kill(rank, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{process}").exists(), "the replica of the lost rank has ended", DEADLINE_S)
        wait_until(lambda: _others(ray_head, name, replica), "another replica is running", DEADLINE_S)
        assert replica not in ray_head.running_replicas(name)
        (other,) = ray_head.actors("RankActor.run")
        assert other != rank
        assert _ask(url) == before
    finally:
        ray_head.delete(name)
    wait_until(lambda: not ray_head.actors("RankActor.run"), "no rank stays behind", DEADLINE_S)


def _others(ray_head: RayCluster, name: str, replica: str) -> bool:
    return any(each != replica for each in ray_head.running_replicas(name))


def _ask(url: str) -> Any:
    request = urllib.request.Request(
        url, json.dumps(ASKED).encode(), {"content-type": "application/json"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=DEADLINE_S) as response:
        return json.loads(response.read())["choices"]
