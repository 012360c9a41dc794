"""Free ports for the processes that tests start."""

import random
import socket

# Below the range from which the kernel takes ports for outgoing connections (32768 and up on Linux), so that no connection
# of another process takes a port between its choice here and its use.
_FIRST, _LAST = 12_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nothing on this machine listens on, and that this process has not been given before."""
    for _ in range(1_000):
        port = random.randint(_FIRST, _LAST)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST}")


def free_ports(count: int) -> tuple[int, ...]:
    """Several different free ports."""
    return tuple(free_port() for _ in range(count))


def _is_free(port: int) -> bool:
    # Without SO_REUSEADDR, and on all addresses: a listener on any of them, or a connection not yet forgotten, is seen.
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
