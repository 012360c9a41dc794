"""Make a resolution study: every task at every size, in several processes, and a few times for each size and shape."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from autoglm_serving.images import ImageSize
from autoglm_serving.resolution import pixel_limit
from autoglm_serving.screens.records import Screen
from autoglm_serving.training.ablation.run import machine
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.evaluate import judged
from autoglm_serving.training.replies import Replier
from autoglm_serving.training.results import Verdict, count, quality_table
from autoglm_serving.training.study.data import Answer, Asked, Study, Timing
from autoglm_serving.training.study.page import page
from autoglm_serving.training.study.picture import picture
from autoglm_serving.vision import flops
from autoglm_serving.vision.quality import QualityTable, with_costs
from autoglm_serving.vision.sizing import MAX_PIXELS, token_grid

STUDY, PAGE, PICTURE, QUALITY = "resolution.json", "resolution.md", "resolution.svg", "quality.json"
SIZES = (168, 252, 336, 512, 672, 840, 1080)
_TEXT_TOKENS = 40
"""Of an instruction and the frame around it."""

_REPEATS = 2


@dataclass(frozen=True)
class Job:
    """All that a process needs."""

    model: Path
    screens: Path
    limit: int | None
    short_sides: tuple[int, ...]
    device: str = "cpu"


@dataclass(frozen=True)
class Unit:
    """A piece of work: one screen at one size, timed or not."""

    place: int
    screen: int
    timed: bool


@dataclass(frozen=True)
class Done:
    """What came of it."""

    unit: Unit
    verdicts: tuple[Verdict, ...]
    timing: Timing | None


class Desk:
    """A model and its screens."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._replier = Replier(job.model, job.device)
        self._screens = _limited(open_screens(job.screens), job.limit)

    def do(self, unit: Unit) -> Done:
        """Answer everything about a screen at a size."""
        screen, side = self._screens.items[unit.screen], self._job.short_sides[unit.place]
        found = tuple(judged(self._replier, self._screens, screen, side))
        return Done(unit, found, self._timed(screen, side) if unit.timed else None)

    def _timed(self, screen: Screen, side: int) -> Timing:
        image = self._screens.decoded(screen)
        limit = pixel_limit([ImageSize(screen.width, screen.height, "png")], side)
        instruction = [screen.tasks[0].instruction]
        times = []
        for _ in range(_REPEATS):
            started = time.process_time()
            self._replier.answers(image, instruction, limit, max_new_tokens=1)
            times.append(time.process_time() - started)
        return Timing(image_tokens=self._replier.tokens(image, limit), milliseconds=round(1000 * median(times), 2))


def run(job: Job, jobs: int, model: str, source: str, tell: Callable[[int, int], None]) -> Study:
    """The whole study. The largest pictures come first, so that no process is left with one at the end."""
    screens = _limited(open_screens(job.screens), job.limit)
    units = _units(job, screens)
    done = []
    for each in _done(job, units, jobs):
        done.append(each)
        tell(len(done), len(units))
    done.sort(key=lambda each: (each.unit.screen, each.unit.place))
    tasks = tuple(task for number, screen in enumerate(screens.items) for task in _tasks(screen, number, done))
    return Study(
        model=model,
        source=source,
        measured=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
        short_sides=job.short_sides,
        gflops=tuple(_gflops(job, screens, side) for side in job.short_sides),
        tasks=tasks,
        timings=tuple(each.timing for each in done if each.timing is not None),
    )


def write(out: Path, study: Study) -> str:
    """Write the study, its page, its picture and the quality table; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    text = page(study)
    (out / STUDY).write_text(study.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
    (out / PAGE).write_text(text, encoding="utf-8")
    (out / PICTURE).write_text(picture(study), encoding="utf-8")
    (out / QUALITY).write_text(quality(study).text(), encoding="utf-8")
    return text


def quality(study: Study) -> QualityTable:
    """What a gateway asks: accuracy by kind and size, and the fitted time."""
    verdicts = [
        Verdict(
            each.screen, each.task, each.kind, "", "", side, each.tokens[place], answer.right, answer.confidence, ""
        )
        for each in study.tasks
        for place, (side, answer) in enumerate(zip(study.short_sides, each.answers, strict=True))
    ]
    table = quality_table(count(verdicts), study.model, study.source, study.measured)
    return table if study.latency_error is None else with_costs(table, study.latency, study.latency_error)


def _units(job: Job, screens: Screens) -> list[Unit]:
    """The first screens of a few shapes are timed at every size."""
    shapes: dict[tuple[int, int], int] = {}
    timed: set[int] = set()
    for number, screen in enumerate(screens.items):
        shape = (screen.width, screen.height)
        shapes[shape] = shapes.get(shape, 0) + 1
        if shapes[shape] == 1 and screen.tasks and len(timed) < _MOST_TIMED:
            timed.add(number)
    return [
        Unit(place, number, number in timed)
        for place in reversed(range(len(job.short_sides)))
        for number, screen in enumerate(screens.items)
        if screen.tasks
    ]


_MOST_TIMED = 4


def _done(job: Job, units: Sequence[Unit], jobs: int) -> Iterator[Done]:
    if jobs == 1:
        desk = Desk(job)
        for unit in units:
            yield desk.do(unit)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (job,)) as pool:
        for future in as_completed([pool.submit(_one, unit) for unit in units]):
            yield future.result()


_desk: list[Desk] = []
"""Of this process."""


def _start(job: Job) -> None:
    torch.set_num_threads(1)
    _desk.append(Desk(job))


def _one(unit: Unit) -> Done:
    return _desk[0].do(unit)


def _tasks(screen: Screen, number: int, done: Sequence[Done]) -> Iterator[Asked]:
    mine = [each for each in done if each.unit.screen == number]
    for place, task in enumerate(screen.tasks):
        found = [each.verdicts[place] for each in mine]
        yield Asked(
            task=f"{screen.id} {task.id}",
            screen=screen.id,
            kind=screen.kind,
            answers=tuple(Answer(right=each.right, confidence=min(1.0, each.confidence)) for each in found),
            tokens=tuple(each.image_tokens for each in found),
        )


def _gflops(job: Job, screens: Screens, side: int) -> float:
    """From first principles, mean over the tasks."""
    shape = flops.architecture(json.loads((job.model / "config.json").read_text(encoding="utf-8")))
    total, tasks = 0.0, 0
    for screen in screens.items:
        limit = pixel_limit([ImageSize(screen.width, screen.height, "png")], side) or MAX_PIXELS
        grid = token_grid(screen.width, screen.height, min(limit, MAX_PIXELS))
        total += len(screen.tasks) * flops.request(shape, [grid], _TEXT_TOKENS).total
        tasks += len(screen.tasks)
    return round(total / max(1, tasks) / 1e9, 3)


def _limited(screens: Screens, limit: int | None) -> Screens:
    return replace(screens, items=screens.items[:limit])
