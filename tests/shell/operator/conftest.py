"""Fixtures of the operator's tests: most share one operator process, those that break it have their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_gateway import FakeGateway
from support.kubernetes import ControlPlane
from support.operator import Installation, OperatorProcess, World


@pytest.fixture(scope="session")
def installation(api_server: ControlPlane) -> Installation:
    """The API server with the operator's account and rights."""
    return Installation(api_server)


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGateway]:
    """A gateway for all tests of a file."""
    gateway = FakeGateway()
    gateway.start()
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def shared_operator(
    installation: Installation, gateway: FakeGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """An operator for all tests of a file, looking after all namespaces."""
    installation.release_lease()
    directory = Path(tmp_path_factory.mktemp("operator"))
    operator = installation.operator("shared", directory, gateway, ["--all-namespaces"])
    try:
        yield operator.start()
    finally:
        operator.process.terminate()


@pytest.fixture
def operator(shared_operator: OperatorProcess, api_server: ControlPlane) -> OperatorProcess:
    """The shared operator, which no test may have ended."""
    assert shared_operator.process.running, shared_operator.process.log_tail()
    return shared_operator


@pytest.fixture
def world(
    installation: Installation, gateway: FakeGateway, operator: OperatorProcess, tmp_path: Path
) -> Iterator[World]:
    """A namespace and a site that the shared operator does not know yet."""
    world = World(installation, tmp_path, gateway)
    world.watched = (operator,)
    world.open()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def empty_world(
    installation: Installation,
    api_server: ControlPlane,
    tmp_path: Path,
) -> Iterator[World]:
    """A namespace, a site and a gateway without any operator: the test starts its own."""
    installation.release_lease()
    gateway = FakeGateway()
    gateway.start()
    world = World(installation, tmp_path, gateway)
    world.open()
    try:
        yield world
    finally:
        world.close()
        gateway.close()
