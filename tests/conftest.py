"""Fixtures that tests of every kind share."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.helm import OFF as NO_HELM
from support.helm import Helm
from support.kubernetes import BINARIES, ControlPlane, binary
from support.ray import RayCluster

# The same examples in every run, so that a red run is about the change; no limit on time, for this machine is shared.
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

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


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A real Ray cluster with token authentication; one for all tests, whose applications have names of their own."""
    cluster = RayCluster(Path(tmp_path_factory.mktemp("ray")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm and the chart."""
    return Helm(Path(tmp_path_factory.mktemp("helm")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the binaries that tests need before any test's time runs: it takes minutes the first time."""
    if session.config.option.collectonly:
        return
    needed = BINARIES if any(uses_api_server(item) for item in session.items) else ()
    if any(uses(item, "helm") for item in session.items) and not os.environ.get(NO_HELM):
        needed = (*needed, "helm")
    capture = session.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        for name in needed:
            binary(name)


def uses(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


def uses_api_server(item: pytest.Item) -> bool:
    return uses(item, "api_server")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that broke the control plane and failed before repairing it must not fail the tests after it."""
    plane = item.config.stash.get(_control_plane, None)
    if plane is not None and uses_api_server(item):
        plane.heal()
