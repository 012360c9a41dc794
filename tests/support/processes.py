"""Real processes in tests: started, watched, paused, ended, with their log in the message when something fails."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from support.reaper import reaper

POLL_S = 0.05
SPAWNED = "from multiprocessing.spawn import"
"""What the command line of a child that multiprocessing spawned says, unless the child could name itself."""
# Deadlines are for machines ten times slower than one expects; nothing waits that long when all is well.
DEADLINE_S = 120.0


class ProcessFailed(RuntimeError):
    """A process ended or did not get as far as it should have. The message holds the end of its log."""


class Process:
    """One child in its own process group; it ends with the test run whatever happens to the run.

    >>> with Process("sleeper", ["sleep", "60"], log=tmp_path / "sleeper.log") as sleeper:
    ...     sleeper.wait_for(lambda: sleeper.running, "it runs")
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        outlive: bool = False,
    ) -> None:
        """`env` is added to this process's environment. `outlive`: goes on when the process that started it ends."""
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._outlive = outlive
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def start(self) -> Self:
        """Start it; its output is added to the log file."""
        if self.running:
            raise ProcessFailed(f"{self.name} runs already as {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self.command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ended = False
        if not self._outlive:
            reaper().watch(self.pid)
        return self

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        if self._process is None:
            raise ProcessFailed(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs, negative when a signal ended it."""
        return None if self._process is None else self._process.poll()

    def log_text(self) -> str:
        """Everything it has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """The last lines it has written."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S) -> None:
        """Wait until the condition holds while the process runs; fails at once when the process ends."""
        deadline = time.monotonic() + timeout
        while not self._met(condition, what, deadline):
            time.sleep(POLL_S)

    async def until(self, condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S) -> None:
        """`wait_for` for tests that have an event loop to keep running."""
        deadline = time.monotonic() + timeout
        while not self._met(condition, what, deadline):
            await asyncio.sleep(POLL_S)

    def _met(self, condition: Callable[[], bool], what: str, deadline: float) -> bool:
        if not self.running:
            raise ProcessFailed(f"{self.name} ended with {self.returncode} before {what}:\n{self.log_tail()}")
        if condition():
            return True
        if time.monotonic() > deadline:
            raise ProcessFailed(f"{self.name}: waited in vain until {what}:\n{self.log_tail()}")
        return False

    def wait(self, timeout: float = DEADLINE_S) -> int:
        """Wait for its end; its exit status."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{self.name} did not end in {timeout:g} s:\n{self.log_tail()}") from None

    def interrupt(self) -> None:
        """What Ctrl-C does: SIGINT to the whole group."""
        self._signal(signal.SIGINT)

    def pause(self) -> None:
        """Stop it without ending it: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def terminate(self, grace: float = 20.0) -> None:
        """End it: SIGTERM, then SIGKILL to whatever is left of its group."""
        if self._process is not None and self.running:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End it and its whole group at once, as a crash would."""
        if self._process is None or self._ended:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        self._ended = True
        if not self._outlive:
            reaper().forget(self.pid)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def family(root: int) -> list[int]:
    """A process and everything that it started, also through others."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for each in found:
        found += children.get(each, [])
    return found


def title(pid: int) -> str:
    """Its command line, or the name that it gave itself; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def pid_inside(pid: int) -> int:
    """The process id in the innermost namespace; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def engine_cores(pid: int) -> list[int]:
    """vLLM's engine processes below `pid`; helpers of multiprocessing are not among them.

    They name themselves, but that fails without a word where the first variable of their environment was set anew: the
    arguments are looked for right before it. Ray puts the variables of a worker in an order by chance.
    """
    return [each for each in family(pid)[1:] if title(each).startswith("VLLM") or SPAWNED in title(each)]


def runs(pid: int) -> bool:
    """Whether there is such a process and it has not ended: a zombie has."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def processor_s(pid: int) -> float:
    """Seconds of processor time since its start; 0 when it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process: what is its own, and a share of what it shares; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _stat(pid: int) -> list[str]:
    """What /proc says of a process, from its state on; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def wait_until(condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S, *, poll: float = POLL_S) -> None:
    """Wait for a condition that belongs to no single process."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain until {what}")
        time.sleep(poll)


async def until(condition: Callable[[], bool], what: str, timeout: float = DEADLINE_S) -> None:
    """`wait_until` for tests that have an event loop to keep running."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain until {what}")
        await asyncio.sleep(POLL_S)
