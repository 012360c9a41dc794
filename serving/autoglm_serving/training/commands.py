"""`autoglm train ...` and `autoglm eval ...`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autoglm_serving.training.recipe import LEAST_STEPS, PRESETS, scaled
from autoglm_serving.vision.sizing import TOKEN_SIDE

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
@click.option(
    "--steps", type=click.IntRange(min=LEAST_STEPS), help="Another number of steps, stages in the same proportions."
)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT from its last checkpoint.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--recompute", is_flag=True, help="Gradient checkpointing: less memory, more time.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that make batches."
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    help="Copies of the model that learn side by side (Ray Train), each in one thread unless --threads says more: a step "
    "has so many times the batches.",
)
@click.option("--ray", "address", help="With --replicas: the address of a Ray cluster; else one on this machine.")
@click.option("--gpu", is_flag=True, help="With --replicas: a GPU for each copy.")
def train_tiny(data: Path, out: Path, preset: str, smoke: bool, steps: int | None, **how: Any) -> None:
    """Train AutoGLM-Tiny on the screens in DATA; OUT gets checkpoints, log, curves and the model."""
    from autoglm_serving.training.dataset import DatasetInvalid, open_screens
    from autoglm_serving.training.replicas import Job, Replicas, ReplicasFailed, train_side_by_side
    from autoglm_serving.training.trainer import Machine, RunRefused
    from autoglm_serving.training.trainer import train as train_alone

    recipe = PRESETS["smoke" if smoke else preset]
    if steps is not None:
        recipe = scaled(recipe, steps)
    resume, count, address, gpu = (how.pop(name) for name in ("resume", "replicas", "address", "gpu"))
    if count is None and (address is not None or gpu):
        raise click.UsageError("--ray and --gpu say where copies of the model learn: say how many with --replicas")
    try:
        screens = open_screens(data, side=KEPT_SIDE, cache_bytes=CACHE_BYTES)
        if count is None:
            folder = train_alone(recipe, screens, out, Machine(**how), resume, _teller())
        else:
            job = Job(recipe, screens, out, Machine(**how), resume)
            folder = train_side_by_side(job, Replicas(count, address, gpu), _teller())
    except (DatasetInvalid, RunRefused, ReplicasFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The model is in {folder}. Its URI is {folder.resolve().as_uri()}")


@train.command("ground")
@click.argument("data", type=_DATA)
@click.argument("out", type=_FOLDER)
@click.option(
    "--from",
    "uri",
    default="builtin://autoglm-tiny-grounded",
    show_default=True,
    help="URI of the model whose tower reads.",
)
@click.option("--preset", type=click.Choice(["hour", "smoke"]), default="hour", show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT from the part that it was in.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
def train_ground(data: Path, out: Path, uri: str, preset: str, resume: bool, threads: int | None) -> None:
    """Teach a tower that reads, and a language model that begins anew, to find what is named on the screens in DATA.

    OUT gets the model, a checkpoint after each part, and a log. It computes on the CPU.
    """
    import torch

    from autoglm_serving.model.locate import locate
    from autoglm_serving.training.dataset import open_screens
    from autoglm_serving.training.grounding.recipe import PRESETS as GROUNDINGS
    from autoglm_serving.training.grounding.run import GroundingRefused, Told, ground

    bars: dict[str, _Bar] = {}

    def tell(told: Told) -> None:
        bar = bars.setdefault(told.part, _Bar(told.part, every=200))
        bar.show(told.done, told.of, " ".join(f"{name} {value:.3f}" for name, value in told.figures.items()))

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with _told():
            screens = open_screens(data, side=KEPT_SIDE, cache_bytes=CACHE_BYTES)
            folder = ground(GROUNDINGS[preset], screens, locate(uri), out, tell, resume=resume)
    except GroundingRefused as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The model is in {folder}. Its URI is {folder.resolve().as_uri()}")


@train.command("variant")
@click.argument("names")
@click.argument("data", type=_DATA)
@click.argument("out", type=_FOLDER)
@click.option("--from", "uri", default="builtin://autoglm-tiny", show_default=True, help="The trained model's URI.")
@click.option("--steps", type=click.IntRange(min=1), help="Else what is usual for each technique: 60 to 320.")
@click.option("--examples", type=click.IntRange(min=1), help="Windows to learn from; else 30 to 80.")
@click.option(
    "--side", type=click.IntRange(min=TOKEN_SIDE), default=336, show_default=True, help="Short side in pixels."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option("--device", default="cpu", show_default=True)
def train_variant(names: str, data: Path, out: Path, uri: str, threads: int | None, **how: Any) -> None:
    """Learn the new weights of the techniques NAMES (a,b or "all") on the screens in DATA; the model stays as it is.

    OUT gets a small file for each technique, which `autoglm eval tiny --techniques ... --variants OUT` measures.
    """
    from autoglm_serving.training.ablation.commands import TuneOptions, tune

    with _told():
        tune(names, data, out, TuneOptions(uri, threads, **how), _bar_of("steps"))


@click.group()
def evaluate() -> None:
    """Measure models."""


@evaluate.command("tiny")
@click.argument("data", type=_DATA)
@click.option("--model", "uri", default="builtin://autoglm-tiny", show_default=True, help="The model's URI.")
@click.option("--sizes", default="168,252,336,448,560", show_default=True, help="Short sides in pixels.")
@click.option(
    "--screens",
    "--limit",
    "most",
    type=click.IntRange(min=1),
    help="Only so many screens, the first ones (16 with --techniques, else all).",
)
@click.option("--out", type=_FOLDER, help="A folder for the tables and for every verdict.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--techniques", type=_FOLDER, help="Measure every technique instead; the table goes into this folder.")
@click.option("--only", help="With --techniques: only those whose names begin with one of these (a,b).")
@click.option("--sessions", type=_DATA, help="With --techniques: screens that follow each other.")
@click.option("--variants", type=_DATA, help="With --techniques: what `autoglm train variant` wrote.")
@click.option("--side", type=click.IntRange(min=56), default=336, show_default=True, help="With --techniques.")
@click.option(
    "--trained", type=click.IntRange(min=56), help="With --techniques: the largest size that the model was trained at."
)
@click.option(
    "--beyond",
    type=click.IntRange(min=56),
    help="With --techniques: a size never trained; else a quarter more than the largest.",
)
@click.option("--study", type=_FOLDER, help="Make the resolution study instead; its pages go into this folder.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes side by side.")
def eval_tiny(data: Path, uri: str, sizes: str, most: int | None, out: Path | None, device: str, **how: Any) -> None:
    """Ask the model every task of the screens in DATA at several sizes, and print how often it was right.

    --techniques and --study go further: a table of all techniques, and the study of sizes with its quality table.
    """
    if how["techniques"] is not None or how["study"] is not None:
        _measure_further(data, uri, most, device, {**how, "sizes": sizes})
        return
    from autoglm_serving.model.errors import ModelInvalid, ModelNotFound
    from autoglm_serving.model.locate import locate
    from autoglm_serving.training.dataset import DatasetInvalid, open_screens
    from autoglm_serving.training.evaluate import verdicts, write_results
    from autoglm_serving.training.replies import Replier
    from autoglm_serving.training.results import count, markdown

    try:
        screens = open_screens(data)
        screens = replace(screens, items=screens.items[:most])
        found = list(verdicts(Replier(locate(uri), device), screens, _sides(sizes), _counter()))
    except (DatasetInvalid, ModelInvalid, ModelNotFound) as error:
        raise click.ClickException(str(error)) from error
    if not found:
        raise click.ClickException(f"the screens in {data} have no tasks")
    source = f"autoglm eval tiny {data.name} --sizes {sizes}" + (f" --screens {most}" if most else "")
    click.echo(write_results(out, found, uri, source) if out is not None else markdown(count(found)))


@evaluate.command("natural")
@click.argument("out", type=_FOLDER)
@click.option("--model", "uri", default="builtin://autoglm-tiny", show_default=True, help="The model's URI.")
@click.option("--sizes", default="56,112,168", show_default=True, help="Sides in pixels.")
@click.option("--limit", type=click.IntRange(min=40), help="Only so many pictures.")
def eval_natural(out: Path, uri: str, sizes: str, limit: int | None) -> None:
    """How well the model's tower tells pictures apart that are no screens (handwritten digits of scikit-learn)."""
    from autoglm_serving.training import natural
    from autoglm_serving.training.ablation.commands import measure_natural

    with _told():
        try:
            click.echo(measure_natural(out, uri, _sides(sizes), limit))
        except natural.NoPictures as error:
            raise click.ClickException(str(error)) from error


def _measure_further(data: Path, uri: str, most: int | None, device: str, how: dict[str, Any]) -> None:
    from autoglm_serving.training.ablation.commands import Common, measure_sizes, measure_techniques

    common = Common(data, uri, most, device, how["jobs"])
    source = click.get_current_context().get_parameter_source("sizes")
    given = _sides(how["sizes"]) if source is ParameterSource.COMMANDLINE else None
    with _told():
        if how["study"] is not None:
            click.echo(measure_sizes(common, how["study"], given, _counter()))
        if how["techniques"] is not None:
            click.echo(measure_techniques(common, how["techniques"], how, _bar_of("techniques")))


def _sides(text: str) -> list[int]:
    try:
        sides = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sides = []
    if not sides or sides[0] < TOKEN_SIDE:
        raise click.BadParameter(f"{text!r} is not a list of sizes of {TOKEN_SIDE} pixels or more, as 252,336")
    return sides


@contextmanager
def _told() -> Iterator[None]:
    """What a person can put right is said in a sentence."""
    from autoglm_serving.model.errors import ModelInvalid, ModelNotFound
    from autoglm_serving.training.ablation.weights import WeightsRefused
    from autoglm_serving.training.dataset import DatasetInvalid

    try:
        yield
    except (DatasetInvalid, ModelInvalid, ModelNotFound, WeightsRefused) as error:
        raise click.ClickException(str(error)) from error


def _bar_of(unit: str) -> Callable[[int, int, str], None]:
    bar = _Bar(unit, every=1 if unit == "techniques" else 20)
    return bar.show


def _counter() -> Callable[[int, int], None]:
    bar = _Bar("screens")
    return lambda done, total: bar.show(done, total, "")


KEPT_SIDE = 640
"""Short side in pixels of the pictures that a training run keeps in memory: above every size that it looks at."""

CACHE_BYTES = 3 << 30


class _Bar:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, unit: str, every: int = 20) -> None:
        self._unit = unit
        self._every = every
        self._bar: Any = None

    def show(self, done: int, total: int, shown: str) -> None:
        """So much is done of the total."""
        if not sys.stderr.isatty():
            if done % self._every == 0 or done == total:
                click.echo(f"{done} of {total} {self._unit} {shown}".rstrip(), err=True)
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=total, label=self._unit, item_show_func=str, show_pos=True, file=sys.stderr
            )
        self._bar.update(done - self._bar.pos, shown)
        if done == total:
            self._bar.render_finish()


def _teller() -> "Callable[[Progress], None]":
    bar = _Bar("steps")

    def tell(progress: "Progress") -> None:
        line = progress.line
        shown = f"{line['stage']} {line['short_side']} px, loss {line['loss']:.3f}, right {line['right']:.0%}"
        bar.show(progress.step, progress.steps, shown)

    return tell
