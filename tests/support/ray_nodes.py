"""A Ray cluster of two nodes, as KubeRay makes them: a head that offers no CPUs, with its state on a disk, and a worker.

Each has processes, shared memory and a network of its own, joined by a cable, so that the head can be lost alone.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from autoglm_operator.kuberay.names import WORKERS
from autoglm_operator.kuberay.pods import RECONNECT_S
from autoglm_operator.local.process_group import ProcessGroup, can_make_namespaces, make_temp_dir, remove_temp_dir
from autoglm_operator.local.ray_head import RayHead
from support.processes import family, pid_inside, runs, wait_until
from support.ray import RayCluster
from support.reaper import reaper

_NETWORK = re.compile(r"agr(\d+)[hw]\b")
_BETWEEN = ("10.213.77.1", "10.213.77.2")
_HERE = ("10.213.77.5", "10.213.77.9")
_THERE = ("10.213.77.6", "10.213.77.10")
_ANY = "0.0.0.0"
_GCS_PORT = 6379
_GROUP = "RAY_NODE_TYPE_NAME"
"""KubeRay tells each node the name of its group."""
JOIN_S = 240.0


def can_make_nodes() -> bool:
    """Whether this user may."""
    return can_make_namespaces() and shutil.which("ip") is not None


class _Networks:
    """The networks of head and worker: a cable from one to the other, and one from each to this machine."""

    def __init__(self) -> None:
        self.head, self.worker = (f"agr{os.getpid()}{letter}" for letter in "hw")

    def start(self) -> None:
        for name, pid in _of_runs():
            if not runs(pid):  # of a run that was killed
                _ip("netns", "delete", name)
        for name, here, there in zip((self.head, self.worker), _HERE, _THERE, strict=True):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _address(here, name)
            _address(there, "eth0", name)
        _ip("link", "add", "eth1", "netns", self.head, "type", "veth", "peer", "name", "eth1", "netns", self.worker)
        for name, address in zip((self.head, self.worker), _BETWEEN, strict=True):
            _address(address, "eth1", name)

    def stop(self) -> None:
        for name in (self.head, self.worker):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


class _Head(RayHead):
    """A head in a network of its own, with its state in a folder that outlives it. It offers no CPUs."""

    def __init__(self, state_dir: Path, network: str) -> None:
        super().__init__(state_dir, 0)
        self._network = network
        self._folder: Path | None = None
        self._known = False

    @property
    @override
    def address(self) -> str:
        return f"http://{_THERE[0]}:{self._dashboard_port}"

    @property
    @override
    def serve_address(self) -> str:
        return f"http://{_THERE[0]}:{self._serve_port}"

    @property
    def serve_port(self) -> int:
        return self._serve_port

    @override
    def stop(self) -> None:
        super().stop()
        if self._folder is not None:
            remove_temp_dir(self._folder)

    @override
    def _launch(self) -> None:
        if self._folder is None:
            self._folder = make_temp_dir()
            (self._folder / "t").mkdir()
        self._temp_dir = self._folder
        self._group = ProcessGroup(self._command(self._folder), self._environment(self._folder), self.log_path)

    @override
    def _forget(self) -> None:
        """What a killed head leaves on its disk is there for the next."""
        self._group = None

    @override
    def _command(self, temp_dir: Path) -> list[str]:
        own = {"--node-ip-address": _BETWEEN[0], "--dashboard-host": _ANY, "--port": str(_GCS_PORT)}
        parts = [part.partition("=") for part in super()._command(temp_dir)]
        return _in(self._network, [f"{name}{mark}{own.get(name, value)}" for name, mark, value in parts])

    @override
    def _environment(self, temp_dir: Path) -> dict[str, str]:
        storage = self.state_dir / "gcs"
        storage.mkdir(exist_ok=True)
        state = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(storage)}
        return {**super()._environment(temp_dir), **state, _GROUP: "headgroup"}

    def of_worker(self, temp_dir: Path) -> dict[str, str]:
        """The environment of the other node."""
        patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S)}
        return {**super()._environment(temp_dir), **patience, _GROUP: WORKERS}

    @override
    def _serve_started(self) -> bool:
        """Serve is started once; a head that comes back has it in its state, with its applications."""
        url = f"{self.address}/api/serve/applications/"
        if self._known:
            return self._http("GET", url, timeout_s=120) == 200
        options = {"host": _ANY, "port": self._serve_port}
        body = {"proxy_location": "EveryNode", "http_options": options, "applications": []}
        self._known = self._http("PUT", url, body, timeout_s=120) == 200
        return self._known


class TwoNodes(RayCluster):
    """The cluster. `kill` and `start` are the head's; the worker starts with the first head and stays."""

    def __init__(self, state_dir: Path, num_cpus: int = 8) -> None:
        super().__init__(state_dir, num_cpus)
        self._networks = _Networks()
        self.head: _Head = _Head(state_dir, self._networks.head)
        self._num_cpus = num_cpus
        self._worker: ProcessGroup | None = None
        self._folder: Path | None = None

    @property
    @override
    def serve_address(self) -> str:
        """Of the worker's proxy: the head's goes with the head, and Kubernetes sends nothing there."""
        return f"http://{_THERE[1]}:{self.head.serve_port}"

    @property
    def worker(self) -> int:
        """Process id of the worker's outermost process."""
        assert self._worker is not None
        return self._worker.pid

    @override
    def start(self) -> None:
        if self._worker is None:
            self._networks.start()
        super().start()
        if self._worker is None:
            self._join()

    @override
    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop(0)
            reaper().forget(self.worker)
        super().stop()
        if self._folder is not None:
            remove_temp_dir(self._folder)
        self._networks.stop()

    @override
    def processes(self, name: str, deployment: str = "Engine") -> list[int]:
        """Process ids of the replicas that Serve calls running and that run on the worker, as this process sees them."""
        inside = {each["pid"] for each in self._running(name, deployment) if each["node_ip"] == _BETWEEN[1]}
        return [pid for pid in family(self.worker)[1:] if pid_inside(pid) in inside]

    def on_head(self, name: str) -> list[str]:
        """Ids of the application's running replicas that are on the head."""
        deployments = self.details()["applications"][name]["deployments"]
        running = [each for deployment in deployments for each in self._running(name, deployment)]
        return [each["replica_id"] for each in running if each["node_ip"] == _BETWEEN[0]]

    def nodes(self) -> list[str]:
        """Addresses of the nodes on which Serve has a proxy that is healthy."""
        return [each["node_ip"] for each in self.details()["proxies"].values() if each["status"] == "HEALTHY"]

    def _join(self) -> None:
        self._folder = make_temp_dir()
        (self._folder / "t").mkdir()
        options = {
            "address": f"{_BETWEEN[0]}:{_GCS_PORT}",
            "node-ip-address": _BETWEEN[1],
            "num-cpus": self._num_cpus,
            "object-store-memory": 200 * 1024 * 1024,
            "temp-dir": self._folder,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "autoglm_operator.local.patient_ray", "start", "--block", *flags]
        log = self.head.state_dir / "worker.log"
        self._worker = ProcessGroup(_in(self._networks.worker, command), self.head.of_worker(self._folder), log)
        reaper().watch(self.worker)
        wait_until(lambda: self._joined(log), "the worker has joined", JOIN_S)

    def _joined(self, log: Path) -> bool:
        assert self._worker is not None
        assert self._worker.running, log.read_text()[-3000:]
        return "Ray runtime started" in log.read_text()


def _in(network: str, command: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", network, *command]


def _of_runs() -> list[tuple[str, int]]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [(found[0], int(found[1])) for found in _NETWORK.finditer(listed)]


def _address(address: str, device: str, network: str = "") -> None:
    where = ("-n", network) if network else ()
    _ip(*where, "address", "add", f"{address}/30", "dev", device)
    _ip(*where, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
