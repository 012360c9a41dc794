"""metrics-server for a node made here: it asks the node's kubelet, and answers HorizontalPodAutoscalers by the API server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.kubernetes import Cluster, KubectlFailed, binary
from support.node.machine import Node
from support.ports import free_port
from support.processes import Process

Json = dict[str, Any]

_NAME, _NAMESPACE, _GROUP = "metrics-server", "kube-system", "metrics.k8s.io"
_READER = "metrics-reader"
READY_S = 300.0


@contextmanager
def measured(api: Cluster, node: Node, directory: Path) -> Iterator[None]:
    """Pods of the node are measured every 15 seconds; metrics-server gives a kubelet ten to answer."""
    port = free_port()
    command = [
        binary(_NAME),
        f"--secure-port={port}",
        f"--bind-address={node.outside}",
        f"--cert-dir={directory / _NAME}",
        "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=15s",
        "--authentication-skip-lookup",
        *(f"--{use}kubeconfig={api.kubeconfig}" for use in ("", "authentication-", "authorization-")),
    ]
    with Process(_NAME, command, log=directory / f"{_NAME}.log") as process:
        try:
            api.apply(*_objects(node.outside, port))
            process.wait_for(lambda: _is_measured(api, node), "it tells what the node uses", READY_S)
            yield
        finally:
            # No namespace can be deleted while a part of the API does not answer.
            api.kubectl("delete", "apiservice", f"v1beta1.{_GROUP}", "--ignore-not-found", check=False)


def _is_measured(api: Cluster, node: Node) -> bool:
    try:
        return node.name in api.kubectl("get", "--raw", f"/apis/{_GROUP}/v1beta1/nodes")
    except KubectlFailed:
        return False


def _objects(address: str, port: int) -> list[Json]:
    """It runs beside the API server and not on the node; the API server, which has no certificate for it, asks as nobody."""
    metadata = {"name": _NAME, "namespace": _NAMESPACE}
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [_GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list"]}]
    subject = {"kind": "User", "name": "system:anonymous", "apiGroup": rbac}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": [{"port": 443, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": _NAME}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"port": port, "protocol": "TCP"}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{_GROUP}"},
            "spec": {
                "group": _GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": _NAME, "namespace": _NAMESPACE, "port": 443},
            },
        },
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": _READER}, "rules": rules},
        *(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{_READER}-{role.rpartition(':')[2]}"},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [subject],
            }
            for role in (_READER, "system:discovery")
        ),
    ]
