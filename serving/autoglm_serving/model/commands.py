"""`autoglm model ...`: make and check model folders."""

from pathlib import Path

import click

from autoglm_serving.model.errors import ModelInvalid, ModelNotFound


@click.group()
def model() -> None:
    """Make, fetch and check model folders."""


@model.command("init-tiny")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same weights.")
def init_tiny(folder: Path, seed: int) -> None:
    """Write AutoGLM-Tiny (random weights, 5.3 million parameters) into FOLDER."""
    from autoglm_serving.model.tiny import build

    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    build(folder, seed)
    click.echo(f"Wrote AutoGLM-Tiny. Its URI is {folder.resolve().as_uri()}")


@model.command("check")
@click.argument("uri")
def check(uri: str) -> None:
    """Fetch the model at URI if need be, and say whether its folder is whole."""
    from autoglm_serving.model.folder import check_folder
    from autoglm_serving.model.locate import locate

    try:
        folder = check_folder(locate(uri))
    except (ModelNotFound, ModelInvalid) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{folder.path} is a whole model ({folder.max_positions} positions)")
