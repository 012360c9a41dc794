"""Fixtures that tests of every kind share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubernetes import ControlPlane

_control_plane = pytest.StashKey[ControlPlane]()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A real Kubernetes API server with the project's CRDs; one for all tests, each of which makes its own namespace."""
    plane = ControlPlane(Path(tmp_path_factory.mktemp("kubernetes")))
    try:
        plane.start()
        request.config.stash[_control_plane] = plane
        yield plane
    finally:
        plane.stop()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that broke the control plane and failed before repairing it must not fail the tests after it."""
    plane = item.config.stash.get(_control_plane, None)
    if plane is not None and "api_server" in getattr(item, "fixturenames", ()):
        plane.heal()
