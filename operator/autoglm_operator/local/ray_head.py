"""A Ray head on this machine, with a token, on free ports, that leaves nothing behind."""

import json
import os
import secrets
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from autoglm_operator.kuberay.names import NODE_ENVIRONMENT
from autoglm_operator.local.ports import LOOPBACK, free_ports
from autoglm_operator.local.process_group import (
    ProcessGroup,
    clean_up_after_crash,
    make_temp_dir,
    remove_temp_dir,
    write_record,
)

MAX_STARTS = 4
# Long, because a start that fails ends by itself: this is for one that hangs.
START_DEADLINE_S = 300.0
SERVE_DEADLINE_S = 180.0
POLL_S = 0.25
GRACE_S = 15.0
OBJECT_STORE_BYTES = 200 * 1024 * 1024
STATE_FILE = "ray.json"
ERROR_FILES = ("gcs_server.err", "raylet.err", "dashboard.err")
ERROR_LINES = 8

# Ray's own limits suit a quiet server; a laptop that also runs a browser is not one. Seconds.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_gcs_server_port_wait_time_s": "90",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "150",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "150",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}

WORKER_NICENESS = "RAY_worker_niceness"
"""How far replicas give way to whatever else runs on the machine: 15 unless this variable says otherwise."""


class RayStartError(RuntimeError):
    """Ray could not be started; the message ends with the tail of its log."""


@dataclass(frozen=True)
class RayResources:
    """What the head offers to applications. `custom` are Ray resources by name, for example {"NPU": 8}."""

    num_cpus: float
    num_gpus: float | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    object_store_bytes: int = OBJECT_STORE_BYTES


class RayHead:
    """One head node. `start` may be called again after `kill`, not after `stop`: the two addresses stay the same."""

    def __init__(
        self,
        state_dir: Path,
        num_cpus: float,
        token: str | None = None,
        *,
        resources: RayResources | None = None,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`state_dir` keeps the log and what is needed to clean up after a crash of this process."""
        self.state_dir = state_dir
        self.token = token or secrets.token_hex(32)
        self._resources = resources or RayResources(num_cpus)
        self._progress = progress
        self._group: ProcessGroup | None = None
        self._temp_dir: Path | None = None
        self._dashboard_port = 0
        self._serve_port = 0
        self._stopped = threading.Event()

    @property
    def address(self) -> str:
        """URL of the dashboard with the Serve REST API."""
        return f"http://{LOOPBACK}:{self._dashboard_port}"

    @property
    def serve_address(self) -> str:
        """URL of the Serve HTTP proxy."""
        return f"http://{LOOPBACK}:{self._serve_port}"

    @property
    def log_path(self) -> Path:
        """Output of `ray start`; Ray's own logs are under `temp_dir`."""
        return self.state_dir / "ray.log"

    @property
    def temp_dir(self) -> Path | None:
        """Ray's folder of sockets and logs while it runs."""
        return self._temp_dir

    @property
    def pid(self) -> int | None:
        """Process id of the outermost process while it runs."""
        return self._group.pid if self._group else None

    @property
    def running(self) -> bool:
        """Whether the head's outermost process lives."""
        return self._group is not None and self._group.running

    def start(self) -> None:
        """Start Ray and Serve's proxy and wait until both answer. Raises RayStartError."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        clean_up_after_crash(self.state_dir / STATE_FILE)
        self.log_path.write_bytes(b"")
        keep_addresses = self._dashboard_port != 0
        reason = ""
        for attempt in range(1, MAX_STARTS + 1):
            if self._stopped.is_set():
                raise RayStartError("Ray was stopped while it started")
            if not keep_addresses:
                self._dashboard_port, self._serve_port = free_ports(2)
            self._launch()
            reason = self._wait_until_up()
            if not reason:
                return
            self._keep_errors()
            tail = self._log_tail()
            self.kill()
            if self._stopped.is_set():
                break
            self._progress(f"Ray did not start ({reason}); try {attempt} of {MAX_STARTS}")
            reason = f"{reason}\n{tail}"
        raise RayStartError(f"Ray did not start after {MAX_STARTS} tries: {reason}")

    def stop(self) -> None:
        """End every process of this head for good and remove its files; a `start` in another thread gives up."""
        self._stopped.set()
        # A namespace needs no grace: nothing in it outlives its first process.
        self._end(0 if self._group is not None and self._group.namespaced else GRACE_S)

    def kill(self) -> None:
        """End every process at once, as a power cut would, and remove its files."""
        self._end(0)

    def _end(self, grace_s: float) -> None:
        if self._group is not None:
            self._group.stop(grace_s)
        self._forget()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def _forget(self) -> None:
        self._group = None
        if self._temp_dir is not None:
            remove_temp_dir(self._temp_dir)
            self._temp_dir = None
        (self.state_dir / STATE_FILE).unlink(missing_ok=True)

    def _launch(self) -> None:
        self._temp_dir = make_temp_dir()
        (self._temp_dir / "t").mkdir()
        self._group = ProcessGroup(self._command(self._temp_dir), self._environment(self._temp_dir), self.log_path)
        write_record(self.state_dir / STATE_FILE, self._group, self._temp_dir)

    def _command(self, temp_dir: Path) -> list[str]:
        ports = free_ports(6)
        options = {
            "node-ip-address": LOOPBACK,
            "port": ports[0],
            "ray-client-server-port": ports[1],
            "dashboard-agent-listen-port": ports[2],
            "dashboard-agent-grpc-port": ports[3],
            "runtime-env-agent-port": ports[4],
            "metrics-export-port": ports[5],
            "dashboard-host": LOOPBACK,
            "dashboard-port": self._dashboard_port,
            "include-dashboard": "true",
            "include-log-monitor": "false",
            "num-cpus": int(self._resources.num_cpus),
            "object-store-memory": self._resources.object_store_bytes,
            "temp-dir": temp_dir,
            "resources": json.dumps(dict(self._resources.custom)),
        }
        if self._resources.num_gpus is not None:
            options["num-gpus"] = int(self._resources.num_gpus)
        flags = [f"--{name}={value}" for name, value in options.items()]
        return [
            sys.executable,
            "-m",
            "autoglm_operator.local.patient_ray",
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            *flags,
        ]

    def _environment(self, temp_dir: Path) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == WORKER_NICENESS
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "TMPDIR": str(temp_dir / "t"),
            "PATH": path,
        }
        return {**inherited, **PATIENCE, **NODE_ENVIRONMENT, **own}

    def _wait_until_up(self) -> str:
        """Empty when Ray and Serve answer, else what was waited for in vain."""
        if not self._wait_for(self._dashboard_answers, START_DEADLINE_S):
            return f"the dashboard at {self.address} did not answer" if self.running else "`ray start` ended"
        if not self._wait_for(self._serve_started, SERVE_DEADLINE_S):
            return "Serve did not start"
        if not self._wait_for(self._proxy_answers, SERVE_DEADLINE_S):
            return f"Serve's proxy at {self.serve_address} did not answer"
        return ""

    def _wait_for(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        while self.running and not self._stopped.is_set() and time.monotonic() < end:
            if condition():
                return True
            time.sleep(POLL_S)
        return False

    def _dashboard_answers(self) -> bool:
        return self._http("GET", f"{self.address}/api/serve/applications/", timeout_s=30) == 200

    def _serve_started(self) -> bool:
        # The port of Serve's proxy is fixed by whoever starts Serve first: an empty configuration does.
        body = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": LOOPBACK, "port": self._serve_port},
            "applications": [],
        }
        return self._http("PUT", f"{self.address}/api/serve/applications/", body, timeout_s=120) == 200

    def _proxy_answers(self) -> bool:
        # It says 503 as long as there is no application: any answer shows that it listens.
        return self._http("GET", f"{self.serve_address}/-/healthz", timeout_s=5) != 0

    def _http(self, method: str, url: str, body: object = None, *, timeout_s: float) -> int:
        """Status code, 0 when there was no answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def _keep_errors(self) -> None:
        """Copy the beginnings of what Ray's processes died of to the log: their own files go with the attempt."""
        folder = (self._temp_dir or self.state_dir) / "session_latest/logs"
        with self.log_path.open("a") as log:
            for name in ERROR_FILES:
                lines = _lines(folder / name)
                log.writelines(f"{name}: {line}\n" for line in lines[:ERROR_LINES])

    def _log_tail(self) -> str:
        return "\n".join(_lines(self.log_path)[-30:])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
