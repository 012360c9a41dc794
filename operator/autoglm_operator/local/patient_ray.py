"""`ray` for a small or busy machine: more patience, fewer processes. Run as a program, with the arguments of `ray`.

Ray gives a node 30 seconds to register and has no setting for it; each failed start costs more than the wait. Its dashboard
starts nine processes, of which the Serve REST API and what an operator asks beside it need three.
"""

import time
from collections.abc import Callable
from typing import Any

REGISTER_DEADLINE_S = 150.0
POLL_S = 0.5
# Applications; the version; the resources of the cluster.
DASHBOARD_MODULES = ("ServeHead", "JobHead", "ReportHead")


def patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """The function, tried again while it says with a RuntimeError that the node is not there yet."""

    def wait_for_node(*args: Any, **options: Any) -> Any:
        end = time.monotonic() + REGISTER_DEADLINE_S
        while True:
            try:
                return get_node(*args, **options)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(POLL_S)

    return wait_for_node


def frugal(start_process: Callable[..., Any]) -> Callable[..., Any]:
    """The function; the dashboard, when that is what it starts, loads only what is needed."""

    def start(command: list[str], *args: Any, **options: Any) -> Any:
        if any(str(part).endswith("dashboard/dashboard.py") for part in command):
            command = [*command, f"--modules-to-load={','.join(DASHBOARD_MODULES)}"]
        return start_process(command, *args, **options)

    return start


def main() -> None:
    """Run Ray's command line."""
    from ray._private import services
    from ray.scripts.scripts import main as ray

    services.get_node = patient(services.get_node)
    services.start_ray_process = frugal(services.start_ray_process)
    ray()


if __name__ == "__main__":
    main()
