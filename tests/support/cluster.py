"""`make cluster-up` and `make cluster-down`: the tests' control plane, kept until it is taken down."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from support.kubernetes import ROOT, ControlPlane
from support.processes import POLL_S

DIRECTORY = ROOT / ".cache/cluster"


def started_at(pid: int) -> str | None:
    """Start time of a live process in the kernel's ticks: tells it from another that got its number later."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def up(directory: Path) -> int:
    """Start a control plane and print its kubeconfig's path; does nothing when it runs."""
    if running(directory):
        print(directory / "kubeconfig")
        return 0
    down(directory)
    plane = ControlPlane(directory, outlive=True)
    try:
        plane.start()
    except BaseException:
        plane.stop()
        raise
    processes = (plane.etcd, plane.apiserver, plane.controller_manager)
    pids = [{"pid": process.pid, "started": started_at(process.pid)} for process in processes]
    (directory / "processes.json").write_text(json.dumps(pids))
    print(plane.kubeconfig)
    return 0


def down(directory: Path) -> int:
    """End the control plane and remove its files; does nothing when there is none."""
    # The controller manager first: it would log the loss of the others.
    for pid in reversed(running(directory)):
        os.killpg(pid, signal.SIGKILL)
    while running(directory):
        time.sleep(POLL_S)
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def running(directory: Path) -> list[int]:
    """Process ids of the control plane's processes that still run."""
    try:
        known = json.loads((directory / "processes.json").read_text())
    except FileNotFoundError:
        return []
    return [entry["pid"] for entry in known if started_at(entry["pid"]) == entry["started"]]


def main(arguments: list[str]) -> int:
    commands = {"up": up, "down": down}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("usage: python -m support.cluster up|down", file=sys.stderr)
        return 2
    return commands[arguments[0]](DIRECTORY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
