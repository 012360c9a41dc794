"""Ends the process groups that its parent leaves behind, also when the parent is killed with SIGKILL.

Runs as a process of its own. The parent writes `+GROUP` and `-GROUP` lines to its standard input as groups start and end;
the end of that input means that the parent is gone. Linux's PR_SET_PDEATHSIG is no substitute: it fires when the *thread*
that started a process ends, and tests start processes from threads.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

_GRACE_S = 5.0


class Reaper:
    """The parent's side."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """End this process group if the parent goes before `forget`."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """The group has ended: its number may be used again by others."""
        self._tell(f"-{group}")

    def usable(self) -> bool:
        """Whether this is still the process that made it (not a fork) and the reaper runs."""
        return self._owner == os.getpid() and self._process.poll() is None

    def _tell(self, line: str) -> None:
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            print(line, file=pipe, flush=True)


_reaper: Reaper | None = None


def reaper() -> Reaper:
    """The reaper of this process, started when first asked for."""
    global _reaper  # noqa: PLW0603 - one per process is its point
    if _reaper is None or not _reaper.usable():
        _reaper = Reaper()
    return _reaper


def _remaining(lines: Iterable[str]) -> set[int]:
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def _signal(groups: set[int], number: signal.Signals) -> set[int]:
    """The groups that were still there to be signalled."""
    reached = set()
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            reached.add(group)
    return reached


def _main() -> None:
    # Only the end of the parent counts, not a Ctrl-C that reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    left = _signal(_remaining(sys.stdin), signal.SIGTERM)
    _signal(left, signal.SIGCONT)
    deadline = time.monotonic() + _GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = _signal(left, signal.SIGCONT)
    _signal(left, signal.SIGKILL)


if __name__ == "__main__":
    _main()
