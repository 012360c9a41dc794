"""One run at a time has nodes on a machine: their devices, addresses and control groups have fixed names."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from support.node import probe

# Not in TMPDIR: runs with different ones have the same machine.
LOCK = Path("/tmp/autoglm-nodes.lock")
PATIENCE_S = 1200.0
"""So long one run waits for others, all its tests together: the rest of the layer's hour is for its own nodes."""
_POLL_S = 0.5


@dataclass
class Patience:
    """How long a run still waits. A test that comes after one that waited in vain does not wait as long again."""

    total_s: float
    waited_s: float = 0.0


_OURS = Patience(PATIENCE_S)


@contextmanager
def alone(lock: Path = LOCK, patience: Patience = _OURS) -> Iterator[None]:
    """Wait until no other run has nodes here. If they stay, that is told to the summary of the run and the test is skipped."""
    with lock.open("a+") as file:
        if not _is_locked_in_time(file, patience):
            file.seek(0)
            holder = file.read().strip() or "which does not say who it is"
            why = f"another run has nodes on this machine ({holder}) and did not end in {patience.total_s:g} s"
            probe.report("a real node", why)
            pytest.skip(why)
        file.truncate(0)
        file.write(f"process {os.getpid()} in {Path.cwd()} since {time.strftime('%F %T')}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _is_locked_in_time(file: IO[str], patience: Patience) -> bool:
    before, started = patience.waited_s, time.monotonic()
    while not _is_locked(file):
        patience.waited_s = before + time.monotonic() - started
        if patience.waited_s >= patience.total_s:
            return False
        time.sleep(_POLL_S)
    return True


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
