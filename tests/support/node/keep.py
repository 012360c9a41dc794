"""`make node`: the node of the end-to-end run, with KubeRay on it, until it is told to stop. Prints its kubeconfig."""

import os
import shutil
import signal
import sys
from types import FrameType

import pytest

from support.kubernetes import ROOT
from support.node import cluster, probe

DIRECTORY = ROOT / ".cache/node"


def main() -> int:
    """Keeps the node until SIGINT or SIGTERM."""
    why = probe.obstacle()
    if why:
        print(why, file=sys.stderr)
        return 1
    os.environ.pop("KUBECONFIG", None)  # it would name another cluster
    signal.signal(signal.SIGTERM, _interrupt)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    try:
        with cluster.running(DIRECTORY) as running:
            print(running.api.kubeconfig, flush=True)
            print("the node is there until Ctrl-C: KUBECONFIG=<the path above> make e2e", file=sys.stderr, flush=True)
            signal.pause()
    except pytest.skip.Exception as busy:
        print(busy, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("the node is gone", file=sys.stderr)
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
