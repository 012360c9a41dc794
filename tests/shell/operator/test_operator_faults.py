"""What breaks the operator itself, its rival or its API server, and what follows."""

import time

import pytest

from support.operator import World

pytestmark = pytest.mark.faults


def test_an_operator_killed_between_the_write_and_the_status_is_replaced_without_harm(empty_world: World) -> None:
    world = empty_world
    operator = world.operator("first")
    killed: list[bool] = []

    def kill() -> None:
        if not killed:
            operator.process.kill()
            killed.append(True)

    world.ray.after_put = kill
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: bool(killed), "the operator was killed in the middle of a pass")
    assert not operator.process.running
    assert not world.is_ready()
    puts = len(world.ray.puts)

    world.operator("second")

    world.wait_ready()
    assert len(world.ray.puts) == puts, "what is there already is not written again"


def test_an_api_server_that_restarts_is_waited_for(empty_world: World) -> None:
    world = empty_world
    operator = world.operator("only")
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    puts = len(world.ray.puts)

    world.api.kill_apiserver()
    world.ray.remove(world.application())
    world.api.restart_apiserver()
    world.apply_deployment(replicas=2)

    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 2, "the change was carried out")
    world.wait_ready()
    assert len(world.ray.puts) > puts
    assert operator.process.running


def test_the_second_operator_takes_over_when_the_leader_is_killed(empty_world: World) -> None:
    world = empty_world
    first = world.operator("first")
    world.wait(lambda: first.role() == "leading", "the first leads")
    second = world.operator("second")
    assert second.role() == "standing by"
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    epoch, tables = world.gateway.tables[-1].epoch, len(world.gateway.tables)

    first.process.kill()
    world.apply_deployment(replicas=2)

    world.wait(lambda: second.role() == "leading", "the second leads")
    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 2, "the change was carried out")
    world.wait(lambda: world.gateway.tables[-1].epoch > epoch, "the gateway has a table of the new leader")
    assert all(table.routes for table in world.gateway.tables[tables:]), "no table ever dropped what was served"


def test_a_leader_that_ends_hands_over_at_once(empty_world: World) -> None:
    world = empty_world
    first = world.operator("first")
    world.wait(lambda: first.role() == "leading", "the first leads")
    second = world.operator("second")
    started = time.monotonic()

    first.process.terminate(grace=60)

    assert first.process.returncode == 0, first.process.log_tail()
    assert time.monotonic() - started < 60
    world.wait(lambda: second.role() == "leading", "the second leads")
    assert any(entry["message"] == "ended" for entry in first.log_entries())


def test_a_frozen_leader_writes_nothing_when_it_wakes(empty_world: World) -> None:
    world = empty_world
    first = world.operator("first")
    world.wait(lambda: first.role() == "leading", "the first leads")
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    second = world.operator("second")
    first.process.pause()
    world.wait(lambda: second.role() == "leading", "the second leads")
    world.wait_ready()
    # What the first one knows is now wrong: it would want to undo this.
    world.apply_deployment(replicas=3)
    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 3, "the second carried it out")
    world.wait_ready()
    puts, tables = len(world.ray.puts), len(world.gateway.tables)
    stored = world.deployment()
    patches = 'autoglm_operator_kubernetes_request_seconds_count{method="PATCH",outcome="200"}'

    first.process.resume()
    world.wait(lambda: first.role() == "standing by", "the first knows that it does not lead")
    written = first.metric(patches)
    world.ray.remove(world.application())
    world.wait(lambda: world.ray.config(world.application()) is not None, "the leader repaired what was removed")
    world.wait_ready()

    assert first.process.running
    assert first.role() == "standing by"
    assert first.metric("autoglm_operator_leader") == 0
    assert first.metric(patches) == written
    assert second.role() == "leading"
    assert len(world.ray.puts) == puts + 1, "one writer wrote once"
    assert {table.epoch for table in world.gateway.tables[tables:]} <= {world.gateway.tables[-1].epoch}
    assert (world.deployment() or {})["spec"] == (stored or {})["spec"]


def test_an_unreachable_gateway_is_told_and_nothing_is_called_ready(empty_world: World) -> None:
    world = empty_world
    world.gateway.stop()
    world.operator("only")
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("SitesReady")[0] == "True", "the site is ready")
    world.wait(lambda: world.condition("GatewayReady")[1] == "GatewayUnreachable", "the gateway is not")
    assert world.condition("Ready")[0] != "True"

    world.gateway.start()

    world.wait_ready()
