"""The head of a Ray cluster is lost for a while: its worker serves on, and all is as it was when the head comes back."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.kubernetes import ControlPlane
from support.processes import Process
from support.ray_nodes import TwoNodes, can_make_nodes
from support.traffic import Traffic, small_question
from support.whole_path import WholePath

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not can_make_nodes(), reason="nodes with networks of their own need root and ip"),
]

NAME, MODEL = "lasting", "autoglm-lasting"
RATE = 3.0
AWAY_S = 20.0


@dataclass(frozen=True)
class State:
    """What must be the same afterwards."""

    replicas: dict[str, set[str]]
    processes: dict[str, set[int]]
    config: dict[str, Any]
    deployed_at: float
    revision: str


def test_a_head_that_is_lost_for_a_while_costs_no_request_and_nothing_is_deployed_anew(
    api_server: ControlPlane, tmp_path: Path
) -> None:
    ray = TwoNodes(tmp_path / "ray")
    whole = WholePath(api_server, ray, tmp_path)
    try:
        ray.start()
        with whole.running():
            whole.apply_deployment(NAME, MODEL, replicas=2)
            whole.wait_ready(NAME)
            assert ray.on_head(whole.application(NAME)) == [], "a head is no place for what serves"
            for hogs in (0, 2):
                _lose_head(whole, ray, hogs, tmp_path)
    finally:
        ray.stop()


def _lose_head(whole: WholePath, ray: TwoNodes, hogs: int, tmp_path: Path) -> None:
    name = whole.application(NAME)
    before = _state(whole, ray, name)
    assert {kind: len(found) for kind, found in before.processes.items()} == {"Engine": 2, "Ingress": 2}
    with Traffic([whole.url], small_question(MODEL), RATE, most=8) as load:
        load.wait_answered(20)
        old = ray.head.pid
        ray.kill()
        gone = time.monotonic()
        assert not ray.head.running
        while time.monotonic() < gone + AWAY_S:
            load.wait_answered(5)
        with _busy(hogs, tmp_path):
            ray.start()
            ray.wait_running(name)
        back = time.monotonic()
        assert ray.head.pid != old
        whole.wait_ready(NAME)
        load.wait_answered(20)
    away = load.account.between(gone, back)
    print(f"{hogs} hogs: the head was away for {back - gone:.0f} s, in which {len(away.outcomes)} requests were sent")
    away.expect_none_lost(20)
    load.account.expect_none_lost(60)
    assert _state(whole, ray, name) == before


def _state(whole: WholePath, ray: TwoNodes, name: str) -> State:
    deployments = ("Engine", "Ingress")
    details = ray.details()["applications"][name]
    return State(
        {each: set(ray.running_replicas(name, each)) for each in deployments},
        {each: set(ray.processes(name, each)) for each in deployments},
        details["deployed_app_config"],
        details["last_deployed_time_s"],
        whole.deployment(NAME)["status"]["revision"],
    )


@contextmanager
def _busy(count: int, tmp_path: Path) -> Iterator[None]:
    """So many processes that want a core each."""
    with ExitStack() as stack:
        for number in range(count):
            stack.enter_context(Process("hog", ["sh", "-c", "while :; do :; done"], log=tmp_path / f"hog-{number}"))
        yield
