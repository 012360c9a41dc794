"""A child process that takes everything it ever started with it when it ends.

As root on Linux the child gets its own PID namespace: killing one process then ends all, also those that left its session.
Elsewhere it gets its own session, and stopping signals the whole group.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAMESPACE = (
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--mount",
    "--propagation",
    "private",
)
TEMP_PREFIX = "agr-"
TEMP_ROOT = Path("/tmp")  # noqa: S108 - mkdtemp makes private folders there, and the path must be short
KILL_DEADLINE_S = 30.0
# A private /dev/shm, because shared memory of killed processes would stay; `sh` stays as process 1 and reaps orphans.
INIT = (
    "sh",
    "-c",
    'mount -t tmpfs -o mode=1777 shm /dev/shm 2>/dev/null; "$@"; exit $?',
    "init",
)


@dataclass(frozen=True)
class Identity:
    """A process id with its start time (clock ticks since boot), so that a reused id is not mistaken for it."""

    pid: int
    started: str

    @staticmethod
    def of(pid: int) -> "Identity | None":
        """The identity of a live process; None when there is none (a zombie counts as none)."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return _identity_by_ps(pid)
        return None if fields[0] in "ZX" else Identity(pid, fields[19])

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self


def _identity_by_ps(pid: int) -> Identity | None:
    if Path("/proc/self/stat").exists():
        return None
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return Identity(pid, answer.stdout.strip()) if answer.stdout.strip() else None


@cache
def can_make_namespaces() -> bool:
    """Whether this user may give a process its own PID namespace (root on Linux, usually)."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False, timeout=30).returncode == 0


class ProcessGroup:
    """One started child with all its descendants."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start it; its output is appended to `log`."""
        self.namespaced = can_make_namespaces()
        full = [*NAMESPACE, *INIT, *command] if self.namespaced else list(command)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                full, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.identity = Identity.of(self._process.pid) or Identity(self._process.pid, "")

    @property
    def pid(self) -> int:
        """Process id of the outermost process: killing it with SIGKILL ends a namespaced group at once."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the outermost process still runs."""
        return self._process.poll() is None

    def stop(self, grace_s: float) -> None:
        """End all processes and wait for it: SIGTERM first, SIGKILL after `grace_s` seconds. 0 kills at once."""
        if grace_s > 0 and self.running:
            signal_group(self.pid, signal.SIGTERM)
            self._wait(grace_s)
        signal_group(self.pid, signal.SIGKILL)
        self._wait(KILL_DEADLINE_S)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal every process of a session that its first process started; nothing if all are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def write_record(path: Path, group: ProcessGroup, temp_dir: Path) -> None:
    """Write down what `clean_up_after_crash` needs, should this process be killed."""
    record = {"pid": group.identity.pid, "started": group.identity.started, "tempDir": str(temp_dir)}
    path.write_text(json.dumps(record))


def clean_up_after_crash(path: Path) -> bool:
    """End a recorded group if its first process is still that one, and remove its files. Whether something ran."""
    try:
        record = json.loads(path.read_text())
        identity, temp_dir = Identity(int(record["pid"]), str(record["started"])), Path(str(record["tempDir"]))
    except (OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return False
    found = identity.alive()
    if found:
        signal_group(identity.pid, signal.SIGKILL)
        end = time.monotonic() + KILL_DEADLINE_S
        while identity.alive() and time.monotonic() < end:
            time.sleep(0.05)
    remove_temp_dir(temp_dir)
    path.unlink(missing_ok=True)
    return found


def make_temp_dir() -> Path:
    """A folder with a short path: that of a Unix socket may have 107 bytes, and Ray appends about 70."""
    return Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=TEMP_ROOT))


def remove_temp_dir(path: Path) -> None:
    """Remove a folder made by `make_temp_dir`, and no other."""
    if path.parent == TEMP_ROOT and path.name.startswith(TEMP_PREFIX):
        shutil.rmtree(path, ignore_errors=True)
