"""What the commands `autoglm eval tiny --techniques`, `--study` and `autoglm train variant` do, apart from their options."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import torch

from autoglm_serving.model.locate import BUILTIN_GROUNDED, TRAINED_SIDE, locate
from autoglm_serving.training import natural
from autoglm_serving.training.ablation import run as ablation
from autoglm_serving.training.ablation.findings import findings
from autoglm_serving.training.ablation.measure import Settings, default_beyond
from autoglm_serving.training.ablation.plan import chosen
from autoglm_serving.training.ablation.table import Row
from autoglm_serving.training.ablation.tuning import Plan, Tuner, tunable, usual
from autoglm_serving.training.dataset import open_screens
from autoglm_serving.training.recipe import LARGEST_SIDE
from autoglm_serving.training.replies import Replier
from autoglm_serving.training.study import run as studying
from autoglm_serving.training.study.data import Study
from autoglm_serving.vision.modules.variants import Options

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Common:
    """What both measurements need."""

    data: Path
    uri: str
    limit: int | None
    device: str
    jobs: int

    def source(self, *options: str) -> str:
        """The command, as a reader would type it."""
        limit = [f"--limit {self.limit}"] if self.limit else []
        return " ".join([f"autoglm eval tiny {self.data.name}", *options, *limit])


def measure_sizes(common: Common, out: Path, sides: Sequence[int] | None, tell: Callable[[int, int], None]) -> str:
    """Make the resolution study and write it; returns its page."""
    torch.set_num_threads(1)
    chosen_sides = tuple(sides or studying.SIZES)
    job = studying.Job(locate(common.uri), common.data, common.limit, chosen_sides, common.device)
    source = common.source("--study", out.name, *([f"--sizes {','.join(map(str, sides))}"] if sides else []))
    return studying.write(out, studying.run(job, common.jobs, common.uri, source, tell))


def measure_techniques(common: Common, out: Path, how: Mapping[str, Any], tell: Tell) -> str:
    """Measure the techniques and write their table; returns its page. A study beside it gives the rest of the rows."""
    torch.set_num_threads(1)
    try:
        techniques = chosen(how["only"])
    except KeyError as error:
        raise click.BadParameter(f"no technique's name begins with {error}") from error
    settings = _settings(common, how)
    limit = common.limit or USUAL_SCREENS
    job = ablation.Job(locate(common.uri), common.data, how["sessions"], limit, settings, common.device)
    source = _techniques_source(common, out, how)
    done: list[str] = []

    def keep(name: str, rows: tuple[Row, ...]) -> None:
        """A run that is stopped leaves the rows that it had, beside the table of an earlier one."""
        done.append(name)
        ablation.write(
            out / UNFINISHED,
            rows,
            (),
            common.uri,
            f"{source} (stopped after {len(done)} of {len(techniques)} techniques)",
        )
        tell(len(done), len(techniques), name)

    rows = ablation.run(job, techniques, common.jobs, keep)
    found = findings(job, _study_beside(out)) if how["only"] is None else ()
    page = ablation.write(out, rows, (*ablation.not_trained(techniques, rows), *found), common.uri, source)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return page


UNFINISHED = "unfinished"
"""The folder, in that of the results, of the rows of a run that is under way or was stopped."""

USUAL_SCREENS = 16
"""Of the test split and of the sessions: about 150 tasks of one and 110 of the other, in minutes on two cores."""


def _settings(common: Common, how: Mapping[str, Any]) -> Settings:
    trained = int(how["trained"] or (TRAINED_SIDE if common.uri == BUILTIN_GROUNDED else LARGEST_SIDE))
    beyond = int(how["beyond"] or default_beyond(trained))
    if beyond <= trained:
        raise click.BadParameter(f"{beyond} pixels are trained: name a size above {trained}", param_hint="--beyond")
    return Settings(short_side=int(how["side"]), trained=trained, beyond=beyond, variants=how["variants"])


def _techniques_source(common: Common, out: Path, how: Mapping[str, Any]) -> str:
    """The command, with what was named on it."""
    named = [f"--{name} {how[name]}" for name in ("side", "trained", "beyond", "only") if how[name]]
    folders = [f"--{name} {how[name].name}" for name in ("sessions", "variants") if how[name]]
    return common.source("--techniques", out.name, f"--model {common.uri}", *named, *folders)


def measure_natural(out: Path, uri: str, sides: Sequence[int], limit: int | None) -> str:
    """Probe the tower with pictures that are no screens; returns the page. Raises NoPictures."""
    pictures = natural.digits()
    chosen_pictures = natural.Pictures(pictures.grey[:limit], pictures.labels[:limit])
    folder = locate(uri)
    trained, untrained = Replier(folder), Replier(folder)
    torch.manual_seed(0)
    for module in untrained.model.model.visual.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()
    rows = list(natural.probe(trained, untrained, chosen_pictures, sides, (4, 3, 2)))
    limited = f" --limit {limit}" if limit else ""
    return natural.write(
        out, rows, uri, f"autoglm eval natural {out.name} --model {uri} --sizes {','.join(map(str, sides))}{limited}"
    )


def _study_beside(out: Path) -> Study | None:
    path = out / studying.STUDY
    return Study.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None


@dataclass(frozen=True)
class TuneOptions:
    """Options of `autoglm train variant`."""

    uri: str
    threads: int | None
    steps: int | None
    examples: int | None
    side: int
    device: str

    def plan(self, name: str) -> Plan:
        """What was asked for, and otherwise what is usual for the technique."""
        plan = usual(name)
        return replace(
            plan,
            steps=self.steps or plan.steps,
            examples=self.examples or plan.examples,
            short_side=self.side,
        )


def tune(names: str, data: Path, out: Path, how: TuneOptions, tell: Tell) -> None:
    """Learn the new weights of some techniques, one after the other, and say what came of each."""
    try:
        wanted = tunable(names)
    except KeyError as error:
        raise click.BadParameter(f"{error} is no technique with weights of its own") from error
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    screens = open_screens(data, side=2 * how.side)
    options = Settings(short_side=how.side).options
    for plan, alike in groupby(
        sorted(wanted, key=lambda name: (how.plan(name).steps, how.plan(name).examples)), how.plan
    ):
        tuner = Tuner(locate(how.uri), screens, plan, how.device)
        for name in alike:
            _learn(tuner, name, options, out, tell)


def _learn(tuner: Tuner, name: str, options: Options, out: Path, tell: Tell) -> None:
    """Learn one technique's new weights and say what came of it; nothing where it has none."""
    done = tuner.tune(name, options, out, lambda step, steps, loss: tell(step, steps, f"{name}, loss {loss:.3f}"))
    if done is not None:
        click.echo(
            f"{name}: {done.new_weights:,} new weights, {done.steps} steps in {done.seconds:.0f} s, "
            f"loss {done.first:.3f} -> {done.last:.3f}"
        )
