"""The gateway of this machine as a child process."""

import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from autoglm_operator.local.ports import LOOPBACK, free_ports
from autoglm_operator.local.process_group import (
    ProcessGroup,
    clean_up_after_crash,
    make_temp_dir,
    remove_temp_dir,
    write_record,
)

RECORD = "gateway.json"
START_DEADLINE_S = 120.0
GRACE_S = 15.0
POLL_S = 0.1


class GatewayStartError(RuntimeError):
    """The gateway could not be started; the message ends with the tail of its log."""


class GatewayProcess:
    """`autoglm gateway run` on the loopback interface."""

    def __init__(self, folder: Path, token_file: Path, port: int) -> None:
        """`port` for clients; 0 takes any free one."""
        self._folder = folder
        self._token_file = token_file
        self.port = port or free_ports(1)[0]
        self.admin_port = 0
        self._group: ProcessGroup | None = None
        self._temp_dir: Path | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the controller connects."""
        return f"http://{LOOPBACK}:{self.admin_port}"

    @property
    def log_path(self) -> Path:
        """Its output."""
        return self._folder / "gateway.log"

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._group is not None and self._group.running

    def start(self) -> None:
        """Start it; the ports stay the same when it is started again. Returns before it answers."""
        self._end(0)
        clean_up_after_crash(self._folder / RECORD)
        # An earlier run's table names ports that are gone or somebody else's.
        shutil.rmtree(self._folder / "state", ignore_errors=True)
        self.admin_port = self.admin_port or free_ports(1)[0]
        self._temp_dir = make_temp_dir()
        self.log_path.write_bytes(b"")
        command = [sys.executable, "-m", "autoglm_serving.cli", "gateway", "run"]
        command += ["--listen", f"{LOOPBACK}:{self.port}", "--admin", f"{LOOPBACK}:{self.admin_port}"]
        command += ["--state-dir", str(self._folder / "state"), "--token-file", str(self._token_file)]
        self._group = ProcessGroup(command, {**os.environ, "TMPDIR": str(self._temp_dir)}, self.log_path)
        write_record(self._folder / RECORD, self._group, self._temp_dir)

    def wait_until_live(self, stopped: Callable[[], bool]) -> None:
        """Return when its admin interface answers. Raises GatewayStartError."""
        end = time.monotonic() + START_DEADLINE_S
        while not self._live():
            if stopped() or not self.running or time.monotonic() > end:
                tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
                raise GatewayStartError(f"the gateway did not start: see {self.log_path}\n{tail}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it: requests under way may finish, then every process goes."""
        self._end(GRACE_S)

    def _live(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.admin_url}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _end(self, grace_s: float) -> None:
        if self._group is not None:
            self._group.stop(grace_s)
            self._group = None
        if self._temp_dir is not None:
            remove_temp_dir(self._temp_dir)
            self._temp_dir = None
        (self._folder / RECORD).unlink(missing_ok=True)
