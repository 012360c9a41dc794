"""Run a program that ends when its parent ends: `python child.py PARENT-PID PROGRAM ARGUMENT...`.

The kernel forgets the wish over fork but not over exec, so it is set here, in a process of one thread, and not in the gateway
between fork and exec, where gRPC's threads make Python code unsafe. Standard library only: it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the wish, check that the parent is still there, become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the gateway ended before its child started")
    os.execv(program, sys.argv[2:])  # noqa: S606 - the program is the gateway's own Envoy


if __name__ == "__main__":
    main()
