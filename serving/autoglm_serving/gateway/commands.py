"""`autoglm gateway`: the commands of the gateway."""

import asyncio
import logging
import os
from pathlib import Path

import click

from autoglm_serving.gateway.envoy_config import BODY_SECONDS

DRAIN_SECONDS = 10.0


class HostPort(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`; the host as an IP address."""

    name = "HOST:PORT"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


@click.group()
def gateway() -> None:
    """The gateway: Envoy and the endpoint picker."""


@gateway.command()
@click.option("--listen", type=HostPort(), required=True, help="Where clients connect (OpenAI API).")
@click.option("--admin", type=HostPort(), required=True, help="Where the operator connects.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Keeps the last routing table, so that the gateway serves without its operator.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Holds the secret shared with the operator.",
)
@click.option(
    "--body-timeout",
    type=click.FloatRange(min=0.1),
    default=BODY_SECONDS,
    show_default=True,
    help="Seconds within which a request must be received whole.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=DRAIN_SECONDS,
    show_default=True,
    help="Seconds for requests under way when it is told to stop.",
)
def run(
    listen: tuple[str, int],
    admin: tuple[str, int],
    state_dir: Path,
    token_file: Path,
    body_timeout: float,
    drain_timeout: float,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C."""
    # Envoy is started from a process that holds gRPC threads; the child executes at once, so gRPC need not follow the fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

    import uvloop

    from autoglm_serving.gateway.envoy_process import EnvoyFailed
    from autoglm_serving.gateway.supervisor import CannotStart, Settings
    from autoglm_serving.gateway.supervisor import run as run_gateway

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(listen, admin, state_dir, token_file, body_timeout, drain_timeout)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_gateway(settings))
    except (CannotStart, EnvoyFailed) as error:
        raise click.ClickException(str(error)) from error
