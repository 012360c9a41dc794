"""How the operator bears 10, 100 and 1,000 deployments, and KubeRay's own operator as many RayServices, on the same API server.

etcd and kube-apiserver are real; the Ray clusters and the gateway are simulated by two other processes (`support.ray_farm`), so
that what is measured is the operator, its calls and its API server. The operators run in turns. `AUTOGLM_SCALE=10,50` chooses
other numbers, `AUTOGLM_SCALE_ARMS=ours` one operator alone, `AUTOGLM_SCALE_STEADY=300` the seconds of the steady phase.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import describe, table
from benchmarks.scale.asked import Wrong, asked
from benchmarks.scale.kuberay import CONTROLLERS, KubeRay
from benchmarks.scale.ours import SITES, SITES_EACH, Ours
from benchmarks.scale.phases import CLIENTS, Arm, go_through

from support.kubernetes import ControlPlane
from support.ray_farm import Ports

ARMS: dict[str, Callable[[Path, ControlPlane, Ports], Arm]] = {"ours": Ours, "kuberay": KubeRay}


@contextmanager
def opened(chosen: Sequence[str]) -> Iterator[list[Arm]]:
    """The API server and the simulated clusters, with operators that are not started yet."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # Compiled modules are kept between the starts of the operator, as in an image.
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=f"{name}/compiled")
        plane, ports = ControlPlane(folder / "kubernetes", controllers=CONTROLLERS), Ports()
        arms: list[Arm] = []
        try:
            plane.start()
            with ports.running(folder):
                arms += [ARMS[arm](folder, plane, ports) for arm in chosen]
                yield arms
        finally:
            plane.stop()


def main() -> None:
    try:
        wanted = asked(os.environ, ARMS)
    except Wrong as wrong:
        print(f"operator_scale: {wrong}", file=sys.stderr)
        sys.exit(2)
    machine = describe()
    names: list[str] = []
    columns: dict[str, list[str]] = {}
    with opened(wanted.arms) as arms:
        present = 0
        for size in wanted.sizes:
            for arm in arms:
                rows = go_through(arm, present, size, wanted.steady_s)
                names = [row[0] for row in rows]
                columns[f"{arm.title}, {size}"] = [row[1] for row in rows]
            present = size
    print(f"{machine}; {SITES} sites, each deployment at {SITES_EACH} of them, {CLIENTS} clients create\n")
    lines = [[name, *(column[number] for column in columns.values())] for number, name in enumerate(names)]
    print(table(["", *columns], lines))


if __name__ == "__main__":
    main()
