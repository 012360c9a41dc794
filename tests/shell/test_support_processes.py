"""The tests' own tools: a process must end with the test that started it, whatever happens to the test."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.ports import free_ports
from support.processes import Process, ProcessFailed, engine_cores, title, wait_until

TESTS = Path(__file__).resolve().parents[1]
# A run that starts a process whose child ignores SIGTERM, and then waits to be killed.
_STARTER = """
import sys, time
from pathlib import Path
from support.processes import Process
folder = Path(sys.argv[1])
script = 'trap "" TERM; echo $$ > ' + str(folder / "inner") + '; while :; do sleep 1; done'
Process("stubborn", ["sh", "-c", "sh -c '" + script + "' & wait"], log=folder / "log").start()
(folder / "started").touch()
time.sleep(600)
"""


_BEATING = """
import pathlib, sys, time
while True:
    pathlib.Path(sys.argv[1]).write_text(str(time.monotonic()))
    time.sleep(0.05)
"""

# A child that names itself as vLLM's engine core does, after the first variable of its environment was set anew.
_NAMED = """
import multiprocessing, os, sys, time
from pathlib import Path

def main(told):
    os.environ[Path("/proc/self/environ").read_text().partition("=")[0]] = "anew"
    import setproctitle
    setproctitle.setproctitle("VLLM::EngineCore")
    Path(told).touch()
    time.sleep(600)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=main, args=(sys.argv[1],))
    child.start()
    child.join()
"""


def state(pid: int) -> str:
    """The kernel's letter for what a process does; Z when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def test_processes_end_when_the_run_that_started_them_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", _STARTER, tmp_path], env={**os.environ, "PYTHONPATH": str(TESTS)})
    inner_file = tmp_path / "inner"
    try:
        wait_until(lambda: (tmp_path / "started").exists() and inner_file.exists(), "the run has started its process")
        wait_until(lambda: bool(inner_file.read_text().strip()), "the inner process has told its id")
        inner = int(inner_file.read_text())
        assert alive(inner)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait(60)
    wait_until(lambda: not alive(inner), "the process of the killed run has ended")


def test_terminate_ends_descendants_that_ignore_sigterm(tmp_path: Path) -> None:
    script = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/inner; while :; do sleep 1; done' & wait"
    process = Process("parent", ["sh", "-c", script], log=tmp_path / "log")
    with process:
        process.wait_for(lambda: (tmp_path / "inner").exists() and (tmp_path / "inner").read_text() != "", "it started")
        inner = int((tmp_path / "inner").read_text())
    wait_until(lambda: not alive(inner), "its child has ended")
    assert not process.running


def test_a_process_that_ends_early_fails_the_wait_with_its_log(tmp_path: Path) -> None:
    with (
        Process("broken", ["sh", "-c", "echo the reason; exit 3"], log=tmp_path / "log") as process,
        pytest.raises(ProcessFailed, match=r"broken ended with 3 before it is ready:\nthe reason"),
    ):
        process.wait_for(lambda: False, "it is ready")


def test_a_paused_process_goes_on_after_resume(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with Process("beating", [sys.executable, "-c", _BEATING, beat], log=tmp_path / "log") as process:
        process.wait_for(lambda: beat.exists() and beat.read_text() != "", "it beats")
        process.pause()
        wait_until(lambda: state(process.pid) == "T", "it is stopped")
        before = beat.read_text()
        process.resume()
        process.wait_for(lambda: beat.read_text() not in ("", before), "it beats again")


def test_a_process_can_be_started_again_and_adds_to_its_log(tmp_path: Path) -> None:
    process = Process("twice", ["sh", "-c", "echo here; exec sleep 600"], log=tmp_path / "log")
    with process:
        process.wait_for(lambda: process.log_text().count("here") == 1, "it has written")
        process.terminate()
        assert process.returncode == -signal.SIGTERM
        process.start()
        process.wait_for(lambda: process.log_text().count("here") == 2, "it has written again")
    assert not process.running


def test_an_engine_core_that_could_not_name_itself_is_found_by_how_it_was_started(tmp_path: Path) -> None:
    pytest.importorskip("setproctitle", reason="it comes with vLLM")
    script, told = tmp_path / "script.py", tmp_path / "told"
    script.write_text(_NAMED)
    with Process("parent", [sys.executable, script, told], log=tmp_path / "log") as parent:
        parent.wait_for(told.exists, "the child has set its title")
        (core,) = engine_cores(parent.pid)
        assert "VLLM" not in title(core)


def test_free_ports_are_distinct_and_bindable() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports[:5]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        pytest.skip("the range is known on Linux only")
    if first < 32_000:
        pytest.skip(f"this machine takes outgoing ports from {first} up")
    assert max(free_ports(50)) < first
