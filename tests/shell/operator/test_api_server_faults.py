"""What the API server does to an operator: it refuses, forgets, falls silent, and its objects change under other hands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api_proxy import ApiProxy
from support.operator import OperatorProcess, World

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STATUS = "/status"


@pytest.fixture
def proxy(empty_world: World) -> Iterator[ApiProxy]:
    """Between the operator of this test and the API server."""
    proxy = ApiProxy(empty_world.api)
    proxy.start()
    try:
        yield proxy
    finally:
        for operator in empty_world.operators:
            operator.process.kill()
        proxy.close()


def start(world: World, proxy: ApiProxy, directory: Path) -> OperatorProcess:
    """An operator behind the proxy, with a deployment that is Ready."""
    original = world.installation.kubeconfig
    world.installation.kubeconfig = proxy.kubeconfig(directory, original)
    try:
        operator = world.operator("proxied")
    finally:
        world.installation.kubeconfig = original
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    return operator


def test_refused_and_lost_calls_are_repeated_until_the_change_is_carried_out(
    empty_world: World, proxy: ApiProxy, tmp_path: Path
) -> None:
    world = empty_world
    operator = start(world, proxy, tmp_path)
    puts = len(world.ray.puts)
    refusals = [
        proxy.refuse(429, "PATCH", STATUS, times=2),
        proxy.refuse(500, "PATCH", STATUS, times=2),
        proxy.refuse(409, "PATCH", STATUS),
        proxy.refuse(500, "PATCH", STATUS, after=True),
        proxy.refuse(500, "GET", "/autoglmdeployments/", times=2),
        proxy.refuse(409, "PUT", "/leases/"),
        proxy.refuse(500, "POST", "/events"),
    ]

    for replicas in (2, 3, 4):
        world.apply_deployment(replicas=replicas)
        world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == replicas, "it is carried out")  # noqa: B023
        world.wait_ready()

    assert [refusal.left for refusal in refusals[:5]] == [0, 0, 0, 0, 0], "each of them really happened"
    assert len(world.ray.puts) == puts + 3, "each change was written to Ray once"
    assert operator.process.running
    assert operator.role() == "leading"
    assert not [entry for entry in operator.log_entries() if entry["level"] == "error"]


def test_watches_that_fall_silent_are_replaced(empty_world: World, proxy: ApiProxy, tmp_path: Path) -> None:
    world = empty_world
    start(world, proxy, tmp_path)
    opened = dict(proxy.watches)
    assert len(opened) >= 2, "one watch for each kind"

    proxy.silence_watches()
    world.apply_deployment(replicas=2)

    # kopf takes a watch for dead after 70 s without even a bookmark.
    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 2, "it is carried out", 300)
    world.wait_ready()
    assert any(proxy.watches[path] > count for path, count in opened.items()), "a watch was opened anew"


def test_a_namespace_that_is_deleted_ends_with_its_applications(empty_world: World) -> None:
    world = empty_world
    world.operator("only")
    world.apply_site()
    world.apply_deployment()
    world.apply_deployment("tablets", model={"name": "autoglm-tablets", "uri": "builtin://autoglm-tiny"})
    world.wait_ready()
    world.wait_ready("tablets")
    # The Secret with the site's token goes with the namespace; the deployments in it must go all the same.
    world.api.kubectl("delete", "namespace", world.namespace, "--wait=false")

    world.wait(lambda: not world.api.exists("namespace", world.namespace), "the namespace is gone", 300)
    world.wait(lambda: not world.ray.live(), "no application is left")
    world.wait(lambda: world.routes() == set(), "no route is left")
