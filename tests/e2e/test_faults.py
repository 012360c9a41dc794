"""Faults under steady traffic. Each test counts every request, and proves that its fault happened.

One deployment with two replicas, two gateways, two operators of which one leads. The rate is small, because two cores carry
clients, gateways, models, Kubernetes and Ray.
"""

import time
from collections.abc import Iterator

import pytest

from support.kubernetes import ControlPlane
from support.ray import RayCluster
from support.traffic import Traffic, small_question
from support.whole_path import WholePath

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

NAME, MODEL = "steady", "autoglm-steady"
RATE = 5.0


@pytest.fixture(scope="module")
def path(
    api_server: ControlPlane, ray_head: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholePath]:
    path = WholePath(api_server, ray_head, tmp_path_factory.mktemp("faults"), gateways=2)
    try:
        path.open(operators=2)
        path.apply_deployment(NAME, MODEL, replicas=2)
        yield path
    finally:
        path.close()


@pytest.fixture
def steady(path: WholePath) -> WholePath:
    """Everything runs, whatever the test before has done."""
    path.api.heal()
    for gateway in path.gateways:
        if not gateway.process.running:
            gateway.process.start()
    for operator in path.operators:
        operator.process.resume()
        if not operator.process.running:
            operator.start()
    path.wait_ready(NAME)
    question = small_question(MODEL)
    path.wait(lambda: all(path.answers(question, each.url) for each in path.gateways), "both gateways answer")
    return path


def traffic(path: WholePath, *, rate: float = RATE, retries: int = 0, gateways: int = 2) -> Traffic:
    return Traffic([each.url for each in path.gateways[:gateways]], small_question(MODEL), rate, retries)


def test_killed_replicas_cost_no_request(steady: WholePath, ray_head: RayCluster) -> None:
    name = steady.application(NAME)
    killed = []
    with traffic(steady) as load:
        load.wait_answered(20)
        for _ in range(3):
            steady.wait(lambda: len(ray_head.processes(name)) >= 2, "two replicas run")
            killed.append(ray_head.kill_replica(name))
            load.wait_answered(20)
    assert len(set(killed)) == 3
    load.account.expect_none_lost(80)


def test_replicas_that_go_and_come_under_load_cost_no_request(steady: WholePath, ray_head: RayCluster) -> None:
    name = steady.application(NAME)
    ended: set[int] = set()
    with traffic(steady) as load:
        load.wait_answered(20)
        for _ in range(3):
            before = set(ray_head.processes(name))
            steady.patch(NAME, {"replicas": 1})
            steady.wait(lambda: len(ray_head.processes(name)) == 1, "one replica runs")
            ended |= before - set(ray_head.processes(name))
            load.wait_answered(20)
            steady.patch(NAME, {"replicas": 2})
            steady.wait(lambda: len(ray_head.processes(name)) == 2, "two replicas run")
            load.wait_answered(20)
    assert len(ended) == 3, "each time one was taken away"
    load.account.expect_none_lost(140)


def test_a_gateway_that_is_told_to_stop_finishes_what_it_has(steady: WholePath) -> None:
    process = steady.gateways[1].process
    with traffic(steady) as load:
        load.wait_answered(20)
        process.terminate(grace=60.0)
        assert process.returncode == 0, "it ended by itself, within its grace"
        load.wait_answered(20)
    load.account.expect_none_lost(40)
    assert not load.account.failed_attempts, "no request under way was cut off"


def test_a_killed_gateway_costs_only_what_it_had_under_way(steady: WholePath) -> None:
    process = steady.gateways[1].process
    with traffic(steady, retries=1) as load:
        load.wait_answered(20)
        process.kill()
        assert not process.running
        at = time.monotonic()
        load.wait_answered(20)
    load.account.expect_none_lost(40)
    late = load.account.between(at + 1.0, time.monotonic())
    assert not late.failed_attempts, "the dead gateway is passed over"


def test_a_leader_killed_in_a_rollout_is_replaced_and_the_rollout_ends(steady: WholePath, ray_head: RayCluster) -> None:
    name = steady.application(NAME)
    before = steady.deployment(NAME)["status"]["revision"]
    leader = steady.leader()
    with traffic(steady, rate=2.0) as load:
        load.wait_answered(5)
        concurrency = steady.deployment(NAME)["spec"].get("engine", {}).get("maxConcurrency", 4)
        steady.patch(NAME, {"engine": {"maxConcurrency": concurrency + 1}})
        steady.wait(lambda: _submitted(ray_head, name) != before, "the new revision was submitted")
        leader.process.kill()
        assert not leader.process.running
        assert steady.leader() is not leader
        steady.wait_ready(NAME)
        load.wait_answered(5)
    assert steady.deployment(NAME)["status"]["revision"] == _submitted(ray_head, name) != before
    assert [each for each in ray_head.configs() if each.startswith(f"{steady.namespace}.")] == [name]
    load.account.expect_none_lost(20)


def test_without_any_operator_requests_go_on_and_a_deletion_waits(steady: WholePath, ray_head: RayCluster) -> None:
    steady.apply_deployment("leaving", "autoglm-leaving")
    steady.wait_ready("leaving")
    for operator in steady.operators:
        operator.process.kill()
    with traffic(steady) as load:
        steady.kubectl("delete", "agd", "leaving", "--wait=false")
        load.wait_answered(60)
        assert not any(operator.process.running for operator in steady.operators)
        assert steady.api.exists("agd", "leaving", steady.namespace), "it waits for an operator"
        steady.operators[0].start()
        steady.wait(lambda: not steady.api.exists("agd", "leaving", steady.namespace), "the deletion ended")
        ray_head.wait_for(steady.application("leaving"), lambda app: app is None, "is gone")
    load.account.expect_none_lost(60)


def test_a_lost_api_server_and_a_frozen_etcd_cost_no_request(steady: WholePath) -> None:
    with traffic(steady) as load:
        for _ in range(2):
            steady.api.kill_apiserver()
            assert not steady.api.apiserver.running
            load.wait_answered(20)
            steady.api.restart_apiserver()
        steady.api.etcd.pause()
        load.wait_answered(50)
        steady.api.etcd.resume()
        steady.patch(NAME, {"routing": {"retries": 2 + int(time.time()) % 2}})
        steady.wait_ready(NAME)
    load.account.expect_none_lost(90)


def test_a_killed_ray_head_gets_its_application_back(steady: WholePath, ray_head: RayCluster) -> None:
    uid = steady.deployment(NAME)["metadata"]["uid"]
    pid = ray_head.head.pid
    ray_head.kill()
    assert not ray_head.head.running
    steady.wait(lambda: steady.condition(NAME).get("status") != "True", "what is gone is not called Ready")
    ray_head.start()
    assert ray_head.head.pid != pid
    steady.wait_ready(NAME)
    assert ray_head.configs()[steady.application(NAME)]["args"]["uid"] == uid
    with traffic(steady) as load:
        load.wait_answered(20)
    load.account.expect_none_lost(20)


def _submitted(ray_head: RayCluster, name: str) -> str:
    return str(ray_head.configs()[name]["args"]["revision"])
