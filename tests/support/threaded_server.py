"""An aiohttp server in a thread of its own, for fakes that a test drives from outside the event loop."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from support.ports import free_port

STOP_S = 30.0


class ThreadedServer:
    """Serves `application()` on a port that stays the same over stop and start."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, when it does."""
        return f"http://{self.host}:{self.port}"

    def application(self) -> web.Application:
        """What is served; made anew at each start."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to listen."""
        self._run(self._start())

    def stop(self) -> None:
        """Refuse connections and cut those that are open; what it remembers stays."""
        self._run(self._stop())

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_S)

    async def _start(self) -> None:
        if self._runner is not None:
            return
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.host, self.port, reuse_address=True).start()
        self._runner = runner

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
