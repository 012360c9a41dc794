"""Measure one technique: what it answers, what a first token costs, how long that takes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from autoglm_serving.screens.records import Screen, Task
from autoglm_serving.screens.scoring import score
from autoglm_serving.training.ablation import ways
from autoglm_serving.training.ablation.memory import Memory
from autoglm_serving.training.ablation.paired import compare
from autoglm_serving.training.ablation.plan import Technique
from autoglm_serving.training.ablation.table import Row
from autoglm_serving.training.ablation.weights import Tuned, load_new
from autoglm_serving.training.ablation.zoom import Zoomed, ZoomRule
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.recipe import LARGEST_SIDE
from autoglm_serving.training.replies import Replier
from autoglm_serving.vision.modules.crop import CropRule
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.modules.look import LookByQuestion
from autoglm_serving.vision.modules.variant import FusedVariant
from autoglm_serving.vision.modules.variants import VARIANTS, Options, build_variant
from autoglm_serving.vision.sizing import TOKEN_SIDE, at_short_side


def default_beyond(trained: int = LARGEST_SIDE) -> int:
    """A quarter more than the largest trained size, in whole image tokens: half more would cost five times the work."""
    return round(1.25 * trained / TOKEN_SIDE) * TOKEN_SIDE


ZOOMS = {"zoom": ZoomRule(), "zoom-small": ZoomRule(glance=2 / 3, wide=0.5, tall=0.2)}
"""Ways to look twice. The second one is meant to cost less than one look at everything."""


@dataclass(frozen=True)
class Settings:
    """What all techniques have in common. Sides in pixels."""

    short_side: int = 336
    trained: int = LARGEST_SIDE
    """The largest size that the model was trained at."""
    beyond: int = default_beyond()
    beyond_screens: int = 8
    """Above the trained sizes no more screens than these are asked: each costs five times as much."""
    probes: int = 2
    """Screens on which work and time are measured."""
    repeats: int = 2
    variants: Path | None = None
    """Where `autoglm train variant` left new weights."""
    crop: CropRule = field(default_factory=CropRule)

    def side_of(self, technique: Technique) -> int:
        """The size that a technique is asked at."""
        match technique.data:
            case "beyond":
                return self.beyond
            case "small":
                return self.short_side // 2
            case _:
                return self.short_side

    @property
    def options(self) -> Options:
        """Rotary positions are squeezed into the longest side that the largest trained size has on a phone of 9:20."""
        long = at_short_side(1080, 2400, self.trained)[1]
        return Options(trained_pixels=long, crop=self.crop)


@dataclass(frozen=True)
class Measured:
    """What was seen of one technique."""

    technique: Technique
    outcomes: dict[str, bool]
    """By screen and task: whether the answer was right."""
    image_tokens: float
    gflops: float
    latency_ms: float
    short_side: int
    new_weights: int = 0
    steps: int = 0


def measure(
    technique: Technique, replier: Replier, data: Screens, settings: Settings, memory: Memory | None = None
) -> Measured:
    """Ask everything, then probe a few screens for work and time, for which nothing is remembered."""
    way, tuned = way_of(technique, replier, settings, memory)
    side = settings.side_of(technique)
    outcomes: dict[str, bool] = {}
    tokens = 0
    if technique.data == "beyond":
        data = replace(data, items=data.items[: settings.beyond_screens])
    asked = list(questions(technique, data, side))
    for each in asked:
        replies = way.answers(replier, each.asked(data))
        for task, reply in zip(each.tasks, replies, strict=True):
            outcomes[f"{each.screen.id} {task.id}"] = score(each.screen, task, reply.text).right
            tokens += reply.image_tokens
    probed = asked[:: max(1, len(asked) // max(1, settings.probes))][: settings.probes]
    bare = way_of(technique, replier, settings)[0]
    gflops, latency = _probe(bare, replier, [each.asked(data) for each in probed], settings)
    return Measured(
        technique=technique,
        outcomes=outcomes,
        image_tokens=tokens / max(1, len(outcomes)),
        gflops=gflops,
        latency_ms=latency,
        short_side=side,
        new_weights=tuned.new_weights,
        steps=tuned.steps,
    )


def is_untrained(technique: Technique, replier: Replier, settings: Settings) -> bool:
    """Whether a technique adds weights and none of them were learned."""
    tuned = way_of(technique, replier, settings)[1]
    return tuned.new_weights > 0 and not tuned.steps


def row_of(measured: Measured, reference: Measured) -> Row:
    """The table's row: compared with its reference on the same tasks."""
    paired = compare(measured.outcomes, reference.outcomes)
    technique = measured.technique
    return Row(
        group=technique.group,
        name=technique.name,
        against=technique.against,
        short_side=measured.short_side,
        right=sum(measured.outcomes.values()),
        total=len(measured.outcomes),
        gained=paired.gained,
        lost=paired.lost,
        image_tokens=round(measured.image_tokens, 1),
        gflops=round(measured.gflops, 3),
        latency_ms=round(measured.latency_ms, 1),
        steps=measured.steps,
        new_weights=measured.new_weights,
        note=technique.note,
    )


def way_of(
    technique: Technique, replier: Replier, settings: Settings, memory: Memory | None = None
) -> tuple[ways.Way, Tuned]:
    """How a technique asks, and what was learned for it. Raises KeyError for a way that there is not."""
    nothing = Tuned(0, 0)
    see = replier.see if memory is None else memory.remembered("plain", replier.see)
    match technique.way:
        case "plain":
            return ways.Plain(see), nothing
        case "stretched":
            return ways.Viewed(ways.stretched), nothing
        case "padded-frame":
            return ways.Viewed(ways.padded), nothing
        case "enlarged":
            return ways.Viewed(ways.enlarged), nothing
        case "stitched":
            return ways.Viewed(ways.stitched), nothing
        case "changed":
            return ways.Viewed(ways.changed), nothing
        case "detailed":
            return ways.Detailed(see), nothing
        case way if way in ZOOMS:
            return Zoomed(ZOOMS[way], see), nothing
        case "crop-tower":
            return ways.Plain(ways.by_tower_crop(replier, settings.crop)), nothing
        case "crop-question":
            look = LookByQuestion()
            # What the first look costs comes off what the crop may hold.
            rule = replace(settings.crop, max_share=max(settings.crop.max_share - look.share**2, 0.0))
            return ways.ByQuestion(look, rule), nothing
        case name if name in VARIANTS:
            variant = build_variant(name, replier.model, settings.options)
            assert isinstance(variant, FusedVariant)
            return ways.Plain(ways.by_variant(variant.eval(), memory)), load_new(variant, name, settings.variants)
        case other:
            raise KeyError(other)


@dataclass(frozen=True)
class Questions:
    """What is asked about one screen; `before` is the screen before it in its session."""

    screen: Screen
    tasks: tuple[Task, ...]
    short_side: int
    before: Screen | None = None

    def asked(self, data: Screens) -> ways.Asked:
        """With the pictures."""
        before = data.decoded(self.before) if self.before is not None else None
        instructions = tuple(task.instruction for task in self.tasks)
        return ways.Asked(data.decoded(self.screen), instructions, self.short_side, before)


def questions(technique: Technique, data: Screens, side: int) -> Iterator[Questions]:
    """What a technique is asked, screen after screen."""
    last: Screen | None = None
    for screen in data.items:
        before = last if last is not None and screen.session is not None and last.session == screen.session else None
        last = screen
        found = Questions(screen, screen.tasks, side, before)
        if technique.data == "changed":
            found = replace(found, tasks=_about_changes(found, data) if before is not None else ())
        if found.tasks:
            yield found


def _about_changes(found: Questions, data: Screens) -> tuple[Task, ...]:
    shown = ways.changed_box(found.asked(data))
    if shown is None:
        return ()
    targets = {task.id: found.screen.element(task.target).box for task in found.tasks if task.target is not None}
    middles = {name: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for name, box in targets.items()}
    return tuple(task for task in found.tasks if task.id in middles and shown.contains(*middles[task.id]))


def _probe(way: ways.Way, replier: Replier, asked: Sequence[ways.Asked], settings: Settings) -> tuple[float, float]:
    """GFLOP and milliseconds of processor time until the first token of an answer, means over the screens.

    Of several runs the quickest counts: what else the machine does only adds to the time.
    """
    if not asked:
        return 0.0, 0.0
    work = [count_flops(lambda each=each: _first_token(way, replier, each)) for each in asked]  # type: ignore[misc]
    times = [min(_timed(way, replier, each) for _ in range(settings.repeats)) for each in asked]
    return sum(work) / len(work) / 1e9, 1000 * sum(times) / len(times)


def _timed(way: ways.Way, replier: Replier, asked: ways.Asked) -> float:
    started = time.process_time()
    _first_token(way, replier, asked)
    return time.process_time() - started


def _first_token(way: ways.Way, replier: Replier, asked: ways.Asked) -> None:
    with torch.inference_mode():
        replier.answers_about(way.first_look(replier, asked), asked.instructions[:1], max_new_tokens=1)
