"""Clusters of the end-to-end run, each with a release that is taken away in the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from support.fake_kuberay import part
from support.helm import Helm
from support.kubernetes import NODE_BINARIES, binary
from support.node import cluster, probe
from support.node.release import Release


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what a node takes before any test's time runs: it takes minutes the first time."""
    needs = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    on_nodes = bool(needs & {"release", "edge_release"}) and not os.environ.get("KUBECONFIG") and not probe.obstacle()
    if session.config.option.collectonly or not (on_nodes or "kuberay" in needs):
        return
    capture = session.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        part("operator")
        for name in NODE_BINARIES if on_nodes else ():
            binary(name)


@contextmanager
def released(directory: Path, helm: Helm, *nodes: str, patience_s: int = 300) -> Iterator[Release]:
    """A cluster with KubeRay on which nothing of ours is installed, and the chart to install there."""
    with cluster.running(directory, nodes, patience_s) as running:
        release = Release(running, helm, directory)
        release.prepare()
        try:
            yield release
        finally:
            release.uninstall()


@pytest.fixture
def release(tmp_path: Path, helm: Helm) -> Iterator[Release]:
    """One node, or the cluster that KUBECONFIG names."""
    with released(tmp_path, helm, "autoglm-node") as made:
        yield made


@pytest.fixture
def edge_release(tmp_path: Path, helm: Helm) -> Iterator[Release]:
    """Two nodes made here, of which the second one can be cut off."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip("links of another cluster are not for a test to cut: unset KUBECONFIG")
    with released(tmp_path, helm, "autoglm-node", "autoglm-edge", patience_s=60) as made:
        yield made
