"""A cold start of the application on a Ray cluster, by the moments that Ray, Serve and the replica themselves noted."""

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.cold.phases import Mark, parts
from typing_extensions import override

from autoglm_operator.local.ray_head import RayHead
from autoglm_serving.config import AppConfig
from support.processes import SPAWNED, family
from support.ray import RayCluster, application

START_S = 1200.0
CPUS = 16
HEAD = (
    "Ray: the head is up, its dashboard answers",
    "Serve: the controller runs",
    "Serve: the HTTP proxy listens",
)
BUILT = "Serve: the application is imported and built"
PROCESS = "process: started, the application imported"
RUNNING = "listens, or is RUNNING for Serve"
ADDED = re.compile(r"^\w+ (\S+ \S+) .*Adding \d+ replicas? to Deployment\(name='Engine'")


class Head(RayHead):
    """A head that notes when it had reached what it waits for: dashboard, controller, proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CPUS)
        self.reached: list[float] = []

    @override
    def _wait_for(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        found = super()._wait_for(condition, deadline_s)
        self.reached.append(time.monotonic())
        return found


class OnRay:
    """A cluster that does not run yet, and the application on it."""

    def __init__(self, folder: Path, config: AppConfig) -> None:
        self._ray = RayCluster(folder)
        self._head = self._ray.head = Head(folder)
        self._app = application(config)

    def start(self, names: dict[str, str]) -> list[Mark]:
        """Start all of it; `names` are the phases of the parts of the replica's own start."""
        self._ray.start()
        self._ray.deploy(self._app, wait=False)
        self._ray.wait_running(self._app["name"], START_S)
        running = time.monotonic()
        ready = self._ready()
        told = {part: ready[f"{part}_s"] for part in names if f"{part}_s" in ready}
        constructor = _monotonic(ready["timestamp_ns"] / 1e9) - ready["seconds"]
        return [
            *(Mark(phase, at) for phase, at in zip(HEAD, self._head.reached[-len(HEAD) :], strict=True)),
            Mark(BUILT, self._added()),
            Mark(PROCESS, constructor),
            *parts(constructor, told, names),
            Mark(RUNNING, running),
        ]

    @property
    def url(self) -> str:
        return f"{self._ray.serve_address}{self._app['route_prefix']}/v1/chat/completions"

    def processes(self) -> list[int]:
        return family(self._head.pid)[1:] if self._head.pid is not None else []

    def stop(self) -> None:
        self._ray.stop()

    def _ready(self) -> dict[str, Any]:
        """The replica's own record of its start."""
        for path in self._ray.serve_logs(f"replica_{self._app['name']}_Engine_*.log"):
            for line in path.read_text().splitlines():
                if '"replica ready"' in line:
                    record: dict[str, Any] = json.loads(line)
                    return record
        raise SystemExit("the replica wrote no record of its start")

    def _added(self) -> float:
        """When the controller asked for the first replica."""
        for path in self._ray.serve_logs("controller_*.log"):
            for line in path.read_text().splitlines():
                if found := ADDED.match(line):
                    return _monotonic(datetime.fromisoformat(found[1]).astimezone().timestamp())
        raise SystemExit("the controller wrote nothing of a replica")


def kind(name: str) -> str:
    """What a process of the cluster is, by its title."""
    kinds = {
        "VLLM": "vLLM's engine core", SPAWNED: "vLLM's engine core",
        ":Engine": "engine process", "decode_worker": "decode worker",
        ":Ingress": "ingress", "ServeController": "Serve's controller", "ProxyActor": "Serve's proxy",
    }  # fmt: skip
    return next((kind for part, kind in kinds.items() if part in name), "Ray itself")


def _monotonic(wall: float) -> float:
    return wall - time.time() + time.monotonic()
