"""`autoglm screens ...`: make screens with tasks, and look at them."""

from pathlib import Path
from typing import Literal

import click


@click.group()
def screens() -> None:
    """Make and look at screens with tasks, for training and evaluation."""


@screens.command("make")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--split", type=click.Choice(["train", "test", "sessions"]), required=True, help="What to make.")
@click.option(
    "--count", type=click.IntRange(1), default=60, show_default=True, help="How many screens, or sessions of 8 screens."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same manifest.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Browsers side by side.")
def make_screens(out: Path, split: Literal["train", "test", "sessions"], count: int, seed: int, jobs: int) -> None:
    """Write screens into the folder OUT: images/*.png and manifest.jsonl."""
    from autoglm_serving.screens.chromium import NoChromium
    from autoglm_serving.screens.make import MANIFEST, make

    if (out / MANIFEST).exists():
        raise click.ClickException(f"{out} holds screens already: name a new folder")
    try:
        with click.progressbar(length=count, label=f"{split} screens") as bar:
            make(out, split, count, seed, jobs, bar.update)
    except NoChromium as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Wrote {count} {'sessions' if split == 'sessions' else 'screens'} into {out}")
