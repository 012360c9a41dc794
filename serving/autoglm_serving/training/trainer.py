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
from autoglm_serving.model.folder import ModelFolder, check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.training import checkpoints
from autoglm_serving.training.ahead import Ingredients, ahead, made
from autoglm_serving.training.batches import Batch
from autoglm_serving.training.curves import write_curves
from autoglm_serving.training.dataset import DatasetInvalid, Screens
from autoglm_serving.training.network import Losses, Student, parameters_of, write_start
from autoglm_serving.training.recipe import Recipe, Step, to_json
from autoglm_serving.training.sorting import Sorter
from autoglm_serving.training.starts import start

MODEL, CHECKPOINTS, LOG, RECIPE, CURVES = "model", "checkpoints", "log.jsonl", "recipe.json", "curves.svg"


class RunRefused(ValueError):
    """The output folder holds another run, or one that is finished."""


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
    if recipe.needs_texts and not any(screen.texts for screen in screens.items):
        raise DatasetInvalid(
            f"no screen in {screens.folder} says where its texts are, and {recipe.name!r} learns from that: make the screens "
            "again with `autoglm screens make --split train`"
        )
    state = _prepare(recipe, out, resume)
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    run = _Run(recipe, screens, out, machine, begins=state is None)
    first = run.restore(state) if state is not None else 0
    run.gather_before(first)
    checkpoints.cut_log(out / LOG, first)
    with (out / LOG).open("a", encoding="utf-8") as lines:
        for step, parts in run.batches(first):
            line = run.step(step, parts)
            _write(lines, line)
            done = step.number + 1
            if done % recipe.checkpoint_every == 0 or done == recipe.steps:
                run.save(done)
                write_curves(out / LOG, out / CURVES)
            tell(Progress(done, recipe.steps, line))
    run.export()
    write_curves(out / LOG, out / CURVES)
    return out / MODEL


def _prepare(recipe: Recipe, out: Path, resume: bool) -> dict[str, Any] | None:
    """The state to go on from. A folder that holds something is only touched when the same recipe goes on in it."""
    out.mkdir(parents=True, exist_ok=True)
    written = out / RECIPE
    content = json.dumps(to_json(recipe), indent=2) + "\n"
    if not any(out.iterdir()):
        written.write_text(content, encoding="utf-8")
        return None
    if not resume:
        raise RunRefused(f"{out} is not empty: name a new folder, or go on with --resume")
    if not written.exists() or written.read_text(encoding="utf-8") != content:
        raise RunRefused(f"{written} is another recipe: a run goes on only with its own")
    return checkpoints.load(out / CHECKPOINTS)


class _Run:
    """Everything that lives for as long as the run."""

    def __init__(self, recipe: Recipe, screens: Screens, out: Path, machine: Machine, *, begins: bool) -> None:
        """Without `begins` a checkpoint replaces all weights: they need no start."""
        self._recipe = recipe
        self._out = out
        self._device = device(machine.device)
        torch.manual_seed(recipe.seed)
        folder = _written(out / MODEL, recipe)
        model = load_weights(folder, torch.float32, self._device)
        if begins:
            start(model, ModelImages(folder), ModelTokenizer(folder))
        if machine.recompute:
            model.gradient_checkpointing_enable()
        self._student = Student(model, recipe).to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            parameters_of(self._student, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.95)
        )
        self._autocast = _autocast(machine.precision, self._device)
        self._machine = machine
        self._ingredients = Ingredients(recipe, screens, folder.path)
        self._tokenizer = ModelTokenizer(folder)
        self._sorter = Sorter(self._student, recipe.seed)

    def restore(self, state: dict[str, Any]) -> int:
        """Go back to a checkpoint; returns the step that comes next."""
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"])

    def gather_before(self, step: int) -> None:
        """Gather again what a run that goes on in the middle of the sorting has in no checkpoint."""
        again = self._recipe.gathered_by(step)
        if not again:
            return
        maker = self._ingredients.maker()
        for number in again:
            for batch in made(maker, self._recipe, number)[1]:
                self._sorter.gather(batch.to(self._device))

    def save(self, step: int) -> None:
        state = {
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
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

    def batches(self, first: int) -> Iterator[tuple[Step, list[Batch]]]:
        """The steps from `first` on; the next steps' pictures are made while this one is learned."""
        numbers = iter(range(first, self._recipe.steps))
        with ahead(self._ingredients, self._machine.workers) as begin:
            coming = deque(map(begin, itertools.islice(numbers, max(1, 2 * self._machine.workers))))
            while coming:
                ready = coming.popleft().result()
                coming.extend(map(begin, itertools.islice(numbers, 1)))
                yield ready

    def step(self, step: Step, parts: list[Batch]) -> dict[str, Any]:
        """Learn from one step's batches; the line of the log."""
        started = time.perf_counter()
        sorting = self._recipe.sorting
        if sorting and step.number == sorting.start:
            self._sorter.begin()
        for group in self._optimizer.param_groups:
            group["lr"] = step.learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(batch.to(self._device), len(parts), step) for batch in parts]
        norm = torch.nn.utils.clip_grad_norm_(self._student.parameters(), self._recipe.clip)
        self._optimizer.step()
        if sorting and step.number == sorting.stop - 1:
            self._sorter.settle(self._tokenizer)
        return {
            "step": step.number,
            "stage": step.stage.name,
            "short_side": step.short_side,
            "rate": round(step.learning_rate, 8),
            **_mean(losses),
            "norm": round(float(norm), 4),
            "pictures": sum(len(batch.ids) for batch in parts),
            "questions": sum(int(batch.segments.amax(-1).sum()) for batch in parts),
            "image_tokens": sum(batch.image_tokens for batch in parts),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _backward(self, batch: Batch, parts: int, step: Step) -> Losses:
        with self._autocast():
            losses = self._losses(batch, step)
        if losses.total.requires_grad:  # a window may show nothing to ask about, and then there is nothing to learn
            (losses.total / parts).backward()  # type: ignore[no-untyped-call]
        return losses

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


def _written(folder: Path, recipe: Recipe) -> ModelFolder:
    """The model folder with fresh weights, written once: a run that goes on finds it there."""
    if not (folder / "config.json").exists():
        beside = folder.with_name(".start")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        write_start(beside, recipe.network, recipe.seed)
        beside.rename(folder)
    return check_folder(folder)


def _mean(losses: list[Losses]) -> dict[str, float]:
    names = ("answer", "looks", "found", "places", "letters", "spelling", "tokens", "right")
    values = {name: round(sum(getattr(each, name) for each in losses) / len(losses), 5) for name in names}
    return {"loss": round(sum(float(each.total.detach()) for each in losses) / len(losses), 5), **values}


def _write(lines: TextIO, line: dict[str, Any]) -> None:
    lines.write(json.dumps(line) + "\n")
    lines.flush()


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Half the bits where the device computes with them faster than with all: GPUs."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext
