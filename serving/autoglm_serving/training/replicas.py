"""`autoglm train tiny --replicas N`: copies of the model that learn side by side, started and watched by Ray Train.

Every copy learns from its share of each step's batches (`world`), so N copies learn in a step what one learns from N times as
many batches. The screens and the output folder must be where all nodes of the cluster see them.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.recipe import Recipe
from autoglm_serving.training.trainer import LOG, MODEL, Machine, Progress, learn, prepare
from autoglm_serving.training.world import World

RAY = "ray"
"""What Ray Train writes down about a run, in its output folder."""


class ReplicasFailed(RuntimeError):
    """Copies cannot begin, or one ended before the run was done: it goes on from its last checkpoint."""


@dataclass(frozen=True)
class Replicas:
    """How many copies, and the Ray cluster that they run on: its address, or None for one of their own on this machine."""

    count: int
    address: str | None = None
    gpu: bool = False
    """Whether each copy has a GPU of its own."""


@dataclass(frozen=True)
class _Work:
    """What each copy is told. It opens the screens itself: their list is long, and their pictures are kept in memory."""

    recipe: Recipe
    folder: Path
    cache_bytes: int
    side: int | None
    out: Path
    machine: Machine


@dataclass(frozen=True)
class Run:
    """A run before it begins: `screens` to learn from, the folder that it writes, and whether it may go on in it."""

    recipe: Recipe
    screens: Screens
    out: Path
    machine: Machine
    resume: bool


def train_side_by_side(run: Run, replicas: Replicas, tell: Callable[[Progress], None]) -> Path:
    """As `trainer.train`, by several copies, with as many times the batches in a step; returns the folder of the model.

    Raises RunRefused, DatasetInvalid, and ReplicasFailed.
    """
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ReplicasFailed("copies need Ray Train: install autoglm with its extra `train`") from error
    out, screens = run.out.resolve(), run.screens
    recipe = replace(run.recipe, accumulate=run.recipe.accumulate * replicas.count)
    prepare(recipe, screens, out, run.resume)
    work = _Work(recipe, screens.folder.resolve(), screens.cache_bytes, screens.side, out, run.machine)
    trainer = TorchTrainer(
        _learn_share,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(
            num_workers=replicas.count, use_gpu=replicas.gpu, resources_per_worker=_resources(replicas, run.machine)
        ),
        run_config=RunConfig(name=out.name, storage_path=str(out / RAY)),
        torch_config=TorchConfig(backend="nccl" if replicas.gpu else "gloo"),
    )
    with _cluster(replicas, run.machine), _followed(out / LOG, recipe.steps, tell):
        try:
            trainer.fit()
        except Exception as error:
            raise ReplicasFailed(f"a copy failed, and the run goes on with --resume: {error}") from error
    return out / MODEL


def _resources(replicas: Replicas, machine: Machine) -> dict[str, float]:
    return {"CPU": float(machine.threads or 1), **({"GPU": 1.0} if replicas.gpu else {})}


def _learn_share(told: dict[str, Any]) -> None:
    """What each copy does, in a process of its own."""
    from ray.train import get_context

    work: _Work = told["work"]
    context = get_context()
    screens = open_screens(work.folder, work.cache_bytes // context.get_local_world_size(), work.side)
    world = World(context.get_world_rank(), context.get_world_size())
    learn(work.recipe, screens, work.out, work.machine, lambda _: None, world)


@contextmanager
def _cluster(replicas: Replicas, machine: Machine) -> Iterator[None]:
    """The cluster of the address, or one for as long as this lasts. One that is connected already stays."""
    import ray

    if ray.is_initialized():
        yield
        return
    own = {} if replicas.address else {"num_cpus": max(os.cpu_count() or 1, replicas.count * (machine.threads or 1))}
    try:
        _reach(replicas.address)
        ray.init(address=replicas.address, include_dashboard=False, log_to_driver=False, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise ReplicasFailed(f"no Ray cluster at {replicas.address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Raises OSError where nobody listens: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACHED_S).close()


_REACHED_S = 5.0


@contextmanager
def _followed(log: Path, steps: int, tell: Callable[[Progress], None]) -> Iterator[None]:
    """Tell what the first copy writes into its log, while this lasts."""
    told = len(_lines(log))
    ended = threading.Event()

    def follow() -> None:
        nonlocal told
        last = False
        while not last:
            last = ended.wait(_LOOK_S)  # once more after the end: the last lines are told too
            for line in _lines(log)[told:]:
                tell(Progress(line["step"] + 1, steps, line))
                told += 1

    follower = threading.Thread(target=follow, name="log")
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


_LOOK_S = 0.5


def _lines(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, as far as it is written."""
    content = log.read_text(encoding="utf-8") if log.exists() else ""
    return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]
