"""`autoglm up`: Ray, the gateway and the controller on one machine, from one manifest, until it is told to stop."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoglm_operator.api.quantities import cpus
from autoglm_operator.controller import AlwaysLeading, Controller, Parts
from autoglm_operator.local import show
from autoglm_operator.local.gateway_process import GatewayProcess, GatewayStartError
from autoglm_operator.local.manifest import (
    DEFAULT_NAMESPACE,
    LOCAL_SITE,
    InvalidManifest,
    Manifest,
    SecretKey,
    read,
)
from autoglm_operator.local.narrator import QUIET_S, Narrator
from autoglm_operator.local.process_group import clean_up_after_crash
from autoglm_operator.local.ray_head import RayHead, RayStartError
from autoglm_operator.local.state_dir import StateDir
from autoglm_operator.local.store import FileStore
from autoglm_operator.settings import Pace
from autoglm_operator.store import SITE, JsonObject, ObjectKey
from autoglm_operator.telemetry import JsonLines, log

# One local site costs nothing to look at, and somebody waits.
PACE = Pace(busy_poll_s=0.5, idle_poll_s=2.0, gateway_poll_s=0.5)
POLL_S = 0.25
CLEAN_SITES_S = 60.0
# Ray's CPUs are only bookkeeping. More than the machine has, so that editing the manifest to a few replicas just works.
MIN_CPUS = 8
RAY_SECRET: SecretKey = (DEFAULT_NAMESPACE, "autoglm-local-ray", "token")


@dataclass(frozen=True)
class UpOptions:
    """What `autoglm up` was told."""

    manifest: Path
    state: StateDir
    port: int
    say: Callable[[str], None]


Version = tuple[int, int]


class UpFailed(RuntimeError):
    """It cannot go on; the message says why and what to do."""


class Up:
    """One run. `run` returns when a signal came and everything is gone."""

    def __init__(self, options: UpOptions) -> None:
        """Starts nothing yet."""
        self._options = options
        self._state = options.state
        self._narrator = Narrator(options.say)
        self._say = self._narrator.say
        self._stop = asyncio.Event()
        self._read_version: Version | None = None
        self._head: RayHead | None = None
        self._gateway: GatewayProcess | None = None

    async def run(self) -> None:
        """Start, answer one screenshot, look after everything until SIGINT or SIGTERM. Raises UpFailed."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        manifest = await self._first_manifest()
        async with AsyncExitStack() as stack:
            stack.callback(self._state.withdraw)
            self._keep_log(stack)
            self._clean_up_after_crash()
            await self._start_processes(manifest, stack)
            if self._stop.is_set():
                return
            store = FileStore(self._state.objects, self._state.identity())
            store.apply(*self._wanted(manifest))
            controller = self._controller(store)
            leading = asyncio.create_task(controller.lead(), name="controller")
            stack.push_async_callback(_end_task, leading)
            if manifest.has_sites:
                stack.push_async_callback(self._leave_sites, store, controller)
            await self._until_stopped(leading, asyncio.create_task(self._serve(store, controller)))

    async def _until_stopped(self, leading: "asyncio.Task[None]", serving: "asyncio.Task[None]") -> None:
        """A task that ends by itself ends the run: its error is the run's."""
        stopped = asyncio.create_task(self._wait_for_stop())
        try:
            done, _ = await asyncio.wait({stopped, leading, serving}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end_task(stopped)
            await _end_task(serving)
        self._say("stopping")

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    # Starting

    async def _first_manifest(self) -> Manifest:
        try:
            manifest = self._read()
        except (OSError, InvalidManifest) as error:
            raise UpFailed(_words(self._options.manifest, error)) from None
        for key in manifest.objects:
            self._say(f"{self._options.manifest}: {key}")
        return manifest

    def _read(self) -> Manifest:
        self._read_version = self._version()
        return read(self._options.manifest.read_text())

    def _keep_log(self, stack: AsyncExitStack) -> None:
        """The controller's log goes to a file; people get sentences."""
        handler = logging.FileHandler(self._state.log, mode="w")
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        log.setLevel(logging.INFO)
        stack.callback(handler.close)

    def _clean_up_after_crash(self) -> None:
        self._state.withdraw()
        left = [clean_up_after_crash(path) for path in self._state.records]
        if any(left):
            self._say("ended what a killed run had left")

    async def _start_processes(self, manifest: Manifest, stack: AsyncExitStack) -> None:
        self._state.token()
        gateway = self._gateway = GatewayProcess(
            self._state.gateway, self._state.gateway_token_file, self._options.port
        )
        head = self._head = (
            None if manifest.has_sites else RayHead(self._state.ray, _cpus(manifest), progress=self._say)
        )
        if head is not None:
            stack.push_async_callback(asyncio.to_thread, head.stop)
        stack.push_async_callback(asyncio.to_thread, gateway.stop)
        self._say(f"starting the gateway on {gateway.url} (log: {gateway.log_path})")
        gateway.start()
        if head is not None:
            self._say(f"starting Ray (log: {head.log_path})")
            await self._wait_with_words(head.start, "Ray")
        if self._stop.is_set():
            return
        await self._wait_with_words(lambda: gateway.wait_until_live(self._stop.is_set), "the gateway")
        self._state.announce(self._options.manifest.resolve(), gateway.url, gateway.admin_url)

    async def _wait_with_words(self, work: Callable[[], None], what: str) -> None:
        """Wait for a start; say now and then that it goes on. On a stop, the start is told to give up and waited for."""
        task = asyncio.create_task(asyncio.to_thread(work))
        stopped = asyncio.create_task(self._wait_for_stop())
        try:
            while not task.done():
                await asyncio.wait({task, stopped}, timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    await self._give_up(task)
                    return
                if not task.done():
                    self._say(f"waiting for {what}")
            task.result()
            self._say(f"{what} answers")
        except (RayStartError, GatewayStartError) as error:
            raise UpFailed(str(error)) from None
        finally:
            await _end_task(stopped)

    async def _give_up(self, task: "asyncio.Task[None]") -> None:
        if self._head is not None:
            await asyncio.to_thread(self._head.stop)
        with contextlib.suppress(RayStartError, GatewayStartError):
            await task

    def _controller(self, store: FileStore) -> Controller:
        assert self._gateway is not None, "the gateway was started"
        token = self._state.gateway_token_file
        return Controller(
            Parts(
                store=store,
                fence=AlwaysLeading(self._state.next_epoch()),
                gateways=(self._gateway.admin_url,),
                gateway_token=lambda: token.read_text().strip(),
                now=lambda: datetime.now(UTC),
                clock=time.monotonic,
                pace=PACE,
            )
        )

    def _wanted(self, manifest: Manifest) -> tuple[dict[ObjectKey, JsonObject], dict[SecretKey, str]]:
        """The manifest's objects, and the local site when it has none."""
        if self._head is None:
            return dict(manifest.objects), dict(manifest.secrets)
        key = ObjectKey(SITE, "", LOCAL_SITE)
        site = local_site(self._head.address, self._head.serve_address)
        return {key: site, **manifest.objects}, {**manifest.secrets, RAY_SECRET: self._head.token}

    # Serving

    async def _serve(self, store: FileStore, controller: Controller) -> None:
        """Tell of every change; answer one screenshot once all is ready; take edits; keep the processes up."""
        answered: set[ObjectKey] = set()
        invited = False
        while True:
            await asyncio.sleep(POLL_S)
            if self._version() not in (None, self._read_version):
                self._take_edit(store, controller)
            await self._keep_processes()
            self._narrator.tell_changes(store.objects())
            if all(map(show.is_ready, store.deployments().values())):
                for key in store.deployments().keys() - answered:
                    answered.add(key)
                    await self._answer(key, store.objects()[key])
                if not invited:
                    invited = True
                    self._say("Ctrl-C stops everything; edit the file to change what runs")

    async def _answer(self, key: ObjectKey, raw: JsonObject) -> None:
        assert self._gateway is not None, "the gateway was started"
        paths = (self._options.manifest, self._state.request)
        await asyncio.to_thread(self._narrator.show_and_send, key, raw, self._gateway.url, paths)

    def _version(self) -> "Version | None":
        """Tells one version of the file from the next; None while there is none, as when an editor replaces it."""
        try:
            found = self._options.manifest.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _take_edit(self, store: FileStore, controller: Controller) -> None:
        try:
            manifest = self._read()
            if manifest.has_sites != (self._head is None):
                raise InvalidManifest(["sites were added to the file or removed from it: stop and start `autoglm up`"])
        except (OSError, InvalidManifest) as error:
            self._say(f"{_words(self._options.manifest, error)}\nthe last good version goes on")
            return
        changed = store.apply(*self._wanted(manifest))
        for key in changed:
            controller.wake(key)
        self._say(f"{self._options.manifest} was edited: " + (", ".join(map(str, changed)) or "nothing changed"))

    async def _keep_processes(self) -> None:
        if self._gateway is not None and not self._gateway.running:
            self._say("the gateway ended; starting it again")
            self._gateway.start()
            gateway = self._gateway
            await self._wait_with_words(lambda: gateway.wait_until_live(self._stop.is_set), "the gateway")
        if self._head is not None and not self._head.running:
            self._say("Ray ended; starting it again")
            self._head.kill()
            await self._wait_with_words(self._head.start, "Ray")

    # Stopping

    async def _leave_sites(self, store: FileStore, controller: Controller) -> None:
        """A local Ray takes its applications with it; at sites of the manifest they have to be removed."""
        self._say("removing the applications from their sites")
        for key in store.delete_deployments():
            controller.wake(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_SITES_S):
                await store.until(lambda: not store.deployments())
        for key in store.deployments():
            self._say(f"{key} could not be removed from its sites: run `autoglm up` again when they can be reached")


def local_site(address: str, serve_address: str) -> JsonObject:
    """The site that stands for this machine."""
    namespace, name, key = RAY_SECRET
    ray = {
        "address": address,
        "serveAddresses": [serve_address],
        "tokenSecret": {"namespace": namespace, "name": name, "key": key},
    }
    return {
        "apiVersion": "serving.autoglm.dev/v1alpha1",
        "kind": SITE,
        "metadata": {"name": LOCAL_SITE},
        "spec": {"tier": "cloud", "backend": {"ray": ray}},
    }


def _cpus(manifest: Manifest) -> float:
    """Cores that Ray shall offer: enough for all replicas that there may be. They are not taken from anybody."""
    needed = sum(
        (each.spec.scaling.max if each.spec.scaling else each.spec.replicas) * cpus(each.spec.worker.resources.cpu)
        for each in manifest.deployments()
    )
    return max(MIN_CPUS, needed)


def _words(path: Path, error: Exception) -> str:
    if isinstance(error, InvalidManifest):
        return "\n".join([f"{path} cannot be used:", *(f"  {problem}" for problem in error.problems)])
    return f"{path} cannot be read: {error}"


async def _end_task(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
