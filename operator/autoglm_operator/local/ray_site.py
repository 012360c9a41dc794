"""A Ray cluster on this machine as a site for a Kubernetes operator: `python -m autoglm_operator.local.ray_site FOLDER`.

For trying things out. It writes FOLDER/site.yaml (a Secret and an AutoGLMSite) and runs until Ctrl-C or SIGTERM.
"""

import os
import signal
import threading
from pathlib import Path

import click
import yaml

from autoglm_operator.api import API_VERSION
from autoglm_operator.local.ray_head import RayHead, RayStartError
from autoglm_operator.store import SITE, JsonObject


def objects(head: RayHead, name: str, namespace: str) -> list[JsonObject]:
    """The Secret with the token, under the name that config/rbac/site-secrets.yaml grants, and the site."""
    secret = {"namespace": namespace, "name": "ray-token"}
    ray = {
        "address": head.address,
        "serveAddresses": [head.serve_address],
        "tokenSecret": {**secret, "key": "token"},
    }
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"token": head.token}},
        {"apiVersion": API_VERSION, "kind": SITE, "metadata": {"name": name}, "spec": {"backend": {"ray": ray}}},
    ]


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", default="local", show_default=True, help="Of the site.")
@click.option("--namespace", default="autoglm-system", show_default=True, help="Of the Secret with the token.")
@click.option("--cpus", default=8.0, show_default=True, help="What Ray may hand out.")
def main(folder: Path, name: str, namespace: str, cpus: float) -> None:
    """Run a Ray cluster on this machine and write FOLDER/site.yaml for it."""
    stop = threading.Event()
    head = RayHead(folder.absolute(), cpus, progress=click.echo)

    def end(*_: object) -> None:
        stop.set()
        head.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        head.start()
        path = folder / "site.yaml"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump_all(objects(head, name, namespace), sort_keys=False))
        click.echo(f"Ray answers at {head.address}. In another terminal: kubectl apply -f {path}")
        stop.wait()
    except RayStartError as error:
        if stop.is_set():
            return
        raise click.ClickException(str(error)) from None
    finally:
        head.stop()
        (folder / "site.yaml").unlink(missing_ok=True)


if __name__ == "__main__":
    os.umask(0o077)
    main()
