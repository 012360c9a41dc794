"""`autoglm train variant`: learn the few new weights of a technique, with everything else frozen.

The losses are the training's (`network.Student`): of the answers, and of where the ends of questions look.
What comes before the new weights is computed once for each example and kept, so that a step costs little more than the
language model.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer, load_weights
from autoglm_serving.screens.dice import Dice
from autoglm_serving.training import windows
from autoglm_serving.training.ablation.weights import fingerprint, new_weights, save_new
from autoglm_serving.training.batches import Batch, BatchMaker, collate
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.examples import pack, questions
from autoglm_serving.training.network import Student
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.training.recipe import Network, Recipe
from autoglm_serving.training.windows import Window
from autoglm_serving.vision.modules.fused_tower import Begun
from autoglm_serving.vision.modules.variant import FusedVariant
from autoglm_serving.vision.modules.variants import VARIANTS, Options, build_variant
from autoglm_serving.vision.sizing import TOKEN_SIDE

_ANY_SIZE = ImageSize(1, 1 << 40)


@dataclass(frozen=True)
class Plan:
    """How long and on what. `examples` windows of screens are learned from again and again."""

    steps: int = 60
    short_side: int = 336
    examples: int = 24
    learning_rate: float = 1e-3
    questions: int = 8
    whole_percent: int = 70
    seed: int = 0


def usual(name: str) -> Plan:
    """How long a technique's new weights are learned unless somebody says otherwise: longer where more of them are new.

    What is fused early or in the middle of the scales runs the tower again at each step, and has few weights.
    """
    if name == "dynamic-normalisation" or name in ("scales-weights-early", "scales-weights-middle"):
        return Plan(steps=60, examples=30)
    if "queries" in name or name.startswith("tiles"):
        return Plan(steps=320, examples=80)
    return Plan(steps=200, examples=50)


@dataclass(frozen=True)
class Example:
    """One window of a screen: its patches and their grid, and how to ask about it on any grid of image tokens."""

    number: int
    pixels: torch.Tensor
    grid: torch.Tensor
    batch: Callable[[int, int], Batch]
    """From rows and columns of image tokens."""


@dataclass(frozen=True)
class Tuning:
    """What learning came to: mean losses of the first and of the last pass over the examples, some of which are harder."""

    name: str
    steps: int
    new_weights: int
    first: float
    last: float
    seconds: float
    path: Path


class Tuner:
    """A frozen model and its examples; tunes one variant after the other, and shares what they have in common."""

    def __init__(self, model: Path, screens: Screens, plan: Plan, device: str = "cpu") -> None:
        folder = check_folder(model)
        self._plan = plan
        self._device = torch.device(device)
        self.model: Any = load_weights(folder, torch.float32, self._device).requires_grad_(False)
        self._fingerprint = fingerprint(self.model)
        maker = _Maker(Recipe("variant", ()), screens, ModelTokenizer(folder), ModelImages(folder))
        self._examples = [maker.example(plan, number) for number in range(min(plan.examples, plan.steps))]
        self._begun: dict[Any, Begun] = {}

    def tune(self, name: str, options: Options, out: Path, tell: Callable[[int, int, float], None]) -> Tuning | None:
        """Learn and write the new weights; None where a variant has none. Raises KeyError for a name not in `VARIANTS`."""
        torch.manual_seed(self._plan.seed)
        variant = build_variant(name, self.model, options)
        if not isinstance(variant, FusedVariant) or not new_weights(variant):
            return None
        started = time.perf_counter()
        losses = self._learn(variant, tell)
        once = min(len(losses), len(self._examples))
        return Tuning(
            name=name,
            steps=len(losses),
            new_weights=new_weights(variant),
            first=sum(losses[:once]) / once,
            last=sum(losses[-once:]) / once,
            seconds=time.perf_counter() - started,
            path=save_new(variant, name, out, len(losses), self._fingerprint),
        )

    def _learn(self, variant: FusedVariant, tell: Callable[[int, int, float], None]) -> list[float]:
        student = self._student(variant)
        optimizer = torch.optim.AdamW(variant.tower.parameters(), lr=self._plan.learning_rate, weight_decay=0.0)
        losses = []
        for step in range(self._plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = self._plan.learning_rate * _schedule(step, self._plan.steps)
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(variant, student, self._examples[step % len(self._examples)])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(variant.tower.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            tell(step + 1, self._plan.steps, losses[-1])
        return losses

    def _student(self, variant: FusedVariant) -> Student:
        config = self.model.config
        network = replace(
            Network(), text_width=config.text_config.hidden_size, vision_width=config.vision_config.hidden_size
        )
        recipe = Recipe("variant", (), network=network)
        return Student(variant.model, recipe).to(self._device).requires_grad_(False).eval()

    def _loss(self, variant: FusedVariant, student: Student, example: Example) -> torch.Tensor:
        variant.tower.requires_grad_(True)
        encoded = variant.tower.finish(variant.model.model.visual, self._begin(variant, example))[0]
        # The student asks its model for image tokens; here they are made by the variant.
        variant.model.model.get_image_features = lambda *_, **__: SimpleNamespace(pooler_output=(encoded.tokens,))
        loss: torch.Tensor = student(example.batch(*encoded.grid)).total
        return loss

    def _begin(self, variant: FusedVariant, example: Example) -> Begun:
        tower, visual = variant.tower, variant.model.model.visual
        if tower.normalise is not None:
            return tower.begin(visual, example.pixels, example.grid)
        key = (tower.plan, example.number)
        if key not in self._begun:
            with torch.no_grad():
                self._begun[key] = tower.begin(visual, example.pixels, example.grid)
        return self._begun[key]


class _Maker(BatchMaker):
    """Batches of one picture, on any grid of image tokens."""

    def __init__(self, recipe: Recipe, screens: Screens, tokenizer: ModelTokenizer, images: ModelImages) -> None:
        super().__init__(recipe, screens, tokenizer, images)
        self._data, self._processor, self._asking = screens, images, Prompts(tokenizer)

    def example(self, plan: Plan, number: int) -> Example:
        """The example with this number: the same for the same plan and screens."""
        dice = Dice(plan.seed, "variant", number)
        screen = self._data.items[number % len(self._data.items)]
        window = (
            windows.whole(screen, plan.short_side)
            if dice.chance(plan.whole_percent)
            else windows.choose(screen, plan.short_side, 0.4, dice)
        )
        pixels, grid = self._processor.pixels(self._data.picture(screen, window), _ANY_SIZE)
        asked = questions(screen, window, plan.questions, dice)

        side = int(grid[0, 1]) * TOKEN_SIDE // window.height  # patches along an image token

        def batch(rows: int, columns: int) -> Batch:
            seen = Window(window.box, columns * TOKEN_SIDE, rows * TOKEN_SIDE)
            row = pack(self._asking.before(seen.tokens), [self._asked(each, seen) for each in asked])
            return collate([row], [1.0], pixels, grid.new_tensor([[1, side * rows, side * columns]]))

        return Example(number, pixels, grid, batch)


def _schedule(step: int, steps: int) -> float:
    """A short warm-up, then a half cosine to nothing."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def tunable(names: str) -> tuple[str, ...]:
    """Variants by name, or all that there are. Raises KeyError with a name that is none."""
    if names == "all":
        return tuple(VARIANTS)
    wanted = tuple(name.strip() for name in names.split(","))
    for name in wanted:
        if name not in VARIANTS:
            raise KeyError(name)
    return wanted
