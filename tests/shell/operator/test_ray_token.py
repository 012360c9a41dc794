"""The token of a real Ray head, started as `autoglm up` starts it: who comes without it, with another one, with an old one.

Ports that can run code or tell of the cluster are asked by hand: what the operator's client does not try, others will.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray.core.generated import gcs_service_pb2, ray_client_pb2

from autoglm_operator.ray_serve import Credentials, RayAddress, RayServeClient, SiteFailure
from support.processes import family
from support.ray import RayCluster

pytestmark = pytest.mark.faults

APPLICATIONS = "/api/serve/applications/"
WRONG = "0" * 64
HTTP: list[tuple[str, str, Any]] = [
    ("GET", APPLICATIONS, None),
    ("PUT", APPLICATIONS, {"applications": []}),
    ("DELETE", APPLICATIONS, None),
    ("GET", "/api/cluster_status", None),
    ("GET", "/nodes?view=summary", None),
    ("GET", "/api/jobs/", None),
    ("POST", "/api/jobs/", {"entrypoint": "true"}),
]
"""What the dashboard's port offers that changes or tells something; a job is any command."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    """A head of this test's own, since it gets another token."""
    cluster = RayCluster(tmp_path / "ray", num_cpus=2)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Secret:
    """The site's Secret: what is in it now, and how often it was read."""

    def __init__(self, token: str | None) -> None:
        self.token = token
        self.reads = 0

    async def __call__(self) -> Credentials:
        self.reads += 1
        return Credentials(self.token)


def client_of(cluster: RayCluster, secret: Secret) -> RayServeClient:
    """The operator's client of a site."""
    return RayServeClient(RayAddress.of(cluster.address, [cluster.serve_address]), secret, lambda: None, time.monotonic)


def status(base: str, method: str, path: str, body: Any, token: str | None) -> int:
    """What an HTTP port answers."""
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def option(cluster: RayCluster, name: str) -> str:
    """What the head's processes were started with."""
    assert cluster.head.pid is not None
    for pid in family(cluster.head.pid):
        for argument in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            if argument.startswith(f"--{name}="):
                return argument.partition("=")[2]
    raise AssertionError(f"no process of the head was started with --{name}")


def code(port: str, method: str, request: Any, token: str | None) -> grpc.StatusCode:
    """What a gRPC port answers to one call."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(method, request_serializer=type(request).SerializeToString)
        try:
            call(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            found: grpc.StatusCode = error.code()
            return found
    return grpc.StatusCode.OK


async def test_nobody_comes_in_without_the_token_and_a_rotated_one_is_picked_up(cluster: RayCluster) -> None:
    first = cluster.token
    for method, path, body in HTTP:
        assert status(cluster.address, method, path, body, None) == 401, (method, path)
        assert status(cluster.address, method, path, body, WRONG) == 403, (method, path)
    assert status(cluster.address, "GET", APPLICATIONS, None, first) == 200
    agents = {"dashboard-agent-listen-port": "127.0.0.1", "runtime-env-agent-port": ray.util.get_node_ip_address()}
    for name, host in agents.items():
        base = f"http://{host}:{option(cluster, name)}"
        for token, answer in ((None, 401), (WRONG, 403), (first, 404)):
            assert status(base, "GET", "/", None, token) == answer, (name, token)

    gcs = ("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", gcs_service_pb2.GetAllNodeInfoRequest())
    client = ("/ray.rpc.RayletDriver/ClusterInfo", ray_client_pb2.ClusterInfoRequest(type=3))
    for name, (method, request) in (("port", gcs), ("ray-client-server-port", client)):
        port = option(cluster, name)
        for token in (None, WRONG):
            assert code(port, method, request, token) == grpc.StatusCode.UNAUTHENTICATED, (name, token)
        assert code(port, method, request, first) != grpc.StatusCode.UNAUTHENTICATED, name
    assert code(option(cluster, "port"), *gcs, first) == grpc.StatusCode.OK

    behind, along = Secret(first), Secret(first)
    known, prompt = client_of(cluster, behind), client_of(cluster, along)
    for one in (known, prompt):
        assert (await one.observe()).ray_version is not None
    for token in (None, WRONG):
        stranger = client_of(cluster, Secret(token))
        with pytest.raises(SiteFailure, match="token") as strange:
            await stranger.observe()
        assert strange.value.error.reason == "Unauthorized"
        await stranger.close()

    cluster.kill()
    cluster.head.token = along.token = "1" * 64
    cluster.start()

    assert (await prompt.observe()).ray_version is not None, "the Secret has the new token: nobody notices"
    assert along.reads == 2, "it was read again because the cluster refused the old one"
    with pytest.raises(SiteFailure, match="token") as stale:
        await known.observe()
    assert stale.value.error.reason == "Unauthorized"
    behind.token = cluster.token
    assert (await known.observe()).ray_version is not None, "the same client, once the Secret has it"
    assert status(cluster.address, "GET", APPLICATIONS, None, first) == 403, "the old one opens nothing any more"
    for one in (known, prompt):
        await one.close()
