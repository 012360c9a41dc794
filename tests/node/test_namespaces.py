"""What a run leaves behind when it is killed is out of the way of the next one; and what a machine lacks for a node is told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import started_at
from support.kubernetes import ROOT
from support.node import probe
from support.node.alone import LOCK, alone
from support.node.namespaces import Namespaces, hierarchies
from support.processes import wait_until

NAME, DEVICE = "autoglm-left", "autoglm-left"
INSIDE, OUTSIDE = "198.19.255.2", "198.19.255.1"
_READ_ONLY = 'for path in /sys/fs/cgroup{,/*/}; do mount -o remount,bind,ro $path || true; done 2>/dev/null; exec "$@"'
_NO_GROUPS = 'mount -t tmpfs tmpfs /sys/fs/cgroup && exec "$@"'
_NO_SYS = 'mount -t tmpfs tmpfs /sys && exec "$@"'
_NO_RUNC = 'mount --bind "$(type -P false)" "$(type -P runc)" && exec "$@"'
# A container's own root of version 2, privileged: groups can be made in it, but it hands no controller on.
_BARE = """
mount -t cgroup2 none /sys/fs/cgroup || exit
group=/sys/fs/cgroup/autoglm-bare-$$
mkdir $group && mount --bind $group /sys/fs/cgroup && "$@"; status=$?
umount /sys/fs/cgroup; rmdir $group; exit $status
"""
_PROBE = "from support.node import probe; print(probe.obstacle())"


# Another run, which may be waited for, does not count.
pytestmark = pytest.mark.timeout(600, func_only=True)


@pytest.fixture(autouse=True)
def able() -> None:
    """Only where a node can run."""
    if probe.obstacle():
        pytest.skip(probe.obstacle())


@pytest.fixture
def no_other_run() -> Iterator[None]:
    """The name, the device and the addresses below are the whole machine's."""
    with alone():
        yield


@pytest.fixture
def left_behind(no_other_run: None, tmp_path: Path) -> Iterator[Namespaces]:
    """Namespaces with a cable and busy control groups, which nobody ends in order."""
    left = Namespaces(NAME, tmp_path / "left")
    (tmp_path / "left").mkdir()
    left.start()
    try:
        left.link(INSIDE, OUTSIDE, 30, DEVICE)
        for hierarchy in hierarchies():
            (hierarchy / NAME / "pod").mkdir()
            (hierarchy / NAME / "cgroup.procs").write_text(str(left.pid))
        yield left
    finally:
        left.stop()


def test_a_run_that_was_killed_is_out_of_the_way_of_the_next(left_behind: Namespaces, tmp_path: Path) -> None:
    first, since = left_behind.pid, started_at(left_behind.pid)
    assert since is not None
    assert subprocess.run(["flock", "--nonblock", LOCK, "true"], check=False).returncode == 1, "another run could start"
    (tmp_path / "next").mkdir()
    following = Namespaces(NAME, tmp_path / "next")
    try:
        following.start()
        following.link(INSIDE, OUTSIDE, 30, DEVICE)
        wait_until(lambda: started_at(first) != since, "what was left has ended")
        assert following.pid != first
        assert (
            f"{OUTSIDE}/30"
            in subprocess.run(
                ["ip", "-brief", "address", "show", "dev", DEVICE, "up"], capture_output=True, text=True, check=True
            ).stdout
        )
        assert f"{INSIDE}/30" in following.checked("ip -brief address show dev eth0 up")
        assert not any((hierarchy / NAME / "pod").exists() for hierarchy in hierarchies())
    finally:
        following.stop()
    assert not any((hierarchy / NAME).exists() for hierarchy in hierarchies())


@pytest.mark.parametrize(
    ("within", "why"),
    [
        (["setpriv", "--bounding-set=-sys_admin"], "namespaces cannot be made here"),
        (["unshare", "--mount", "bash", "-c", _READ_ONLY, "-"], "control groups cannot be made here"),
        (["unshare", "--mount", "bash", "-c", _NO_GROUPS, "-"], "no control groups are mounted"),
        (["unshare", "--mount", "bash", "-c", _NO_SYS, "-"], "no control groups are mounted"),
        (
            ["unshare", "--mount", "bash", "-c", _BARE, "-"],
            "control groups made here have no cpu, cpuset, memory, pids",
        ),
        (
            ["unshare", "--mount", "bash", "-c", _NO_RUNC, "-"],
            "what a node does cannot be tried here (CalledProcessError",
        ),
        (["setpriv", "--reuid=65534", "--clear-groups"], "a node takes root"),
        (["env", "PATH=/nowhere"], "apt-get install conntrack containerd iproute2 iptables runc"),
        (["env"], ""),
    ],
    ids=[
        "no rights",
        "read-only groups",
        "no groups",
        "no /sys",
        "no controllers",
        "no runc",
        "no root",
        "no programs",
        "all there",
    ],
)
def test_what_a_machine_lacks_is_told(within: list[str], why: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [*within, sys.executable, "-c", _PROBE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert why in done.stdout
    assert bool(done.stdout.strip()) == bool(why)
