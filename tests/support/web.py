"""A web server of a test's own, on the loopback network."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler


@asynccontextmanager
async def answering(handler: Handler, address: str = "127.0.0.1") -> AsyncIterator[int]:
    """Its port, while the handler answers whatever is asked for by whatever method."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        listener = socket.create_server((address, 0))
        await web.SockSite(runner, listener).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()
