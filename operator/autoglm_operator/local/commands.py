"""The commands `autoglm up`, `down`, `status`, `plan` and `explain`."""

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from autoglm_operator.local.process_group import clean_up_after_crash
from autoglm_operator.local.state_dir import AlreadyRunning, Running, StateDir
from autoglm_operator.local.store import read_objects
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, Kind

STOP_DEADLINE_S = 120.0
EVENTS_SHOWN = 10
MANIFEST = click.Path(exists=True, dir_okay=False, path_type=Path)
SHORT_KINDS: dict[str, Kind] = {
    "agd": DEPLOYMENT,
    "autoglmdeployment": DEPLOYMENT,
    "ags": SITE,
    "autoglmsite": SITE,
}

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=StateDir.default,
    show_default="AUTOGLM_STATE_DIR or ~/.local/state/autoglm",
    help="Folder of the run: one `autoglm up` each.",
)
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)


@click.command()
@click.argument("file", type=MANIFEST)
@click.option(
    "--port", default=8080, show_default=True, help="Port of the OpenAI API on 127.0.0.1; 0 takes a free one."
)
@state_dir_option
def up(file: Path, port: int, state_dir: Path) -> None:
    """Serve the manifest FILE on this machine, without Kubernetes, until Ctrl-C."""
    from autoglm_operator.local.up import Up, UpFailed, UpOptions

    state = StateDir(state_dir.absolute())

    async def run() -> None:
        await Up(UpOptions(file, state, port, click.echo)).run()

    try:
        with state.lock():
            asyncio.run(run())
    except (AlreadyRunning, UpFailed) as error:
        raise click.ClickException(str(error)) from None
    click.echo("stopped: nothing is left running")


@click.command()
@state_dir_option
def down(state_dir: Path) -> None:
    """Stop what `autoglm up` started, also after that was killed."""
    state = StateDir(state_dir.absolute())
    running = state.running()
    if running is not None:
        os.kill(running.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_DEADLINE_S
        while running.alive:
            if time.monotonic() > end:
                raise click.ClickException(f"process {running.pid} has not ended in {STOP_DEADLINE_S:.0f} s")
            time.sleep(0.1)
    left = [clean_up_after_crash(path) for path in state.records]
    state.withdraw()
    click.echo("stopped" if running is not None or any(left) else "nothing runs here")


@click.command()
@output_option
@state_dir_option
def status(output: str, state_dir: Path) -> None:
    """Show the deployments, sites and gateway of the running `autoglm up`."""
    from autoglm_operator.local import show

    state = StateDir(state_dir.absolute())
    running = _running(state)
    objects = read_objects(state.objects)
    gateway = _readiness(running)
    if output == "json":
        whole = {"url": running.url, "manifest": running.manifest, "gateway": gateway, "items": list(objects.values())}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    now = datetime.now(UTC)
    click.echo(show.deployments(objects, now) + "\n\n" + show.sites(objects, now) + "\n")
    checks = ", ".join(f"{name} {'yes' if good else 'NO'}" for name, good in gateway.items()) or "does not answer"
    click.echo(f"gateway {running.url}: {checks}")


@click.command()
@click.argument("file", type=MANIFEST)
@output_option
def plan(file: Path, output: str) -> None:
    """Show what `autoglm up FILE` would put where; starts and changes nothing."""
    from autoglm_operator.local.manifest import InvalidManifest, read
    from autoglm_operator.local.planning import as_json, as_text, plans

    try:
        manifest = read(file.read_text())
    except InvalidManifest as error:
        raise click.ClickException("\n".join([f"{file} cannot be used:", *error.problems])) from None
    found = plans(manifest, datetime.now(UTC))
    click.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False) if output == "json" else as_text(found))


@click.command()
@click.argument("what", metavar="REQUEST-ID|agd/NAME|ags/NAME")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the deployment.")
@click.option("--gateway", "gateway_url", help="Admin address of a gateway elsewhere, such as http://10.0.0.7:9901.")
@click.option("--gateway-token-file", type=MANIFEST, help="The token of that gateway.")
@output_option
@state_dir_option
def explain(
    what: str, namespace: str, gateway_url: str | None, gateway_token_file: Path | None, output: str, state_dir: Path
) -> None:
    """Say why: where a request went, or why a deployment or site is as it is."""
    state = StateDir(state_dir.absolute())
    kind, slash, name = what.partition("/")
    if slash:
        if kind.lower().removesuffix("s") not in SHORT_KINDS and kind.lower() not in SHORT_KINDS:
            raise click.ClickException(f"{kind!r} is not a kind: give agd/NAME, ags/NAME or a request id")
        _explain_object(
            state, SHORT_KINDS.get(kind.lower()) or SHORT_KINDS[kind.lower().removesuffix("s")], namespace, name, output
        )
        return
    if gateway_url is None:
        gateway_url, gateway_token_file = _running(state).admin_url, state.gateway_token_file
    elif gateway_token_file is None:
        raise click.UsageError("--gateway needs --gateway-token-file")
    _explain_request(gateway_url, gateway_token_file, what, output)


def _explain_object(state: StateDir, kind: Kind, namespace: str, name: str, output: str) -> None:
    from autoglm_operator.local import show

    _running(state)
    objects = read_objects(state.objects)
    found = [
        raw for key, raw in objects.items() if (key.kind, key.name) == (kind, name) and key.namespace in ("", namespace)
    ]
    if not found:
        known = ", ".join(sorted(f"{'agd' if key.kind == DEPLOYMENT else 'ags'}/{key.name}" for key in objects))
        raise click.ClickException(f"there is no {kind} {name} here; there are: {known or 'none'}")
    events = [event for event in _events(state) if event.get("about", "").split(" ")[-1].split("/")[-1] == name][
        -EVENTS_SHOWN:
    ]
    if output == "json":
        click.echo(json.dumps({"object": found[0], "events": events}, indent=2, ensure_ascii=False))
    else:
        click.echo(show.explain(found[0], events, datetime.now(UTC)))


def _explain_request(url: str, token_file: Path | None, request_id: str, output: str) -> None:
    from autoglm_operator.local import show

    assert token_file is not None, "a gateway comes with its token"
    code, record = _get(f"{url.rstrip('/')}/v1/requests/{quote(request_id, safe='')}", token_file.read_text().strip())
    if code == 404:
        raise click.ClickException(f"the gateway does not know request {request_id}: it keeps the last 1000")
    if code != 200:
        raise click.ClickException(f"the gateway at {url} answered {code or 'nothing'}")
    click.echo(json.dumps(record, indent=2, ensure_ascii=False) if output == "json" else show.decision(record))


def _running(state: StateDir) -> Running:
    running = state.running()
    if running is None:
        raise click.ClickException(f"nothing runs in {state.path}: start it with `autoglm up FILE`")
    return running


def _readiness(running: Running) -> dict[str, bool]:
    _, body = _get(f"{running.admin_url}/readyz", "")
    checks = body.get("checks") if isinstance(body, dict) else None
    return dict(checks) if isinstance(checks, dict) else {}


def _events(state: StateDir) -> list[JsonObject]:
    try:
        return list(json.loads(state.events.read_text()))
    except (OSError, ValueError):
        return []


def _get(url: str, token: str) -> tuple[int, Any]:
    """Status (0 when nothing answers) and JSON."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            status, data = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read()
    except OSError:
        return 0, None
    try:
        return status, json.loads(data)
    except ValueError:
        return status, None
