"""`ray` with more patience: its 30 seconds for a node to register pass on a machine that does anything else.

Ray has no setting for them, and each failed start costs more than the wait. Run as a program, with the arguments of `ray`.
"""

import time
from collections.abc import Callable
from typing import Any

REGISTER_DEADLINE_S = 150.0
POLL_S = 0.5


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


def main() -> None:
    """Run Ray's command line."""
    from ray._private import services
    from ray.scripts.scripts import main as ray

    services.get_node = patient(services.get_node)
    ray()


if __name__ == "__main__":
    main()
