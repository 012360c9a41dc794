"""Faults under steady traffic. Each test counts every request, and proves that its fault happened.

One deployment with two replicas, two gateways, two operators of which one leads. The rate is small, because two cores carry
clients, gateways, models, Kubernetes and Ray.
"""

import base64
import json
import os
import random
import signal
import stat
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.headers import SITE
from support.gateway import Gateway
from support.kubernetes import ControlPlane
from support.pictures import data_url, noise
from support.processes import wait_until
from support.ray import RayCluster
from support.traffic import Traffic, small_question
from support.whole_path import READY_S, WholePath

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

NAME, MODEL = "steady", "autoglm-steady"
RATE = 5.0
DOWN_MOST_S, BACK_MOST_S = 10.0, 10.0
"""Bounds for a machine on which ten other things run. The goals, 1 s and 2 s, are for a quiet one."""


@pytest.fixture(scope="module")
def path(
    api_server: ControlPlane, ray_head: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholePath]:
    whole = WholePath(api_server, ray_head, tmp_path_factory.mktemp("faults"), gateways=2)
    with whole.running(operators=2) as path:
        path.apply_deployment(NAME, MODEL, replicas=2)
        yield path


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


def test_a_killed_serve_controller_costs_no_request_and_takes_the_same_replicas_back(
    steady: WholePath, ray_head: RayCluster
) -> None:
    name = steady.application(NAME)
    before = _everything(ray_head, name)
    with traffic(steady) as load:
        load.wait_answered(20)
        _kill_controller(steady, ray_head)
        load.wait_answered(20)
        steady.wait(lambda: len(ray_head.serve_controllers()) == 1, "another controller is there")
        ray_head.wait_running(name)
        load.wait_answered(20)
    assert _everything(ray_head, name) == before, "nothing was made anew"
    load.account.expect_none_lost(60)


def test_what_is_asked_while_the_serve_controller_is_gone_is_deployed_once(
    steady: WholePath, ray_head: RayCluster
) -> None:
    name = steady.application(NAME)
    before = ray_head.replica_ids(name)
    seen: set[str] = set()

    def ready() -> bool:
        seen.update(ray_head.replica_ids(name))
        return steady.condition(NAME).get("status") == "True"

    with traffic(steady, rate=2.0) as load:
        load.wait_answered(5)
        queue = steady.deployment(NAME)["spec"].get("limits", {}).get("maxQueue", 64)
        _kill_controller(steady, ray_head)
        steady.patch(NAME, {"limits": {"maxQueue": queue + 1}})
        steady.wait(lambda: len(ray_head.serve_controllers()) == 1, "another controller is there")
        returned = time.monotonic()
        steady.wait(ready, "the new spec is Ready")
        live_s = time.monotonic() - returned
        steady.wait(lambda: not before & ray_head.replica_ids(name), "the old replicas are gone")
        load.wait_answered(5)
    print(f"the new spec was live {live_s:.1f} s after the controller had returned")
    assert ray_head.configs()[name]["args"]["limits"]["maxQueue"] == queue + 1
    assert len(before) == 2
    assert len(seen - before) == 2, "two replicas were made anew, each of them once"
    assert ray_head.replica_ids(name) == seen - before
    load.account.expect_none_lost(20)


def test_a_killed_serve_proxy_costs_no_request_where_another_site_serves_the_model(
    steady: WholePath, ray_head: RayCluster, tmp_path: Path
) -> None:
    ray = RayCluster(tmp_path / "ray")
    other = WholePath(steady.api, ray, tmp_path, gateways=0)
    other.namespace = steady.namespace
    both = {steady.site, other.site}
    question = small_question("autoglm-twice")
    try:
        ray.start()
        other.apply_site()
        steady.apply_deployment("twice", "autoglm-twice", sites={"names": sorted(both)})
        steady.wait_ready("twice")
        steady.wait(
            lambda: all(_answering(steady, question, each.url) == both for each in steady.gateways), "both answer"
        )
        with Traffic([each.url for each in steady.gateways], question, RATE) as load:
            load.wait_answered(20)
            (proxy,) = ray_head.serve_proxies()
            os.kill(proxy, signal.SIGKILL)
            killed = datetime.now(UTC)
            wait_until(lambda: not _admitted(steady), "the gateways know it", READY_S)
            load.wait_answered(40)
            asked = _first_asked(steady, ray_head, killed)
            direct = f"{ray_head.serve_address}/{steady.application('twice')}"
            wait_until(lambda: steady.answers(question, direct), "the new proxy answers", READY_S)
            recovered = time.monotonic()
            wait_until(lambda: _admitted(steady), "both gateways use it again", READY_S)
            back_s = time.monotonic() - recovered
            assert ray_head.serve_proxies() not in ([], [proxy]), "another proxy is there"
            steady.wait(lambda: _answering(steady, question, steady.url) == both, "both sites answer again")
            load.wait_answered(20)
        load.account.expect_none_lost(80)
        assert asked, "requests went there before it was known to be gone"
        print(f"asked first for {max(asked):.2f} s after it was gone, {len(asked)} times; back after {back_s:.2f} s")
        assert max(asked) <= DOWN_MOST_S
        assert back_s <= BACK_MOST_S
    finally:
        steady.kubectl("delete", "agd", "twice", "--ignore-not-found")
        steady.kubectl("delete", "ags", other.site, "--ignore-not-found", "--wait=false")
        ray.stop()


def _first_asked(steady: WholePath, ray_head: RayCluster, killed: datetime) -> list[float]:
    """For each request that a gateway wanted to send there first, how long after `killed` it came; without its end."""
    address = ray_head.serve_address.removeprefix("http://")
    records = [each for gateway in steady.gateways for each in _told(gateway, "/v1/requests?limit=1000")["requests"]]
    first = [each["arrivedAt"] for each in records if each["attemptsPlanned"][:1] == [address]]
    return [seconds for at in first if (seconds := (datetime.fromisoformat(at) - killed).total_seconds()) > 0]


def _admitted(steady: WholePath) -> bool:
    """Whether both gateways send requests for the second deployment to both sites."""
    name = f"{steady.namespace}/twice"
    found = [each for gateway in steady.gateways for each in _told(gateway, "/v1/report")["admissions"]]
    return [each["state"] for each in found if each["deployment"] == name] == ["Admitted"] * 4


def _told(gateway: Gateway, path: str) -> Any:
    request = urllib.request.Request(gateway.admin_url + path, headers={"authorization": f"Bearer {gateway.token}"})
    with urllib.request.urlopen(request, timeout=READY_S) as answer:
        return json.load(answer)


def _answering(steady: WholePath, question: dict[str, Any], url: str) -> set[str]:
    """The sites that answered one of eight requests."""
    answers = [steady.ask(question, url=url) for _ in range(8)]
    return {headers[SITE] for status, headers, _ in answers if status == 200}


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


def test_nothing_of_a_request_is_left_anywhere_although_replicas_died_over_it(
    steady: WholePath, ray_head: RayCluster
) -> None:
    name, word = steady.application(NAME), f"canary{random.getrandbits(64):x}"
    png = noise(random.Random(), 56, 112)
    ask = small_question(MODEL)
    ask["messages"][0]["content"] = [
        {"type": "image_url", "image_url": {"url": data_url(png)}},
        {"type": "text", "text": f"{word} " * 20},
    ]
    with Traffic([each.url for each in steady.gateways], ask, RATE) as load:
        load.wait_answered(20)
        killed = [ray_head.kill_replica(name)]
        load.wait_answered(20)
        steady.wait(lambda: len(ray_head.processes(name)) >= 2, "two replicas run")
        killed.append(ray_head.kill_replica(name))
        load.wait_answered(20)
    assert len(set(killed)) == 2
    load.account.expect_none_lost(60)
    for wrong in ({**ask, "temperature": word}, {**ask, "model": word}, {**ask, "max_tokens": 10**9}, {"prompt": word}):
        assert steady.ask(wrong)[0] in (400, 404)
    traces = [word.encode(), base64.b64encode(png)[40:80], png[60:90]]
    process_logs = [each.process.log for each in steady.gateways] + [each.process.log for each in steady.operators]
    folders = [ray_head.head.temp_dir, ray_head.head.state_dir, *(each.state_dir for each in steady.gateways)]
    files = [*process_logs, *(file for folder in folders if folder is not None for file in _files(folder))]
    assert len(files) > 50
    assert sum(file.stat().st_size for file in files) > 100_000
    assert _holding(files, traces) == []
    told = [
        steady.api.kubectl("get", "events,agd,ags", "-A", "-o", "yaml"),
        ray_head.prometheus(),
        str(ray_head.details()),
        *steady.metrics_pages(),
    ]
    assert all(len(text) > 1000 for text in told)
    assert not [text for text in told if any(trace.decode("latin-1") in text for trace in traces)]


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if stat.S_ISREG(each.lstat().st_mode)]


def _holding(files: Sequence[Path], traces: Sequence[bytes]) -> list[str]:
    found = []
    for file in files:
        content = file.read_bytes()
        found += [f"{file}: {trace!r}" for trace in traces if trace in content]
    return found


def _submitted(ray_head: RayCluster, name: str) -> str:
    return str(ray_head.configs()[name]["args"]["revision"])


def _everything(ray_head: RayCluster, name: str) -> list[set[int]]:
    """The processes of the application by deployment."""
    return [set(ray_head.processes(name, deployment)) for deployment in ("Engine", "Ingress")]


def _kill_controller(steady: WholePath, ray_head: RayCluster) -> None:
    """SIGKILL Serve's controller; Ray makes another."""
    (controller,) = ray_head.serve_controllers()
    os.kill(controller, signal.SIGKILL)
    steady.wait(lambda: controller not in ray_head.serve_controllers(), "the controller is gone")
