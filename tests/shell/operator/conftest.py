"""Fixtures of the operator's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubernetes import ControlPlane
from support.operator import World, install_rbac


@pytest.fixture(scope="session")
def cluster(api_server: ControlPlane) -> ControlPlane:
    """The API server with the operator's account and rights."""
    install_rbac(api_server)
    return api_server


@pytest.fixture
def world(cluster: ControlPlane, api_server: ControlPlane, tmp_path: Path) -> Iterator[World]:
    """A namespace, a site that no operator knows yet, and a gateway."""
    world = World(cluster, tmp_path)
    world.open()
    try:
        yield world
    finally:
        world.close()
