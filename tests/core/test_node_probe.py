"""What keeps a node from this machine is told and skips: a probe that breaks off, and another run that has nodes here."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.kubernetes import ROOT
from support.node import probe
from support.node.alone import LOCK, PATIENCE_S, Patience, alone
from support.node.namespaces import Namespaces
from support.processes import wait_until

_HOLD = """
import sys
from pathlib import Path
from support.node.alone import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
_PLACES = """
from pathlib import Path
from support.node.alone import LOCK
from support.node.namespaces import Namespaces
print(LOCK, Namespaces("autoglm-node", Path("/nowhere"))._record)
"""


@contextmanager
def another_run(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock until it ends."""
    command = [sys.executable, "-c", _HOLD, str(lock)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def _no_such_file() -> str:
    return Path("/nowhere/at/all").read_text()


def _no_success() -> str:
    return str(subprocess.run(["false"], check=True))


def _no_end() -> str:
    return str(subprocess.run(["sleep", "60"], check=False, timeout=0.1))


def _no_patience() -> str:
    wait_until(lambda: False, "pigs fly", timeout=0)
    return ""


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (_no_such_file, "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/at/all'"),
        (_no_success, "CalledProcessError: Command '['false']' returned non-zero exit status 1."),
        (_no_end, "TimeoutExpired: Command '['sleep', '60']' timed out"),
        (_no_patience, "AssertionError: waited 0 s in vain until pigs fly"),
    ],
)
def test_a_trial_that_breaks_off_is_told_and_not_raised(trial: Callable[[], str], words: str) -> None:
    assert words in probe.told(trial)


@pytest.mark.parametrize("words", ["", "no control groups are mounted here"])
def test_what_a_trial_says_is_told_as_it_is(words: str) -> None:
    assert probe.told(lambda: words) == words


def test_another_run_is_told_by_name_and_skips_and_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, patience = tmp_path / "lock", Patience(1.0)
    monkeypatch.setenv(probe.REPORT, str(tmp_path / "not-run"))
    with another_run(lock) as holder:
        waited = []
        for _ in range(3):
            with pytest.raises(pytest.skip.Exception, match="another run has nodes"), alone(lock, patience):
                pass
            waited.append(patience.waited_s)
    assert waited[0] >= 1.0
    assert waited[2] - waited[0] < 1.0, "the first one waited for all"
    first, *others = (tmp_path / "not-run").read_text().splitlines()
    assert first.startswith(f"a real node: another run has nodes on this machine (process {holder.pid} in {Path.cwd()}")
    assert others == [first, first], "the table shows it once"
    with alone(lock, patience):
        assert f"process {os.getpid()} in {Path.cwd()}" in lock.read_text()
    assert lock.read_text() == "", "nobody is told of who has ended"


def test_a_run_gets_the_nodes_when_the_other_one_ends(tmp_path: Path) -> None:
    with another_run(tmp_path / "lock") as holder:
        with pytest.raises(pytest.skip.Exception), alone(tmp_path / "lock", Patience(0.0)):
            pass
        holder.kill()
        with alone(tmp_path / "lock", Patience(120.0)):
            pass


def test_waiting_leaves_most_of_the_layers_time() -> None:
    assert runpy.run_path(str(ROOT / "scripts/run_layers.py"))["LAYER_LIMIT_S"] / 3 >= PATIENCE_S


def test_runs_with_other_folders_for_temporary_files_exclude_each_other(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _PLACES], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(LOCK), str(Namespaces("autoglm-node", tmp_path)._record)]
