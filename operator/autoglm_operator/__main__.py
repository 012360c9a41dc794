"""`python -m autoglm_operator run` starts the operator; `crds` writes what is made from models."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import re
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from autoglm_operator import chart, handlers, reference
from autoglm_operator import crds as definitions
from autoglm_operator.controller import Controller, Parts
from autoglm_operator.kube import (
    KubeApi,
    KubeLease,
    KubeStore,
    Patience,
    account_of,
    bearer_token,
    kinds_are_served,
    load_configuration,
    remote_configuration,
)
from autoglm_operator.lease import Elector, LeaseName, LeaseTimes
from autoglm_operator.settings import OperatorSettings
from autoglm_operator.store import StoreError
from autoglm_operator.telemetry import Metrics, configure_logging, configure_tracing, log

CRD_POLL_S = 2.0

KEEP_APART_S = 10.0
LOOK_THROUGH_EVERY = 60
"""Times of the above. Python's cycle collector looks through all that lives whenever a quarter is new, which took half a second
each time with 1,000 deployments, every five seconds. What has lived is kept apart from it, and looked through so seldom."""


class Operator:
    """One operator process: the watch, the election, the controller and the servers for probes and metrics."""

    def __init__(self, settings: OperatorSettings) -> None:
        """Reads the configuration of the cluster; opens nothing yet."""
        self._settings = settings
        self._metrics = Metrics()
        self._watching = asyncio.Event()
        self._stop = asyncio.Event()
        times = LeaseTimes.of_duration(settings.lease_duration_s)
        # One short attempt: the election tries again by itself, and a hung call must not outlast the lease.
        patience = Patience(times.retry, times.renew_deadline / 3, attempts=1)
        configuration = load_configuration()
        lease_api = KubeApi(configuration, threads=4, patience=patience)
        account = account_of(bearer_token(configuration), settings.lease_namespace)
        self._elector = Elector(
            KubeLease(lease_api, settings.lease_namespace, settings.lease_name, account),
            LeaseName(settings.lease_namespace, settings.lease_name, settings.identity),
            times,
            warn=_warn_of_lease,
        )
        api = KubeApi(load_configuration(), self._elector, on_call=self._count)
        self._apis = (api, lease_api)
        self._controller = Controller(
            Parts(
                store=KubeStore(api, settings.namespaces, settings.identity),
                fence=self._elector,
                gateways=settings.gateways,
                gateway_service=settings.gateway_service,
                gateway_token=_reader(settings.gateway_token_file),
                now=lambda: datetime.now(UTC),
                clock=time.monotonic,
                connect=self._connect,
                metrics=self._metrics,
                pace=settings.pace,
            )
        )

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT. Raises when a part fails that the process cannot go on without."""
        self._take_signals()
        servers = await self._serve()
        stop_watch = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._stop.wait(), name="stop")]
        try:
            if not await self._crds_installed():
                return
            namespaces = self._settings.namespaces
            watch = asyncio.create_task(
                handlers.watch(self._controller.wake, namespaces, self._watching, stop_watch), name="watch"
            )
            tasks.append(watch)
            tasks.append(asyncio.create_task(self._after_watching(self._take_signals), name="signals"))
            tasks.append(asyncio.create_task(self._elector.run(self._controller.lead), name="election"))
            tasks.append(asyncio.create_task(_keep_the_old_apart(), name="heap"))
            await self._until_one_ends(tasks)
        finally:
            # The leader first, then the lease, then the watch: kopf ends every task that is younger than itself.
            for task in reversed(tasks):
                if task.get_name() != "watch":
                    task.cancel()
                    await asyncio.wait({task})
            for server in servers:
                await server.cleanup()
            stop_watch.set()
            await asyncio.wait([task for task in tasks if not task.done()] or [asyncio.create_task(asyncio.sleep(0))])
            for api in self._apis:
                api.close()

    async def _until_one_ends(self, tasks: list["asyncio.Task[Any]"]) -> None:
        lasting = [task for task in tasks if task.get_name() != "signals"]
        done, _ = await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _after_watching(self, action: Callable[[], None]) -> None:
        """kopf takes the signals for itself when it starts; they are ours."""
        await self._watching.wait()
        action()

    async def _crds_installed(self) -> bool:
        """Waits for the CRDs; False when the process shall end before that."""
        told = False
        while not self._stop.is_set():
            try:
                if await kinds_are_served(self._apis[0]):
                    return True
                problem = "the CRDs are not installed: kubectl apply -f crds/"
            except StoreError as error:
                problem = str(error)
            if not told:
                log.warning("waiting for the API", extra={"fields": {"problem": problem}})
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CRD_POLL_S):
                    await self._stop.wait()
        return False

    async def _serve(self) -> list[web.AppRunner]:
        """The servers for probes and for metrics."""
        probes = web.Application()
        probes.add_routes([web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)])
        metrics = web.Application()
        metrics.add_routes([web.get("/metrics", self._show_metrics)])
        runners = []
        for application, port in ((probes, self._settings.health_port), (metrics, self._settings.metrics_port)):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, self._settings.host, port).start()
            runners.append(runner)
        return runners

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready to lead or to stand by; a standby is ready as well."""
        if not self._watching.is_set():
            return web.Response(status=503, text="not watching the API server yet\n")
        return web.Response(text="leading\n" if self._elector.epoch() is not None else "standing by\n")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _connect(self, kubeconfig: str | None) -> KubeApi:
        """The API of a site's cluster; its writes ask the fence like all others."""
        if kubeconfig is None:
            return self._apis[0]
        return KubeApi(remote_configuration(kubeconfig), self._elector, threads=4, on_call=self._count)

    def _count(self, method: str, outcome: str, seconds: float) -> None:
        self._metrics.kube_calls.labels(method, outcome).observe(seconds)


async def _keep_the_old_apart() -> None:
    """Spares the event loop pauses that grow with all there is. What has no owner any more is freed at once, as ever."""
    for turn in itertools.count():
        if turn % LOOK_THROUGH_EVERY == 0:
            gc.unfreeze()
            gc.collect()
        gc.freeze()
        await asyncio.sleep(KEEP_APART_S)


def _warn_of_lease(why: str) -> None:
    log.warning("the Lease cannot be taken or renewed", extra={"fields": {"error": why}})


def _reader(path: Path | None) -> Callable[[], str]:
    """Reads the token anew each time, so that a rotated one works."""
    return lambda: path.read_text().strip() if path is not None else ""


@click.group()
def main() -> None:
    """The AutoGLM operator."""


@main.command()
@click.option("--namespace", "-n", "namespaces", multiple=True, help="Look after deployments here; may be repeated.")
@click.option("--all-namespaces", "-A", is_flag=True, help="Look after deployments everywhere.")
@click.option("--gateway", "gateways", default="", help="Admin addresses of the gateways, separated by commas.")
@click.option("--gateway-service", default="", help="http://NAME:PORT: every address of NAME is a gateway too.")
@click.option("--gateway-token-file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--lease-namespace", required=True, help="Namespace of the Lease.")
@click.option("--lease-name", default="autoglm-operator", show_default=True)
@click.option("--lease-duration", type=click.FloatRange(3, 300), default=15.0, show_default=True, help="Seconds.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address for probes and metrics.")  # noqa: S104
@click.option("--health-port", type=int, default=8081, show_default=True)
@click.option("--metrics-port", type=int, default=9090, show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def run(  # noqa: PLR0913 - one parameter for each option of the command line
    *,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    gateways: str,
    gateway_service: str,
    gateway_token_file: Path | None,
    lease_namespace: str,
    lease_name: str,
    lease_duration: float,
    host: str,
    health_port: int,
    metrics_port: int,
    log_level: str,
) -> None:
    """Look after AutoGLMDeployments and AutoGLMSites of a Kubernetes cluster."""
    if all_namespaces == bool(namespaces):
        raise click.UsageError("give either --namespace or --all-namespaces")
    urls = tuple(url.strip() for url in gateways.split(",") if url.strip())
    if (urls or gateway_service) and gateway_token_file is None:
        raise click.UsageError("a gateway needs --gateway-token-file: the token signs the routing table")
    if gateway_service and not re.fullmatch(r"https?://[^/:]+:[0-9]{1,5}", gateway_service):
        raise click.UsageError(f"--gateway-service {gateway_service!r} is not http://NAME:PORT")
    configure_logging(log_level)
    configure_tracing()
    settings = OperatorSettings(
        lease_namespace=lease_namespace,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        namespaces=namespaces,
        gateways=urls,
        gateway_service=gateway_service,
        gateway_token_file=gateway_token_file,
        lease_name=lease_name,
        lease_duration_s=lease_duration,
        host=host,
        health_port=health_port,
        metrics_port=metrics_port,
    )
    code = _run(settings)
    logging.shutdown()
    # A call to a silent API server can keep a thread for ten more seconds; nothing of it is needed any more.
    os._exit(code)


def _run(settings: OperatorSettings) -> int:
    async def start() -> None:
        await Operator(settings).run()

    try:
        asyncio.run(start())
    except Exception:  # noqa: BLE001 - the last place that can say why the process ends
        log.exception("the operator ends")
        return 1
    log.info("ended")
    return 0


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if a file is not as it should be.")
@click.option("--root", type=click.Path(path_type=Path, file_okay=False, exists=True), default=Path())
def crds(check: bool, root: Path) -> None:
    """Write the files that are made from models, under the repository's root: CRDs, schemas, reference pages, the chart's."""
    files = definitions.generate() | reference.generate(definitions.definitions()) | chart.generate()
    stale = [name for name, text in files.items() if not _is(root / name, text)]
    if check and stale:
        click.echo("not as the models say (run `make crds`): " + ", ".join(stale), err=True)
        sys.exit(1)
    for name in stale:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name])
        click.echo(f"wrote {name}")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
