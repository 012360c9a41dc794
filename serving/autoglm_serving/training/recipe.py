"""What a training run is: sizes, stages, schedules. Everything that happens at a step follows from the recipe and its number.

First the upper layers of the language model alone learn to tell a place that is given to them, without any picture. Then the
vision tower alone learns to read on cards full of texts, from plain to varied ones, and on windows of screens; what it then
tells of many patches is gathered, signs get codes that it can tell apart, and its last MLP learns them. Then the language
model alone learns to look things up, in what a perfect reader would see. Three stages bring both together: one
fixed resolution, random scales with the resolution-aware loss weight, and tuning by groups of resolutions. Screens are shown
whole or in windows.
"""

import itertools
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from autoglm_serving.screens.dice import Dice
from autoglm_serving.vision.sizing import TOKEN_SIDE

StageName = Literal["telling", "reading", "gathering", "sorting", "looking", "fixed", "scales", "groups"]


@dataclass(frozen=True)
class Network:
    """The sizes of AutoGLM-Tiny. The vision tower's MLP is as wide as the text model, as in GLM-4.1V.

    An image token covers 28 x 28 pixels as there, but in 4 x 4 patches of 7: letters of a phone's screen are as large as two.
    """

    patch_side: int = 7
    vision_layers: int = 4
    vision_width: int = 96
    vision_heads: int = 3
    merger_width: int = 512
    text_layers: int = 4
    text_width: int = 256
    text_heads: int = 2
    """Few and wide: what is compared is as many numbers as a head has."""
    text_mlp_width: int = 384
    weight_std: float = 0.06
    """About one over the root of the widths. With the 0.02 of large models a tower this narrow learns four times slower."""

    @property
    def merged_side(self) -> int:
        """Patches along each side of an image token."""
        return TOKEN_SIDE // self.patch_side

    @property
    def patches_per_token(self) -> int:
        return self.merged_side**2


@dataclass(frozen=True)
class Stage:
    """A part of the run. `short_sides` in pixels: one for "fixed", the groups for "groups", else the bounds.

    A window shows between `least_window` and all of each side of a screen; `whole_percent` of the screens are shown whole.
    The stages of reading and gathering have windows of their own instead (`windows.to_read`).
    `cards_percent` of all pictures are cards instead of screens.
    """

    name: StageName
    steps: int
    short_sides: tuple[int, ...]
    whole_percent: int
    least_window: float = 0.2
    cards_percent: int = 0
    rate: float = 1.0
    """The learning rate's factor."""
    tower: bool = True
    """Whether the vision tower learns. Without, a step costs a third."""
    perfect: bool = False
    """Whether the language model is told what a perfect reader would see: a step costs a third, and teaches more."""
    token_budget: int = 1024
    """Bounds the image tokens of a batch, in the stage of telling those that are thought of."""

    @property
    def draws(self) -> bool:
        """Whether pictures are made: what is told, or was gathered before, needs none."""
        return not self.perfect and self.name not in ("telling", "sorting")

    @property
    def shared(self) -> bool:
        """Whether copies of a model share a step's batches: codes come from all that was gathered, in every copy."""
        return self.name not in ("gathering", "sorting")


@dataclass(frozen=True)
class Recipe:
    """A whole run. `questions` are the tasks asked about one picture."""

    name: str
    stages: tuple[Stage, ...]
    network: Network = Network()
    batch_limit: int = 16
    questions: int = 12
    accumulate: int = 1
    learning_rate: float = 1.2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    clip: float = 1.0
    looks_weight: float = 1.0
    places_weight: float = 0.3
    letters_weight: float = 1.0
    spelling_weight: float = 1.2
    tokens_weight: float = 1.0
    base_side: float = 260.0
    """sqrt(H*W) of what the fixed stage shows in the middle: cards of 63 image tokens, windows of 120."""
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a recipe that sorts what it has not gathered."""
        names = [stage.name for stage in self.stages]
        if names.count("sorting") > 1 or any(
            name == "sorting" and before != "gathering" for before, name in zip(["", *names], names, strict=False)
        ):
            raise ValueError("a recipe sorts at most once, right after it has gathered")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def sorting(self) -> range:
        """The steps in which codes are learned; empty in a recipe without them."""
        return self._numbers("sorting")

    def gathered_by(self, number: int) -> range:
        """The steps whose patches are in memory when this one begins: none before they are gathered or after the sorting."""
        gathering = self._numbers("gathering")
        if number >= max(gathering.stop, self.sorting.stop):
            return range(0)
        return range(gathering.start, min(number, gathering.stop))

    def _numbers(self, name: StageName) -> range:
        begins = [0, *itertools.accumulate(stage.steps for stage in self.stages)]
        found = [number for number, stage in enumerate(self.stages) if stage.name == name]
        return range(begins[found[0]], begins[found[0] + 1]) if found else range(0)

    @property
    def needs_texts(self) -> bool:
        """Whether a stage learns from the known texts of screens alone."""
        return any(stage.perfect and not stage.cards_percent for stage in self.stages)


@dataclass(frozen=True)
class Step:
    """All that is decided about one optimiser step before any data is read."""

    number: int
    stage: Stage
    short_side: int
    learning_rate: float
    weighted: bool
    """Whether the loss is weighted by the resolution."""
    variety: float = 1.0
    """Of cards: grows while the stage of reading lasts."""


def plan_step(recipe: Recipe, number: int) -> Step:
    """The step with this number, from 0. Raises IndexError after the last one."""
    stage, inside = _stage_at(recipe, number)
    return Step(
        number=number,
        stage=stage,
        short_side=_short_side(recipe, stage, number, inside),
        learning_rate=recipe.learning_rate * stage.rate * _schedule(recipe, number),
        weighted=stage.name == "scales",
        variety=min(1.0, inside / (_GROWING * stage.steps)) if stage.name == "reading" else 1.0,
    )


_GROWING = 0.7
"""The part of the stage of reading in which cards become more varied."""


def resolution_weight(width: int, height: int, base_side: float) -> float:
    """1 + |1 - sqrt(H*W)/base|: pictures far from the base size, which a batch holds few of, count more."""
    return 1 + abs(1 - math.sqrt(width * height) / base_side)


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
    """Warm-up, full rate, and a straight fall in the last part: once while places are told, once for reading, once after."""
    inside, steps = _part_at(recipe, number)
    if inside < min(recipe.warmup, steps):
        return (inside + 1) / min(recipe.warmup, steps)
    return min(1.0, max(_LEAST_RATE, (steps - inside) / (_FALLING * steps)))


def _part_at(recipe: Recipe, number: int) -> tuple[int, int]:
    """The number of a step within the stages that learn together, and how many steps those have."""
    begin = 0
    for _, stages in itertools.groupby(recipe.stages, _alone):
        steps = sum(stage.steps for stage in stages)
        if number < begin + steps:
            return number - begin, steps
        begin += steps
    raise IndexError(f"the recipe has {recipe.steps} steps, there is no step {number}")


def _alone(stage: Stage) -> str:
    """The name of a stage in which one part of the model learns for itself; "" for all others."""
    return stage.name if stage.name in ("telling", "reading", "sorting") else ""


_FALLING = 0.45
"""The part of the steps in which the rate falls."""

_LEAST_RATE = 0.02

_SMOKE_NETWORK = Network(
    vision_layers=2, vision_width=64, vision_heads=2, merger_width=96, text_layers=2, text_width=128, text_heads=2,
    text_mlp_width=192,
)  # fmt: skip


def _sorted(gathered: int, learned: int) -> tuple[Stage, Stage]:
    """So many steps of gathering patches, and of learning their codes."""
    return (
        Stage("gathering", gathered, (308, 560), 0, cards_percent=40, token_budget=170),
        Stage("sorting", learned, (308,), 0, cards_percent=100, token_budget=1, rate=5 / 3),
    )


PRESETS: dict[str, Recipe] = {
    "smoke": Recipe(
        name="smoke",
        stages=(
            Stage("telling", 2, (84, 140), 50, token_budget=64),
            Stage("reading", 2, (84, 112), 0, cards_percent=60, token_budget=64),
            Stage("gathering", 1, (84, 112), 0, cards_percent=60, token_budget=64),
            Stage("sorting", 2, (84,), 0, cards_percent=100, token_budget=1),
            Stage("looking", 2, (84, 140), 50, cards_percent=60, token_budget=64, perfect=True),
            Stage("fixed", 2, (112,), 50, cards_percent=25, token_budget=64),
            Stage("scales", 4, (84, 140), 50, token_budget=64),
            Stage("groups", 2, (84, 140), 100, rate=0.3, token_budget=64),
        ),
        network=_SMOKE_NETWORK,
        batch_limit=2,
        questions=4,
        warmup=2,
        base_side=168.0,
        checkpoint_every=4,
    ),
    "hour": Recipe(
        name="hour",
        stages=(
            Stage("reading", 2300, (308, 560), 0, cards_percent=40, token_budget=170),
            *_sorted(200, 600),
            Stage("looking", 1500, (308, 448), 30, 0.15, token_budget=420, perfect=True),
            Stage("fixed", 500, (336,), 20, token_budget=360, tower=False),
            Stage("scales", 300, (280, 448), 35, token_budget=360, tower=False),
            Stage("groups", 200, (280, 336, 392, 448), 60, rate=0.7, token_budget=360, tower=False),
        ),
        warmup=40,
        checkpoint_every=100,
    ),
    "night": Recipe(
        name="night",
        stages=(
            Stage("telling", 2000, (280, 504), 30, 0.15, token_budget=1024),
            Stage("reading", 20000, (280, 560), 0, cards_percent=40, token_budget=170),
            *_sorted(700, 2000),
            Stage("looking", 12000, (280, 504), 30, 0.15, token_budget=420, perfect=True),
            Stage("fixed", 2000, (336,), 20, cards_percent=10, token_budget=480, tower=False),
            Stage("scales", 4000, (252, 504), 35, cards_percent=10, token_budget=480),
            Stage("groups", 1500, (252, 336, 448, 560), 80, rate=0.7, token_budget=720),
        ),
        warmup=100,
    ),
    "gpu": Recipe(
        name="gpu",
        stages=(
            Stage("telling", 1500, (280, 560), 40, 0.15, token_budget=4096),
            Stage("reading", 6000, (280, 560), 0, cards_percent=40, token_budget=1024),
            *_sorted(700, 2000),
            Stage("looking", 4000, (280, 560), 40, 0.15, token_budget=2048, perfect=True),
            Stage("fixed", 3000, (336,), 20, cards_percent=20, token_budget=2048),
            Stage("scales", 4000, (252, 560), 40, cards_percent=10, token_budget=2048),
            Stage("groups", 1500, (252, 336, 448, 560), 90, rate=0.7, token_budget=4096),
        ),
        batch_limit=64,
        warmup=300,
        checkpoint_every=1000,
    ),
}

LEAST_STEPS = max(len(preset.stages) for preset in PRESETS.values())
"""Of a run of any preset: one for each stage."""

LARGEST_SIDE = max(side for preset in PRESETS.values() for stage in preset.stages for side in stage.short_sides)
"""Short side in pixels of the largest pictures of any preset: a larger one was never trained."""
