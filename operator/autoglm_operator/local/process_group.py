"""A child process that takes everything it ever started with it when it ends.

As root on Linux the child gets its own PID namespace: killing one process then ends all, also those that left its session.
Elsewhere it gets its own session, and stopping signals the whole group.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
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
    return (
        subprocess.run(
            [*NAMESPACE, "true"], capture_output=True, check=False, timeout=30
        ).returncode
        == 0
    )


class ProcessGroup:
    """One started child with all its descendants."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> None:
        """Start it; its output is appended to `log`."""
        self._namespaced = can_make_namespaces()
        full = [*NAMESPACE, *INIT, *command] if self._namespaced else list(command)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                full,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        identity = Identity.of(self._process.pid)
        self.identity = identity or Identity(self._process.pid, "")

    @property
    def pid(self) -> int:
        """Process id of the outermost process: killing it with SIGKILL ends a namespaced group at once."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the outermost process still runs."""
        return self._process.poll() is None

    def stop(self, grace_s: float = 15.0) -> None:
        """End all processes and wait for it. A namespace needs no grace: nothing in it outlives its first process."""
        stop_group(self._process.pid, self._namespaced, grace_s, self._wait)

    def kill(self) -> None:
        """End all processes at once, as a crash would."""
        stop_group(self._process.pid, True, 0, self._wait)

    def _wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_group(
    pid: int, at_once: bool, grace_s: float, wait: Callable[[float], bool]
) -> None:
    """Signal a session's process group: politely first unless `at_once`, then for good."""
    if not at_once:
        _signal_group(pid, signal.SIGTERM)
        wait(grace_s)
    _signal_group(pid, signal.SIGKILL)
    wait(30)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return
