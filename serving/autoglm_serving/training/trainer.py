"""The training loop: a plain one, that goes on after a kill as if nothing had happened."""

import itertools
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from autoglm_serving.engines.vision_tower import device
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.screens.dice import Dice
from autoglm_serving.training import checkpoints
from autoglm_serving.training.ahead import Ingredients, Made, ahead, made
from autoglm_serving.training.batches import Batch
from autoglm_serving.training.curves import write_curves
from autoglm_serving.training.dataset import DatasetInvalid, Screens
from autoglm_serving.training.network import Losses, Student, parameters_of, write_start
from autoglm_serving.training.recipe import Recipe, Step, to_json
from autoglm_serving.training.sorting import Sorter
from autoglm_serving.training.starts import start
from autoglm_serving.training.world import ALONE, World

MODEL, CHECKPOINTS, LOG, RECIPE, CURVES = "model", "checkpoints", "log.jsonl", "recipe.json", "curves.svg"


class RunRefused(ValueError):
    """The output folder holds another run, or one that is finished."""


class CopiesApart(RuntimeError):
    """Copies of a model would learn from different weights."""


@dataclass(frozen=True)
class Machine:
    """How to compute. `precision` is float32 or bfloat16 (autocast); `recompute` trades time for memory.

    `workers` processes make the batches: a GPU learns faster than one thread draws. 0: a thread beside the training.
    """

    device: str = "auto"
    precision: str = "auto"
    recompute: bool = False
    threads: int | None = None
    workers: int = 0


@dataclass(frozen=True)
class Progress:
    """One step that is done."""

    step: int
    steps: int
    line: dict[str, Any]


def train(
    recipe: Recipe, screens: Screens, out: Path, machine: Machine, resume: bool, tell: Callable[[Progress], None]
) -> Path:
    """Run or go on with a run; returns the folder of the model. Raises RunRefused, and DatasetInvalid."""
    prepare(recipe, screens, out, resume)
    return learn(recipe, screens, out, machine, tell)


def prepare(recipe: Recipe, screens: Screens, out: Path, resume: bool) -> None:
    """Let a folder be that of a run, with its recipe and its model. Raises RunRefused, and DatasetInvalid.

    A folder that holds something is only touched when the same recipe goes on in it.
    """
    if recipe.needs_texts and not any(screen.texts for screen in screens.items):
        raise DatasetInvalid(
            f"no screen in {screens.folder} says where its texts are, and {recipe.name!r} learns from that: make the screens "
            "again with `autoglm screens make --split train`"
        )
    out.mkdir(parents=True, exist_ok=True)
    written = out / RECIPE
    content = json.dumps(to_json(recipe), indent=2) + "\n"
    if not any(out.iterdir()):
        written.write_text(content, encoding="utf-8")
    elif not resume:
        raise RunRefused(f"{out} is not empty: name a new folder, or go on with --resume")
    elif not written.exists() or written.read_text(encoding="utf-8") != content:
        raise RunRefused(f"{written} is another recipe: a run goes on only with its own")
    _write_model(out / MODEL, recipe)


def learn(
    recipe: Recipe,
    screens: Screens,
    out: Path,
    machine: Machine,
    tell: Callable[[Progress], None],
    world: World = ALONE,
) -> Path:
    """Go on with the run of a prepared folder, as one of the copies of `world`; returns the folder of the model."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    state = checkpoints.load(out / CHECKPOINTS)
    run = _Run(recipe, screens, out, machine, world, begins=state is None)
    first = run.restore(state) if state is not None else 0
    if len(set(world.all_of(first))) > 1:
        raise CopiesApart(
            f"copies of the model read different checkpoints in {out / CHECKPOINTS}: all must see the newest"
        )
    run.gather_before(first)
    with _log(out / LOG, first) if world.leads else nullcontext() as lines:
        for step, parts in run.batches(first):
            line = run.step(step, parts)
            if lines is None:
                continue
            _write(lines, line)
            done = step.number + 1
            if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                run.save(done)
                write_curves(out / LOG, out / CURVES)
            tell(Progress(done, recipe.steps, line))
    if world.leads:
        run.export()
        write_curves(out / LOG, out / CURVES)
    return out / MODEL


def _log(path: Path, first: int) -> TextIO:
    """The log, without the lines of steps that come again."""
    checkpoints.cut_log(path, first)
    return path.open("a", encoding="utf-8")


class _Run:
    """Everything that lives for as long as the run."""

    def __init__(
        self, recipe: Recipe, screens: Screens, out: Path, machine: Machine, world: World, *, begins: bool
    ) -> None:
        """Without `begins` a checkpoint replaces all weights: they need no start."""
        self._recipe = recipe
        self._world = world
        self._out = out
        self._device = device(machine.device)
        torch.manual_seed(recipe.seed)
        folder = check_folder(out / MODEL)
        model = load_weights(folder, torch.float32, self._device)
        if begins:
            start(model, ModelImages(folder), ModelTokenizer(folder))
        if machine.recompute:
            model.gradient_checkpointing_enable()
        self._student = Student(model, recipe).to(self._device).train()
        self._agree()
        self._optimizer = torch.optim.AdamW(
            parameters_of(self._student, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.95)
        )
        self._autocast = _autocast(machine.precision, self._device)
        self._machine = machine
        self._ingredients = Ingredients(recipe, screens, folder.path, world)
        self._tokenizer = ModelTokenizer(folder)
        self._sorter = Sorter(self._student, recipe.seed)

    def restore(self, state: dict[str, Any]) -> int:
        """Go back to a checkpoint; returns the step that comes next."""
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def gather_before(self, step: int) -> None:
        """Gather again what a run that goes on in the middle of the sorting has in no checkpoint."""
        again = self._recipe.gathered_by(step)
        if not again:
            return
        maker = self._ingredients.maker()
        for number in again:
            for batch in made(maker, self._recipe, number, self._world)[1].values():
                with self._autocast():
                    self._sorter.gather(batch.to(self._device))

    def save(self, step: int) -> None:
        state = {
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        checkpoints.save(self._out / CHECKPOINTS, step, state)

    def export(self) -> None:
        """Replace the start's weights by the trained ones: written beside, then renamed."""
        beside = self._out / ".model"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(self._out / MODEL, beside)
        self._student.model.save_pretrained(beside)
        (beside / "model.safetensors").replace(self._out / MODEL / "model.safetensors")
        shutil.rmtree(beside)

    def batches(self, first: int) -> Iterator[Made]:
        """The steps from `first` on; the next steps' pictures are made while this one is learned."""
        numbers = iter(range(first, self._recipe.steps))
        with ahead(self._ingredients, self._machine.workers) as begin:
            coming = deque(map(begin, itertools.islice(numbers, max(1, 2 * self._machine.workers))))
            while coming:
                ready = coming.popleft().result()
                coming.extend(map(begin, itertools.islice(numbers, 1)))
                yield ready

    def step(self, step: Step, parts: dict[int, Batch]) -> dict[str, Any]:
        """Learn from one step's batches; the line of the log."""
        started = time.perf_counter()
        sorting = self._recipe.sorting
        self._seed(step.number)
        if sorting and step.number == sorting.start:
            self._sorter.begin()
            self._agree()
        for group in self._optimizer.param_groups:
            group["lr"] = step.learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        learned = [self._backward(batch.to(self._device), step, part) for part, batch in parts.items()]
        self._world.add_up(self._student.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self._student.parameters(), self._recipe.clip)
        self._optimizer.step()
        if sorting and step.number == sorting.stop - 1:
            self._seed(step.number)
            self._sorter.settle(self._tokenizer)
            self._agree()
        if step.stage.shared:
            learned = [each for one in self._world.all_of(learned) for each in one]
        return {
            "step": step.number,
            "stage": step.stage.name,
            "short_side": step.short_side,
            "rate": round(step.learning_rate, 8),
            **{name: round(sum(each[name] for each in learned) / len(learned), 5) for name in _AVERAGED},
            "norm": round(float(norm), 4),
            **{name: int(sum(each[name] for each in learned)) for name in _COUNTED},
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _backward(self, batch: Batch, step: Step, part: int) -> dict[str, float]:
        """Learn from one of a step's batches; what it was, and how well it went."""
        self._seed(step.number, part)
        with self._autocast():
            losses = self._losses(batch, step)
        if losses.total.requires_grad:  # a window may show nothing to ask about, and then there is nothing to learn
            counted = self._recipe.accumulate * (1 if step.stage.shared else self._world.size)
            (losses.total / counted).backward()  # type: ignore[no-untyped-call]
        return {
            "loss": float(losses.total.detach()),
            **{name: float(getattr(losses, name)) for name in _AVERAGED[1:]},
            "pictures": len(batch.ids),
            "questions": int(batch.segments.amax(-1).sum()),
            "image_tokens": batch.image_tokens,
        }

    def _agree(self) -> None:
        """Let all copies have the first one's weights: what each reckoned for itself may differ between machines."""
        self._world.agree(self._student.state_dict().values())

    def _seed(self, *numbers: int) -> None:
        """What is drawn at random follows from the recipe and these numbers, whatever was drawn before and by whom."""
        torch.manual_seed(Dice(self._recipe.seed, "draws", *numbers).below(1 << 62))

    def _losses(self, batch: Batch, step: Step) -> Losses:
        match step.stage.name:
            case "telling":
                return self._student.tell(batch)
            case "gathering":
                return self._sorter.gather(batch)
            case "sorting":
                return self._sorter.loss(step.number)
            case _:
                losses: Losses = self._student(batch, step.stage.tower, step.stage.perfect)
                return losses


def _write_model(folder: Path, recipe: Recipe) -> None:
    """A model folder with fresh weights, written once: a run that goes on finds it there."""
    if (folder / "config.json").exists():
        return
    beside = folder.with_name(".start")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    write_start(beside, recipe.network, recipe.seed)
    beside.rename(folder)


_AVERAGED = ("loss", "answer", "looks", "found", "places", "letters", "spelling", "tokens", "right")
_COUNTED = ("pictures", "questions", "image_tokens")


def _write(lines: TextIO, line: dict[str, Any]) -> None:
    lines.write(json.dumps(line) + "\n")
    lines.flush()


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Half the bits where the device computes with them faster than with all: GPUs."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext
