"""NetworkPolicies that are enforced on a node made here: the firewall of kube-router, and nothing else of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.kubernetes import Cluster, binary
from support.node.machine import Node
from support.processes import Process

_NAME = "kube-router"
_CHAIN = "KUBE-NWPLCY"
READY_S = 300.0


@contextmanager
def enforced(api: Cluster, node: Node, directory: Path) -> Iterator[None]:
    """From here on the node's firewall does what NetworkPolicies say. Skips the test where there is no ipset for it."""
    if shutil.which("ipset") is None:
        pytest.skip("policies take one more program: apt-get install ipset")
    command = [
        binary(_NAME),
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--kubeconfig={api.kubeconfig}",
        f"--hostname-override={node.name}",
        "--service-cluster-ip-range=10.0.0.0/20",
        "--metrics-addr=127.0.0.1",
        "--iptables-sync-period=15s",
    ]
    inside = node.namespaces.inside(*command)
    with Process(_NAME, inside, log=directory / f"{_NAME}.log") as process:
        process.wait_for(
            lambda: _CHAIN in node.namespaces.checked("iptables-save -t filter"), "its rules are there", READY_S
        )
        yield
