"""What breaks and what follows: Ray clusters, tokens, the operator itself, the API server, the gateway."""

import time

import pytest

from support.fake_ray import FakeRay
from support.operator import World

pytestmark = pytest.mark.faults


def test_a_wrong_token_is_told_and_a_corrected_secret_works(world: World) -> None:
    operator = world.operator()
    world.ray.token = "another-token"
    world.apply_site()
    world.ray.token = "right-token"
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "Unauthorized"), "the site says so")
    world.wait(lambda: world.condition("SitesReady")[1] == "Unauthorized", "the deployment says so")
    assert world.condition("Ready")[0] == "False"
    assert not world.ray.puts

    world.apply_site()

    world.wait_ready()
    log = operator.process.log_text()
    assert "another-token" not in log
    assert "right-token" not in log


def test_a_missing_secret_is_told(world: World) -> None:
    world.operator()
    world.apply_site()
    world.api.kubectl("delete", "secret", world.site, "-n", world.namespace)
    world.wait(lambda: world.condition("Connected")[0] != "", "the site was looked at")
    world.ray.token = "rotated"
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "SecretMissing"), "the site says so")
    assert world.site in world.condition("Connected")[2]


def test_an_open_cluster_is_refused(world: World) -> None:
    world.operator()
    world.ray.token = None
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "OpenCluster"), "the site says so")
    world.wait(lambda: world.condition("Ready")[0] == "False", "the deployment is not ready")
    assert not world.ray.puts
    assert all(request.token is None for request in world.ray.requests)


def test_an_unreachable_cluster_is_told_and_used_when_it_is_back(world: World) -> None:
    world.operator()
    world.ray.stop()
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "Unreachable"), "the site says so")
    world.wait(lambda: world.condition("Ready")[0] == "False", "the deployment is not ready")

    world.ray.start()

    world.wait_ready()
    assert world.condition("Connected")[0] == "True"


@pytest.mark.parametrize("fault", ["error", "garbage"])
def test_a_cluster_that_fails_is_told_and_used_when_it_recovers(world: World, fault: str) -> None:
    operator = world.operator()
    world.ray.fault = "error" if fault == "error" else "garbage"
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[0] == "False", "the site says so")
    assert "internal-secret-path" not in world.condition("Connected")[2]

    world.ray.fault = None

    world.wait_ready()
    assert operator.process.running


def test_a_head_that_lost_its_memory_gets_its_application_again(world: World) -> None:
    world.operator()
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()

    world.ray.restart()

    world.wait(lambda: world.ray.config(world.application()) is not None, "the application is there again")
    world.wait_ready()


def test_a_configuration_that_ray_refuses_is_told_with_rays_words(world: World) -> None:
    world.operator()
    world.ray.refuse_config = "ValidationError: Serve says no"
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: "Serve says no" in world.condition("SitesReady")[2], "the deployment has Ray's words")
    assert world.condition("Ready")[0] == "False"

    world.ray.refuse_config = None

    world.wait_ready()


def test_deleting_while_the_cluster_is_unreachable_ends_at_the_deadline(world: World) -> None:
    world.operator()
    world.apply_site()
    world.apply_deployment(deletionDeadline="3s")
    world.wait_ready()
    world.ray.stop()
    started = time.monotonic()

    world.api.kubectl("delete", "agd/phones", "-n", world.namespace, "--timeout=120s")

    assert time.monotonic() - started >= 2, "it tried until the deadline"
    assert world.deployment() is None
    assert world.application() in world.ray.applications, "nobody could remove it"


def test_one_broken_site_does_not_hold_up_another(world: World) -> None:
    hanging = FakeRay()
    hanging.fault = "hang"
    hanging.start()
    try:
        world.operator()
        world.apply_site("broken", hanging)
        world.apply_site()
        world.apply_deployment()
        world.wait_ready()
    finally:
        hanging.close()


def test_an_operator_killed_between_the_write_and_the_status_is_replaced_without_harm(world: World) -> None:
    operator = world.operator("first")
    killed: list[bool] = []

    def kill() -> None:
        if not killed:
            killed.append(True)
            operator.process.kill()

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


def test_an_api_server_that_restarts_is_waited_for(world: World) -> None:
    operator = world.operator()
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


def test_the_second_operator_takes_over_when_the_leader_is_killed(world: World) -> None:
    first = world.operator("first")
    world.wait(lambda: first.role() == "leading", "the first leads")
    second = world.operator("second")
    assert second.role() == "standing by"
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    epoch = world.gateway.tables[-1].epoch

    first.process.kill()
    world.apply_deployment(replicas=2)

    world.wait(lambda: second.role() == "leading", "the second leads")
    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 2, "the change was carried out")
    world.wait(lambda: world.gateway.tables[-1].epoch > epoch, "the gateway has a table of the new leader")
    assert world.gateway.deployments() == {f"{world.namespace}/phones"}


def test_a_leader_that_ends_hands_over_at_once(world: World) -> None:
    first = world.operator("first")
    world.wait(lambda: first.role() == "leading", "the first leads")
    second = world.operator("second")
    started = time.monotonic()

    first.process.terminate(grace=60)

    assert first.process.returncode == 0, first.process.log_tail()
    assert time.monotonic() - started < 60
    world.wait(lambda: second.role() == "leading", "the second leads")
    assert any(entry["message"] == "ended" for entry in first.log_entries())


def test_a_frozen_leader_writes_nothing_when_it_wakes(world: World) -> None:
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


def test_a_gateway_that_lost_its_table_gets_it_again(world: World) -> None:
    world.operator()
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()

    world.gateway.restart_empty()

    world.wait(lambda: world.gateway.deployments() == {f"{world.namespace}/phones"}, "it has the routes again")


def test_a_gateway_with_a_newer_table_than_the_lease_knows_is_given_ours(world: World) -> None:
    """The Lease was deleted, so epochs begin anew while the gateway remembers higher ones."""
    world.operator("first")
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    table = world.gateway.table
    assert table is not None
    world.gateway.table = table.model_copy(update={"epoch": table.epoch + 50, "version": 7, "routes": ()})

    world.wait(lambda: world.gateway.deployments() == {f"{world.namespace}/phones"}, "it has the routes again")
    assert world.gateway.table.generation > (table.epoch + 50, 7)


def test_an_unreachable_gateway_is_told_and_nothing_is_called_ready(world: World) -> None:
    world.gateway.stop()
    world.operator()
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("SitesReady")[0] == "True", "the site is ready")
    world.wait(lambda: world.condition("GatewayReady")[1] == "GatewayUnreachable", "the gateway is not")
    assert world.condition("Ready")[0] != "True"

    world.gateway.start()

    world.wait_ready()


def test_an_endpoint_that_fails_its_probe_is_not_ready(world: World) -> None:
    world.gateway.state = "ProbeFailed"
    world.operator()
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("GatewayReady")[1] == "ProbeFailed", "the failure is told")
    assert world.condition("Ready")[0] == "False"

    world.gateway.state = "Admitted"

    world.wait_ready()
