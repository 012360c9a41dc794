"""`autoglm train ...` and `autoglm eval ...`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoglm_serving.training.recipe import PRESETS, scaled

if TYPE_CHECKING:
    from autoglm_serving.training.trainer import Progress

_FOLDER = click.Path(file_okay=False, path_type=Path)
_DATA = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Train models."""


@train.command("tiny")
@click.argument("data", type=_DATA)
@click.argument("out", type=_FOLDER)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="night", show_default=True)
@click.option("--smoke", is_flag=True, help="A few steps of a smaller model, to see that everything works.")
@click.option("--steps", type=click.IntRange(min=3), help="Another number of steps, stages in the same proportions.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT from its last checkpoint.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--recompute", is_flag=True, help="Gradient checkpointing: less memory, more time.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
def train_tiny(
    data: Path,
    out: Path,
    preset: str,
    smoke: bool,
    steps: int | None,
    resume: bool,
    device: str,
    precision: str,
    recompute: bool,
    threads: int | None,
) -> None:
    """Train AutoGLM-Tiny on the screens in DATA; OUT gets checkpoints, log, curves and the model."""
    from autoglm_serving.training.dataset import DatasetInvalid, open_screens
    from autoglm_serving.training.trainer import Machine, RunRefused
    from autoglm_serving.training.trainer import train as run

    recipe = PRESETS["smoke" if smoke else preset]
    if steps is not None:
        recipe = scaled(recipe, steps)
    machine = Machine(device, precision, recompute, threads)
    try:
        folder = run(
            recipe, open_screens(data, side=KEPT_SIDE, cache_bytes=CACHE_BYTES), out, machine, resume, _teller()
        )
    except (DatasetInvalid, RunRefused) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The model is in {folder}. Its URI is {folder.resolve().as_uri()}")


KEPT_SIDE = 640
"""Short side in pixels of the pictures that a training run keeps in memory: above every size that it looks at."""

CACHE_BYTES = 3 << 30


def _teller() -> "Callable[[Progress], None]":
    """A progress bar on a terminal, a line every 20 steps elsewhere."""
    from tqdm import tqdm

    bar = tqdm(unit="step", mininterval=1.0, disable=None)

    def tell(progress: "Progress") -> None:
        line = progress.line
        shown = f"{line['stage']} {line['short_side']} px, loss {line['loss']:.3f}, right {line['right']:.0%}"
        if bar.disable:
            if progress.step % 20 == 0 or progress.step == progress.steps:
                click.echo(f"step {progress.step} of {progress.steps}: {shown}")
            return
        bar.total = progress.steps
        bar.n = progress.step
        bar.set_postfix_str(shown)
        if progress.step == progress.steps:
            bar.close()

    return tell
