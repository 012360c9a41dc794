"""What a training run is: sizes, stages, schedules. Everything that happens at a step follows from the recipe and its number.

Three stages: one fixed resolution, then random scales with the resolution-aware loss weight, then tuning by groups of
resolutions. A step looks at windows of screens as well as at whole ones: in a window the same text is larger for the same
number of image tokens, which is how a small model learns to read in hours instead of weeks.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from autoglm_serving.screens.dice import Dice
from autoglm_serving.vision.sizing import TOKEN_SIDE

StageName = Literal["fixed", "scales", "groups"]


@dataclass(frozen=True)
class Network:
    """The sizes of AutoGLM-Tiny. The vision tower's MLP is as wide as the text model, as in GLM-4.1V."""

    vision_layers: int = 6
    vision_width: int = 192
    vision_heads: int = 6
    merger_width: int = 512
    text_layers: int = 4
    text_width: int = 256
    text_heads: int = 4
    text_mlp_width: int = 384
    weight_std: float = 0.02


@dataclass(frozen=True)
class Stage:
    """A part of the run. `short_sides` in pixels: one for "fixed", the bounds for "scales", the groups for "groups".

    A window shows between `least_window` and all of each side of a screen; `whole_percent` of the screens are shown whole.
    """

    name: StageName
    steps: int
    short_sides: tuple[int, ...]
    whole_percent: int
    least_window: float = 0.3
    rate: float = 1.0
    """The learning rate's factor."""


@dataclass(frozen=True)
class Recipe:
    """A whole run. `token_budget` bounds the image tokens of a batch, `questions` the tasks asked about one picture."""

    name: str
    stages: tuple[Stage, ...]
    network: Network = Network()
    token_budget: int = 1024
    batch_limit: int = 16
    questions: int = 10
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    clip: float = 1.0
    pointer_weight: float = 0.5
    words_weight: float = 0.5
    base_side: float = 247.0
    """sqrt(H*W) of what the fixed stage shows: at a short side of 168 pixels a phone's window is 168x364."""
    checkpoint_every: int = 200
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Step:
    """All that is decided about one optimiser step before any data is read."""

    number: int
    stage: Stage
    short_side: int
    learning_rate: float
    weighted: bool
    """Whether the loss is weighted by the resolution."""


def plan_step(recipe: Recipe, number: int) -> Step:
    """The step with this number, from 0. Raises IndexError after the last one."""
    stage, inside = _stage_at(recipe, number)
    return Step(
        number=number,
        stage=stage,
        short_side=_short_side(recipe, stage, number, inside),
        learning_rate=recipe.learning_rate * stage.rate * _schedule(recipe, number),
        weighted=stage.name == "scales",
    )


def resolution_weight(width: int, height: int, base_side: float) -> float:
    """1 + |1 - sqrt(H*W)/base|: pictures far from the base size, which a batch holds few of, count more."""
    return 1 + abs(1 - math.sqrt(width * height) / base_side)


def batch_size(recipe: Recipe, tokens_of_one: int) -> int:
    """Pictures in a batch, all of one resolution group: as many as the token budget holds, at least one."""
    return max(1, min(recipe.batch_limit, recipe.token_budget // max(1, tokens_of_one)))


def scaled(recipe: Recipe, steps: int) -> Recipe:
    """The same recipe with another number of steps, shared out to the stages in the same proportions."""
    if steps < len(recipe.stages):
        raise ValueError(f"{steps} steps are too few for {len(recipe.stages)} stages")
    total, parts, done, cut = recipe.steps, [], 0, 0
    for number, stage in enumerate(recipe.stages, 1):
        done += stage.steps
        most = steps - (len(recipe.stages) - number)
        end = min(max(cut + 1, round(steps * done / total)), most)
        parts.append(replace(stage, steps=end - cut))
        cut = end
    return replace(recipe, stages=tuple(parts), warmup=max(1, round(recipe.warmup * steps / total)))


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain values, equal for equal recipes."""
    return asdict(recipe)


def _stage_at(recipe: Recipe, number: int) -> tuple[Stage, int]:
    inside = number
    for stage in recipe.stages:
        if 0 <= inside < stage.steps:
            return stage, inside
        inside -= stage.steps
    raise IndexError(f"the recipe has {recipe.steps} steps, there is no step {number}")


def _short_side(recipe: Recipe, stage: Stage, number: int, inside: int) -> int:
    if stage.name == "fixed":
        return stage.short_sides[0]
    if stage.name == "groups":
        return stage.short_sides[inside % len(stage.short_sides)]
    least, most = min(stage.short_sides), max(stage.short_sides)
    dice = Dice(recipe.seed, "short side", number)
    return least + TOKEN_SIDE * dice.below((most - least) // TOKEN_SIDE + 1)


def _schedule(recipe: Recipe, number: int) -> float:
    """Linear warm-up, then a half cosine down to a hundredth over the whole run."""
    if number < recipe.warmup:
        return (number + 1) / recipe.warmup
    share = (number - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2


_SMOKE_NETWORK = Network(
    vision_layers=2, vision_width=64, vision_heads=2, merger_width=96, text_layers=2, text_width=128, text_heads=2,
    text_mlp_width=192,
)  # fmt: skip

PRESETS: dict[str, Recipe] = {
    "smoke": Recipe(
        name="smoke",
        stages=(
            Stage("fixed", 6, (112,), 50),
            Stage("scales", 4, (84, 140), 50),
            Stage("groups", 2, (84, 140), 100, rate=0.3),
        ),
        network=_SMOKE_NETWORK,
        token_budget=64,
        batch_limit=2,
        questions=4,
        warmup=2,
        base_side=168.0,
        checkpoint_every=4,
    ),
    "hour": Recipe(
        name="hour",
        stages=(
            Stage("fixed", 800, (168,), 10),
            Stage("scales", 380, (168, 336), 50),
            Stage("groups", 120, (252, 336, 448), 100, rate=0.5),
        ),
        warmup=60,
        checkpoint_every=50,
    ),
    "night": Recipe(
        name="night",
        stages=(
            Stage("fixed", 5500, (168,), 10),
            Stage("scales", 4200, (168, 448), 50),
            Stage("groups", 800, (252, 336, 448, 560), 90, rate=0.5),
        ),
        warmup=500,
    ),
}
