"""Gangs on Ray: one replica is one placement group on one node, and each of its ranks an actor in it.

The group is placed whole or not at all. The replica itself is rank 0; Serve makes the group with the replica and removes it
with the replica, and the other ranks' actors end with their gang, so a replica comes and goes as one.
"""

import contextlib
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from typing_extensions import override

from autoglm_serving.config import AppConfig, Worker
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.gang.leader import Launcher, Rank
from autoglm_serving.engines.gang.seat import Devices
from autoglm_serving.engines.interface import Engine, EngineDead
from autoglm_serving.engines.options import on_what_it_takes

_LEAST_CPUS = 0.001
"""Ray places no bundle without resources."""


class RankActor:
    """One rank that is not the first."""

    def run(self, address: str, rank: int) -> None:
        """Live as a rank: this call does not return, and the actor ends with its gang."""
        from autoglm_serving.engines.gang import member

        member.run(Path(address), rank)


class ActorRank(Rank):
    """A started actor."""

    def __init__(self, actor: Any, life: Any) -> None:
        self._actor = actor
        self._life = life

    @override
    def ended(self) -> str | None:
        over, _ = ray.wait([self._life], timeout=0)
        if not over:
            return None
        try:
            ray.get(self._life)
        except Exception as error:  # noqa: BLE001 - Ray has many types for it, and all are answers here
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        return "it returned"

    @override
    def stop(self) -> None:
        with contextlib.suppress(Exception):  # the actor, or Ray, may be gone already
            ray.kill(self._actor)


class ActorRanks(Launcher):
    """Starts ranks in the placement group of the replica that this process is."""

    def __init__(self, share: Worker) -> None:
        self._share = share

    @property
    @override
    def devices(self) -> Devices:
        return "own"

    @override
    def start(self, rank: int, address: Path) -> Rank:
        group: PlacementGroup | None = ray.util.get_current_placement_group()
        if group is None:
            raise EngineDead("this replica has no placement group for the ranks of its gang")
        actor = (
            ray.remote(RankActor)
            .options(
                **actor_options(self._share),
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            .remote()
        )
        return ActorRank(actor, actor.run.remote(str(address), rank))


def create_engine_on_ray(config: AppConfig) -> Engine:
    """The engine of a replica; the other ranks of its gang, if it has one, are actors."""
    engine = on_what_it_takes(config.engine, config.worker)
    return create_engine(config.model_copy(update={"engine": engine}), ActorRanks(share(config)))


def engine_resources(config: AppConfig) -> dict[str, Any]:
    """What one engine replica takes from the cluster, as options of its Serve deployment."""
    ranks = gang_size(config)
    own = actor_options(share(config))
    if ranks == 1:
        return {"ray_actor_options": own}
    bundle = {"CPU": own["num_cpus"], "GPU": own["num_gpus"], **own.get("resources", {})}
    placed = {name: amount for name, amount in bundle.items() if amount > 0} or {"CPU": _LEAST_CPUS}
    return {
        "ray_actor_options": own,
        "placement_group_bundles": [dict(placed) for _ in range(ranks)],
        "placement_group_strategy": "STRICT_PACK",
    }


def gang_size(config: AppConfig) -> int:
    """Actors of one replica. vLLM's ranks are processes of one actor, which has all their accelerators."""
    return config.engine.tensor_parallel if config.engine.name == "transformers" else 1


def share(config: AppConfig) -> Worker:
    """What one actor of a replica takes: all ranks take the same."""
    ranks, worker = gang_size(config), config.worker
    return Worker(
        cpus=worker.cpus / ranks,
        gpus=worker.gpus / ranks,
        custom={name: amount / ranks for name, amount in worker.custom.items()},
    )


def actor_options(worker: Worker) -> dict[str, Any]:
    """What one actor takes from the cluster, in Ray's names."""
    options: dict[str, Any] = {"num_cpus": worker.cpus, "num_gpus": worker.gpus}
    if worker.custom:
        options["resources"] = dict(worker.custom)
    return options
