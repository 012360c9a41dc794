"""Gangs as Ray itself tells of them: placement groups, and the actors that live in each."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from ray.core.generated import gcs_pb2, gcs_service_pb2

from support.processes import family
from support.ray import RayCluster

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Gang:
    """One placement group that is not removed: how many of its bundles have a node, and its living actors by class."""

    group: str
    state: str
    bundles: int
    placed: int
    actors: tuple[str, ...]
    pids: tuple[int, ...]
    """Of these actors, as processes of Ray's own namespace."""

    def whole(self, ranks: int) -> bool:
        """Whether all of it is there: each rank in a bundle, the first as Serve's replica."""
        return (
            self.state == "CREATED"
            and self.bundles == self.placed == len(self.actors) == ranks
            and self.actors[:-1] == ("RankActor",) * (ranks - 1)
            and self.actors[-1].startswith("ServeReplica:")
        )


def gangs(cluster: RayCluster) -> tuple[Gang, ...]:
    """What is there now, from two calls to Ray's control store."""
    groups = _ask(
        cluster,
        "PlacementGroupInfoGcsService/GetAllPlacementGroup",
        gcs_service_pb2.GetAllPlacementGroupRequest(),
        gcs_service_pb2.GetAllPlacementGroupReply,
    ).placement_group_table_data
    actors = _ask(
        cluster,
        "ActorInfoGcsService/GetAllActorInfo",
        gcs_service_pb2.GetAllActorInfoRequest(),
        gcs_service_pb2.GetAllActorInfoReply,
    ).actor_table_data
    living = defaultdict(list)
    for actor in actors:
        if actor.state == gcs_pb2.ActorTableData.ALIVE:
            living[actor.placement_group_id].append((actor.class_name, actor.pid))
    found = []
    for group in groups:
        state = gcs_pb2.PlacementGroupTableData.PlacementGroupState.Name(group.state)
        if state != "REMOVED":
            members = sorted(living[group.placement_group_id])
            found.append(
                Gang(
                    group.placement_group_id.hex(),
                    state,
                    len(group.bundles),
                    sum(bool(bundle.node_id) for bundle in group.bundles),
                    tuple(name for name, _ in members),
                    tuple(pid for _, pid in members),
                )
            )
    return tuple(found)


def _ask(cluster: RayCluster, method: str, request: Any, reply: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{_port(cluster)}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(
            f"/ray.rpc.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return call(request, timeout=DEADLINE_S, metadata=(("authorization", f"Bearer {cluster.token}"),))


def _port(cluster: RayCluster) -> str:
    """Where the control store listens: what the head was started with."""
    assert cluster.head.pid is not None
    for pid in family(cluster.head.pid):
        for argument in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            if argument.startswith("--port="):
                return argument.partition("=")[2]
    raise AssertionError("no process of the head was started with --port")
