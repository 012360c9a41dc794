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

from autoglm_serving.training.dataset import Screens
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
class Job:
    """What `trainer.train` is asked for: `screens` to learn from, the folder to write, and whether to go on in it."""

    recipe: Recipe
    screens: Screens
    out: Path
    machine: Machine
    resume: bool


def train_side_by_side(job: Job, replicas: Replicas, tell: Callable[[Progress], None]) -> Path:
    """As `trainer.train`, by several copies, with as many times the batches in a step; returns the folder of the model.

    Raises RunRefused, DatasetInvalid, and ReplicasFailed.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ReplicasFailed("copies need Ray Train: install autoglm with its extra `train`") from error
    recipe = replace(job.recipe, accumulate=job.recipe.accumulate * replicas.count)
    screens, out = replace(job.screens, folder=job.screens.folder.resolve()), job.out.resolve()
    job = replace(job, recipe=recipe, screens=screens, out=out)  # as every node sees it
    needed = _needed(replicas, job.machine)
    with _cluster(replicas, needed):
        prepare(recipe, screens, out, job.resume)
        trainer = TorchTrainer(
            _learn_share,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=replicas.count, use_gpu=replicas.gpu, resources_per_worker=dict(needed)
            ),
            run_config=RunConfig(
                name=out.name,
                storage_path=str(out / RAY),
                # Without a limit Ray Train asks for ever for what a cluster does not have.
                failure_config=FailureConfig(controller_failure_limit=_ASKED),
            ),
            torch_config=TorchConfig(backend="nccl" if replicas.gpu else "gloo"),
        )
        with followed(out / LOG, recipe.steps, tell):
            try:
                trainer.fit()
            except Exception as error:
                raise ReplicasFailed(
                    f"copies of the model did not come to the end; once the cause is mended, --resume goes on: {error}"
                ) from error
    return out / MODEL


_ASKED = 2
"""How often a cluster may fail to give what copies need, a minute each time."""


def _needed(replicas: Replicas, machine: Machine) -> dict[str, float]:
    """By copy: a CPU for each of its threads, one if nothing is said, and for each process that makes its batches."""
    return {"CPU": float((machine.threads or 1) + machine.workers), **({"GPU": 1.0} if replicas.gpu else {})}


def _learn_share(told: dict[str, Any]) -> None:
    """What each copy does, in a process of its own."""
    from ray.train import get_context

    job: Job = told["job"]
    context = get_context()
    screens = replace(job.screens, cache_bytes=job.screens.cache_bytes // context.get_local_world_size())
    world = World(context.get_world_rank(), context.get_world_size())
    learn(job.recipe, screens, job.out, job.machine, lambda _: None, world)


@contextmanager
def _cluster(replicas: Replicas, needed: dict[str, float]) -> Iterator[None]:
    """The cluster of the address, or one for as long as this lasts. One that is connected already stays."""
    import ray

    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": max(os.cpu_count() or 1, round(replicas.count * needed["CPU"]))}
    try:
        _reach(replicas.address)
        ray.init(
            address=replicas.address or "local",
            include_dashboard=False,
            log_to_driver=False,
            **({} if replicas.address else own),
        )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster at {replicas.address}" if replicas.address else "Ray does not start here"
        raise ReplicasFailed(f"{where}: {error}") from error
    try:
        _compare(replicas.count, needed, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _compare(count: int, needed: dict[str, float], there: dict[str, float]) -> None:
    """Raises ReplicasFailed where a cluster is too small, whatever else runs on it."""
    for kind, each in needed.items():
        if count * each > there.get(kind, 0.0):
            raise ReplicasFailed(
                f"the copies need {count * each:g} {kind} together, and the cluster has {there.get(kind, 0.0):g}: "
                "ask for fewer copies (--replicas)" + (" or leave out --gpu" if kind == "GPU" else "")
            )


def _reach(address: str | None) -> None:
    """Raises OSError where nobody listens: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _REACHED_S).close()


_REACHED_S = 5.0


@contextmanager
def followed(log: Path, steps: int, tell: Callable[[Progress], None]) -> Iterator[None]:
    """Tell what the first copy writes into its log, while this lasts."""
    tail = _Tail(log)
    tail.lines()  # what is there already was told by those who wrote it
    ended = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = ended.wait(_LOOK_S)  # once more after the end: the last lines are told too
            for line in tail.lines():
                tell(Progress(line["step"] + 1, steps, line))

    follower = threading.Thread(target=follow, name="log")
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


_LOOK_S = 0.5


class _Tail:
    """The end of a log that grows, and that a run which goes on cuts back first."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines that are new since the last call. A log that is shorter now goes on from its new end."""
        if not self._log.exists():
            return []
        size = self._log.stat().st_size
        if size < self._read:
            self._read = size
        with self._log.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
