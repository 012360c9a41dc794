"""`autoglm train ground`: from a tower that reads to a model that taps, part after part, each of them kept when it is done.

A run that is stopped goes on with the part that it was in, from that part's beginning: the parts before are on disk. What
pictures and questions are kept for learning is made again then, and comes out the same.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.screens.records import write_line
from autoglm_serving.training import checkpoints
from autoglm_serving.training.dataset import DatasetInvalid, Screens
from autoglm_serving.training.grounding import kept
from autoglm_serving.training.grounding.asking import Asker
from autoglm_serving.training.grounding.finding import Finder
from autoglm_serving.training.grounding.kept import View
from autoglm_serving.training.grounding.merging import Merging
from autoglm_serving.training.grounding.recipe import Grounding, rate_at, to_json
from autoglm_serving.training.grounding.saying import Speaker, hold
from autoglm_serving.training.looking import has_room, start_looking
from autoglm_serving.training.network import Student, write_start
from autoglm_serving.training.recipe import PRESETS, Network
from autoglm_serving.training.sorting import Patches, Sorter, after_last_mlp, joined
from autoglm_serving.training.spelling import place_directions

MODEL, LOG, RECIPE, DONE = "model", "log.jsonl", "grounding.json", "checkpoints"
PARTS = ("sorting", "merging", "finding", "saying")


class GroundingRefused(ValueError):
    """The model or the output folder cannot be used. The message says why, and what to do."""


@dataclass(frozen=True)
class Told:
    """How far a part is."""

    part: str
    done: int
    of: int
    figures: dict[str, float]


Tell = Callable[[Told], None]


def ground(recipe: Grounding, screens: Screens, start: Path, out: Path, tell: Tell, *, resume: bool = False) -> Path:
    """Ground the model in the folder `start`; returns the folder of the new one. Raises GroundingRefused, DatasetInvalid."""
    if not any(screen.texts for screen in screens.items):
        raise DatasetInvalid(
            f"no screen in {screens.folder} says where its texts are, and grounding learns from that: make the screens again "
            "with `autoglm screens make --split train`"
        )
    _prepare({**to_json(recipe), "from": str(start), "screens": _fingerprint(screens)}, out, resume)
    run = _Run(recipe, screens, start, out, tell)
    for number, part in enumerate(PARTS):
        if number >= run.done:
            getattr(run, part)()
            checkpoints.save(out / DONE, number + 1, {"student": run.student.state_dict()})
    run.export()
    return out / MODEL


def _prepare(run: dict[str, Any], out: Path, resume: bool) -> None:
    content = json.dumps(run, indent=2) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    written = out / RECIPE
    if not any(out.iterdir()):
        written.write_text(content, encoding="utf-8")
    elif not resume:
        raise GroundingRefused(f"{out} is not empty: name a new folder, or go on with --resume")
    elif not written.exists() or written.read_text(encoding="utf-8") != content:
        raise GroundingRefused(f"{written} is of another run: one goes on only with its own recipe, model and screens")


def _fingerprint(screens: Screens) -> str:
    """What the screens are, without their pictures."""
    return hashlib.sha256("".join(map(write_line, screens.items)).encode()).hexdigest()[:16]


class _Run:
    """Everything that lives for as long as the run."""

    def __init__(self, recipe: Grounding, screens: Screens, start: Path, out: Path, tell: Tell) -> None:
        self._recipe, self._screens, self._out, self._tell = recipe, screens, out, tell
        folder = check_folder(start)
        trained = load_weights(folder, torch.float32, torch.device("cpu"))
        network = network_of(trained.config)
        torch.manual_seed(recipe.seed)
        fresh = _fresh(out, network, recipe.seed)
        model = load_weights(check_folder(fresh), torch.float32, torch.device("cpu"))
        if not has_room(model):
            raise GroundingRefused(
                f"the language model of {start} has no room for the way from a question to its place: it needs three layers "
                "and 256 numbers a token"
            )
        self._images, self._tokenizer = ModelImages(folder), ModelTokenizer(folder)
        start_looking(model, self._tokenizer)
        model.model.visual.load_state_dict(trained.model.visual.state_dict())
        self.student = Student(model, replace(PRESETS["night"], network=network))
        state = checkpoints.load(out / DONE)
        self.done = int(state["step"]) if state is not None else 0
        if state is not None:
            self.student.load_state_dict(state["student"])
        self._asker = Asker(self._tokenizer)
        self._views: list[View] | None = None

    def sorting(self) -> None:
        """Signs get codes that the tower tells apart, and its last MLP learns them."""
        student, lesson = self.student, self._recipe.sorting
        width = student.recipe.network.text_width
        sorter = Sorter(student, self._recipe.seed)
        views = self._kept()
        patches = joined([kept.to_sort(view, number, width) for number, view in enumerate(views)])
        sorter.add(patches)
        sorter.begin()
        _read_places(student, patches)
        visual = student.model.model.visual
        block = visual.blocks[-1]
        tower = [*block.mlp.parameters(), *block.norm2.parameters(), *visual.post_layernorm.parameters()]
        readers = [*student.spelling.parameters(), student.codes]
        optimizer = torch.optim.AdamW(
            [{"params": tower, "part": 0.5}, {"params": readers, "part": 1.0}], weight_decay=0.0, betas=(0.9, 0.98)
        )
        for step in range(lesson.steps):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(lesson, step) * group["part"]
            losses = sorter.loss(step)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(tower, 1.0)
            optimizer.step()
            self._say("sorting", step, lesson.steps, loss=float(losses.total.detach()), right=losses.right)
        sorter.settle(self._tokenizer)
        self._views = [kept.as_told(student, view) for view in views]

    def merging(self) -> None:
        """The merger learns what image tokens shall tell."""
        lesson, learner = self._recipe.merging, Merging(self.student, self._told(), self._recipe)
        for step in range(lesson.steps):
            self._say("merging", step, lesson.steps, loss=learner.step(step))
        learner.settle()

    def finding(self) -> None:
        """Merger and lower layers learn to find."""
        finder, views = Finder(self.student, self._asker, self._recipe), self._told()
        for step in range(self._recipe.finding.steps):
            found = finder.step(views, step)
            self._say(
                "finding",
                step,
                self._recipe.finding.steps,
                loss=float(found.total.detach()),
                looks=found.looks,
                found=found.found,
            )

    def saying(self) -> None:
        """Upper layers learn to say where."""
        prefix, held = hold(self.student, self._asker, self._told(), self._recipe, self._shown("holding"))
        self._views = None
        speaker = Speaker(self.student, prefix, self._recipe)
        for step in range(self._recipe.saying.steps):
            loss, right = speaker.step(held, step)
            self._say("saying", step, self._recipe.saying.steps, loss=loss, right=right)

    def export(self) -> None:
        """A whole model folder, written beside and then renamed."""
        beside = self._out / ".model"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(self._out / _START, beside)
        self.student.model.save_pretrained(beside / ".weights")
        (beside / ".weights" / "model.safetensors").replace(beside / "model.safetensors")
        shutil.rmtree(beside / ".weights")
        shutil.rmtree(self._out / MODEL, ignore_errors=True)
        beside.rename(self._out / MODEL)

    def _told(self) -> list[View]:
        """The views as the merger gets them; made again where a run goes on."""
        if self._views is None:
            self._views = [kept.as_told(self.student, view) for view in self._kept()]
        return self._views

    def _kept(self) -> list[View]:
        return kept.keep(
            self.student, self._images, self._screens, self._recipe.views, self._recipe.seed, self._shown("keeping")
        )

    def _shown(self, part: str) -> kept.Shown:
        return lambda done, of: self._tell(Told(part, done, of, {}))

    def _say(self, part: str, step: int, steps: int, **figures: float) -> None:
        line = {"part": part, "step": step, **{name: round(value, 5) for name, value in figures.items()}}
        with (self._out / LOG).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**line, "at": round(time.monotonic(), 1)}) + "\n")
        self._tell(Told(part, step + 1, steps, figures))


def network_of(config: Any) -> Network:
    """The sizes of a model, from its configuration."""
    text, vision = config.text_config, config.vision_config
    return Network(
        patch_side=vision.patch_size,
        vision_layers=vision.depth,
        vision_width=vision.hidden_size,
        vision_heads=vision.num_heads,
        merger_width=vision.intermediate_size,
        text_layers=text.num_hidden_layers,
        text_width=text.hidden_size,
        text_heads=text.num_attention_heads,
        text_mlp_width=text.intermediate_size,
    )


def _fresh(out: Path, network: Network, seed: int) -> Path:
    """A model folder with fresh weights of these sizes, written once."""
    folder = out / _START
    if not (folder / "config.json").exists():
        beside = out / ".start"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        write_start(beside, network, seed)
        beside.rename(folder)
    return folder


@torch.no_grad()
def _read_places(student: Student, patches: Patches) -> None:
    """Let the reader of patches begin with the places that this tower tells already, by least squares."""
    told = after_last_mlp(student, patches.entering)
    known = torch.cat([told, told.new_ones(len(told), 1)], 1)
    ridge = _RIDGE * len(known) * torch.eye(known.shape[1])
    found = torch.linalg.solve(known.T @ known + ridge, known.T @ patches.places)
    directions = place_directions(student.spelling.out_features)
    reads, level = student.spelling.weight, student.spelling.bias
    reads.add_(directions.T @ (found[:-1].T - directions @ reads))
    level.add_(directions.T @ (found[-1] - directions @ level))


_START = "start"

_RIDGE = 1e-3
"""Beside the variance of what patches tell, which is about one."""
