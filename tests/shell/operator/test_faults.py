"""What breaks around the operator and what follows: Ray clusters, tokens, gateways."""

import time

import pytest

from support.fake_ray import FakeRay, Fault
from support.operator import OperatorProcess, World

pytestmark = pytest.mark.faults


def test_a_wrong_token_is_told_and_a_corrected_secret_works(world: World, operator: OperatorProcess) -> None:
    world.ray.token = "another-token"
    world.apply_site()
    world.ray.token = "right-token"
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "Unauthorized"), "the site says so")
    world.wait(lambda: world.condition("SitesReady")[1] == "Unauthorized", "the deployment says so")
    assert world.is_told_unready()
    assert not world.ray.puts

    world.apply_site()

    world.wait_ready()
    log = operator.process.log_text()
    assert "another-token" not in log
    assert "right-token" not in log


def test_a_missing_secret_is_told(world: World) -> None:
    world.apply_site()
    world.api.kubectl("delete", "secret", world.site, "-n", world.namespace)
    world.wait(lambda: world.condition("Connected")[0] != "", "the site was looked at")
    world.ray.token = "rotated"
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "SecretMissing"), "the site says so")
    assert world.site in world.condition("Connected")[2]


def test_an_open_cluster_is_refused(world: World) -> None:
    world.ray.token = None
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "OpenCluster"), "the site says so")
    world.wait(world.is_told_unready, "the deployment is not ready")
    assert not world.ray.puts
    assert all(request.token is None for request in world.ray.requests)


def test_an_unreachable_cluster_is_told_and_used_when_it_is_back(world: World) -> None:
    world.ray.stop()
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[:2] == ("False", "Unreachable"), "the site says so")
    world.wait(world.is_told_unready, "the deployment is not ready")

    world.ray.start()

    world.wait_ready()
    assert world.condition("Connected")[0] == "True"


@pytest.mark.parametrize("fault", ["error", "garbage"])
def test_a_cluster_that_fails_is_told_and_used_when_it_recovers(
    world: World, operator: OperatorProcess, fault: Fault
) -> None:
    world.ray.fault = fault
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("Connected")[0] == "False", "the site says so")
    assert "internal-secret-path" not in world.condition("Connected")[2]

    world.ray.fault = None

    world.wait_ready()
    assert operator.process.running


def test_a_head_that_lost_its_memory_gets_its_application_again(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()

    world.ray.restart()

    world.wait(lambda: world.ray.config(world.application()) is not None, "the application is there again")
    world.wait_ready()


def test_a_configuration_that_ray_refuses_is_told_with_rays_words(world: World) -> None:
    world.ray.refuse_config = "ValidationError: Serve says no"
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: "Serve says no" in world.condition("SitesReady")[2], "the deployment has Ray's words")
    assert world.is_told_unready()

    world.ray.refuse_config = None

    world.wait_ready()


def test_deleting_while_the_cluster_is_unreachable_ends_at_the_deadline(world: World) -> None:
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
        world.apply_site("broken", hanging)
        world.apply_site()
        world.apply_deployment()
        world.wait_ready()
    finally:
        hanging.close()


def test_a_gateway_that_lost_its_table_gets_it_again(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()

    world.gateway.restart_empty()

    world.wait(lambda: world.routes() == {f"{world.namespace}/phones"}, "it has the routes again")


def test_a_gateway_with_a_newer_table_than_the_lease_knows_is_given_ours(world: World) -> None:
    """The Lease was deleted, so epochs begin anew while the gateway remembers higher ones."""
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    table = world.gateway.table
    assert table is not None
    world.gateway.table = table.model_copy(update={"epoch": table.epoch + 50, "version": 7, "routes": ()})

    world.wait(lambda: world.routes() == {f"{world.namespace}/phones"}, "it has the routes again")
    assert world.gateway.table.generation > (table.epoch + 50, 7)


def test_an_endpoint_that_fails_its_probe_is_not_ready(world: World) -> None:
    world.gateway.state = "ProbeFailed"
    world.apply_site()
    world.apply_deployment()
    world.wait(lambda: world.condition("GatewayReady")[1] == "ProbeFailed", "the failure is told")
    assert world.is_told_unready()

    world.gateway.state = "Admitted"

    world.wait_ready()
