"""The gateway process: picker, endpoint discovery, prober and admin interface on one event loop, Envoy as its child.

One process decides and one carries the bytes. If the deciding one dies, the kernel ends Envoy with it; if Envoy dies, it is
started again. On SIGTERM the gateway stops taking requests, finishes those under way, and ends with nothing left behind.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from aiohttp import web

from autoglm_serving.gateway.admin import AdminParts, application
from autoglm_serving.gateway.dispatch import Context
from autoglm_serving.gateway.envoy_calls import discovery, processor
from autoglm_serving.gateway.envoy_config import BUFFER_BYTES, EnvoySettings
from autoglm_serving.gateway.envoy_process import EnvoyProcess
from autoglm_serving.gateway.fleet import Fleet
from autoglm_serving.gateway.link_prober import LinkProber
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.picker import Picker
from autoglm_serving.gateway.prober import Prober
from autoglm_serving.gateway.records import Records
from autoglm_serving.gateway.table_store import TableStore, read_key
from autoglm_serving.gateway.xds import EndpointDiscovery
from autoglm_serving.tracing import Tracing

_log = logging.getLogger(__name__)


class CannotStart(RuntimeError):
    """The gateway cannot start; the message says what to change."""


@dataclass(frozen=True)
class Settings:
    """The command line of `autoglm gateway run`."""

    listen: tuple[str, int]
    admin: tuple[str, int]
    state_dir: Path
    token_file: Path
    body_seconds: float
    drain_seconds: float


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart."""
    _check(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with _only_one(settings.state_dir):
        run_dir = _run_dir(settings.state_dir)
        try:
            await _Gateway(settings, run_dir).run(stopping)
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)


class _Gateway:
    def __init__(self, settings: Settings, run_dir: Path) -> None:
        self._settings = settings
        self._fleet = Fleet()
        self._discovery = EndpointDiscovery(self._fleet)
        self._metrics = Metrics(self._fleet)
        self._context = Context(self._fleet, Records(), self._metrics, Tracing.from_environment("autoglm-gateway"))
        self._store = TableStore(settings.state_dir, settings.token_file)
        self._prober = Prober(self._fleet, self._metrics)
        self._link_prober = LinkProber(self._fleet)
        self._socket = run_dir / "picker.sock"
        host, port = settings.listen
        envoy = EnvoySettings(host, port, self._socket, run_dir / "envoy.sock", settings.body_seconds)
        self._envoy = EnvoyProcess(envoy, run_dir, self._metrics)
        self._draining = False

    async def run(self, stopping: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            stack.callback(self._context.tracing.close)
            await self._start_picker(stack)
            await self._start_admin(stack)
            await stack.enter_async_context(self._prober)
            await stack.enter_async_context(self._link_prober)
            await stack.enter_async_context(self._context.mirror)
            self._load_table()
            envoy = asyncio.create_task(self._envoy.run())
            stack.push_async_callback(self._envoy.stop)
            live = asyncio.create_task(self._announce())
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait({envoy, stopped}, return_when=asyncio.FIRST_COMPLETED)
            live.cancel()
            if envoy.done():
                stopped.cancel()
                envoy.result()
            self._draining = True
            _log.info("stopping: requests under way get up to %.0f s", self._settings.drain_seconds)
            await self._envoy.drain(self._settings.drain_seconds)
            await self._envoy.stop()
            await envoy

    async def _start_picker(self, stack: AsyncExitStack) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", BUFFER_BYTES + 1024 * 1024),
                ("grpc.max_send_message_length", BUFFER_BYTES + 1024 * 1024),
            ]
        )
        server.add_generic_rpc_handlers((processor(Picker(self._context).process), discovery(self._discovery.stream)))
        server.add_insecure_port(f"unix:{self._socket}")
        await server.start()
        stack.push_async_callback(server.stop, 1.0)

    async def _start_admin(self, stack: AsyncExitStack) -> None:
        parts = AdminParts(
            context=self._context,
            store=self._store,
            token_file=self._settings.token_file,
            started_at=datetime.now(UTC),
            table_changed=self._follow,
            envoy_live=self._envoy.live,
            draining=lambda: self._draining,
        )
        runner = web.AppRunner(application(parts), access_log=None, handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = self._settings.admin
        await web.TCPSite(runner, host, port, shutdown_timeout=1.0).start()

    def _load_table(self) -> None:
        table = self._store.load()
        if table is not None:
            _log.info("serving from the table on disk: epoch %d, version %d", table.epoch, table.version)
            self._fleet.apply(table, datetime.now(UTC))
            self._follow()

    def _follow(self) -> None:
        """The table is another one."""
        self._prober.sync()
        self._link_prober.sync()

    async def _announce(self) -> None:
        while not await self._envoy.live():  # noqa: ASYNC110 - polls another process
            await asyncio.sleep(0.05)
        host, port = self._settings.listen
        _log.info("the gateway listens on http://%s:%d", host, port)


def _check(settings: Settings) -> None:
    try:
        key = read_key(settings.token_file)
    except OSError as error:
        raise CannotStart(f"the token file cannot be read: {error}") from error
    if not key:
        raise CannotStart(f"the token file {settings.token_file} is empty")
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"the state folder cannot be made: {error}") from error
    for host, port in (settings.listen, settings.admin):
        _check_free(host, port)


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder: two gateways would write one table and share one run folder."""
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(f"another gateway uses the state folder {state_dir}") from error
        yield


def _run_dir(state_dir: Path) -> Path:
    """A fresh folder for sockets, private to this user.

    Its path is short, because Unix sockets take at most 107 bytes, and always the same for one state folder, so that what a
    killed gateway left is removed by the next one.
    """
    name = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"autoglm-gateway-{name}"
    try:
        if path.is_symlink() or (path.exists() and path.stat().st_uid != os.getuid()):
            raise CannotStart(f"{path} belongs to somebody else")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise CannotStart(f"the run folder cannot be made: {error}") from error
    return path


def _check_free(host: str, port: int) -> None:
    """Say plainly that a port is taken, before Envoy says it at length."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from error
