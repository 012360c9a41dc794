"""`autoglm screens ...`: make screens with tasks, and look at them."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from autoglm_serving.screens.make import Tally


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
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Mix in screens of the HTML pages under DIR, e.g. /usr/share/doc/debian. Only for train; each DIR has the same share.",
)
@click.option(
    "--documents-percent",
    type=click.IntRange(1, 100),
    default=30,
    show_default=True,
    help="How many screens in a hundred show such a page.",
)
def make_screens(
    out: Path,
    split: Literal["train", "test", "sessions"],
    count: int,
    seed: int,
    jobs: int,
    documents: tuple[Path, ...],
    documents_percent: int,
) -> None:
    """Write screens into the folder OUT: images/*.png and manifest.jsonl."""
    from autoglm_serving.screens.chromium import NoChromium
    from autoglm_serving.screens.make import MANIFEST, Order, make
    from autoglm_serving.screens.reader import NoDocuments, find_documents

    if documents and split != "train":
        raise click.UsageError("--documents is for --split train only: no page is in two splits")
    if (out / MANIFEST).exists():
        raise click.ClickException(f"{out} holds screens already: name a new folder")
    unused = Counter[str]()
    try:
        folders = tuple(find_documents(each, unused) for each in documents)
        order = Order(split, count, seed, folders, documents_percent)
        with click.progressbar(length=count, label=f"{split} screens") as bar:
            tally = make(out, order, jobs, bar.update)
    except (NoChromium, NoDocuments) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Wrote {count} {'sessions' if split == 'sessions' else 'screens'} into {out}")
    if documents:
        click.echo(_documents(tally, unused))


def _documents(tally: "Tally", unused: Counter[str]) -> str:
    shown = f"{tally.documents} of them show HTML documents"
    return f"{shown}; views left out: {_reasons(tally.left_out)}; files left out: {_reasons(unused)}"


def _reasons(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "none"
