"""`ray` for a small or busy machine: more patience, fewer processes. Run as a program, with the arguments of `ray`.

Three things that Ray 2.60 has no setting for, each seen to end its start at a load of 12 on two cores:
- It gives a node 30 seconds to register.
- The raylet waits about a minute for its dashboard agent to write down the port that it was told to use, and aborts.
- The dashboard starts nine processes, of which the Serve REST API and what an operator asks beside it need three.
"""

import re
import time
from collections.abc import Callable
from pathlib import PurePath
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


def adjusted(command: list[str]) -> list[str]:
    """The command of one of Ray's processes, with the arguments that Ray leaves out."""
    if any(part.endswith("dashboard/dashboard.py") for part in command):
        return [*command, f"--modules-to-load={','.join(DASHBOARD_MODULES)}"]
    return agent_port_told(command)


def agent_port_told(command: list[str]) -> list[str]:
    """The command; a raylet is told the port of its dashboard agent, for which it would wait otherwise."""
    if command and PurePath(command[0]).name == "raylet":
        agent = next((part for part in command if part.startswith("--dashboard_agent_command=")), "")
        port = re.search(r"--listen-port=([1-9]\d*)", agent)
        return [*command, f"--dashboard_agent_listen_port={port[1]}"] if port else command
    return command


def main() -> None:
    """Run Ray's command line."""
    from ray._private import services
    from ray.scripts.scripts import main as ray

    start = services.start_ray_process

    def start_adjusted(command: list[str], *args: Any, **options: Any) -> Any:
        return start(adjusted(command), *args, **options)

    services.get_node = patient(services.get_node)
    services.start_ray_process = start_adjusted
    ray()


if __name__ == "__main__":
    main()
