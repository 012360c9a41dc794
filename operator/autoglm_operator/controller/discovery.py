"""The gateways behind one name: every address that the name resolves to is one gateway."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

Resolve = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""From host and port to addresses; none when the name cannot be resolved."""


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """The addresses by the system's resolver. A name without addresses and a resolver that fails look the same."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(sorted({str(address[0]) for *_, address in found}))


async def gateways_behind(service: str, resolver: Resolve) -> tuple[str, ...]:
    """The admin address of every gateway behind "http://NAME:PORT"; empty when `service` is."""
    if not service:
        return ()
    parts = urlsplit(service)
    host, port = parts.hostname or "", parts.port or 80
    return tuple(
        f"{parts.scheme}://{f'[{address}]' if ':' in address else address}:{port}"
        for address in await resolver(host, port)
    )
