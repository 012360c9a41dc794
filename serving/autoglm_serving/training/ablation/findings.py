"""Parts that no task is right or wrong for: batches, prefetch, cache, FLOPs; and what follows from the resolution study."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from autoglm_serving.training.ablation.run import Job
from autoglm_serving.training.ablation.table import Finding
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.replies import Replier
from autoglm_serving.training.study.data import Study
from autoglm_serving.training.study.page import controllers, fits
from autoglm_serving.vision import flops
from autoglm_serving.vision.batching import BatchLimits, Item, batches, padded_tokens
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.padding import fit
from autoglm_serving.vision.pixels.prefetch import prefetched
from autoglm_serving.vision.pixels.prepare import Preparer
from autoglm_serving.vision.sizing import at_short_side, token_grid

_PICTURES = 12
_ACCELERATOR_S = 0.02
"""How long an accelerator works on a picture, while the processors have time."""


def findings(job: Job, study: Study | None) -> tuple[Finding, ...]:
    """All of them, by group."""
    screens = open_screens(job.screens)
    side = job.settings.short_side
    found = [_round_trip(screens, side), _batches(screens, side), _prefetch(screens, side), _cache(job, side)]
    found.append(_flops(job, screens, side))
    if study is not None:
        found += [*controllers(study), *fits(study)]
    return tuple(found)


def _round_trip(screens: Screens, side: int) -> Finding:
    worst = 0.0
    for screen in screens.items:
        padding = fit((screen.width, screen.height), (2 * side, 2 * side))
        for element in screen.elements:
            x, y = (element.box[0] + element.box[2]) / 2, (element.box[1] + element.box[3]) / 2
            back = padding.to_source(*padding.to_frame(x, y))
            worst = max(worst, abs(back[0] - x), abs(back[1] - y))
    boxes = sum(len(screen.elements) for screen in screens.items)
    return Finding(
        group=1,
        name="resize_with_pad and back",
        measured=f"{worst:.1g} px at most, {boxes} elements",
        compared_with="1 px",
        verdict="exact" if worst <= 1 else "not within a pixel",
    )


def _batches(screens: Screens, side: int) -> Finding:
    limits = BatchLimits()
    items = [Item(each.id, *at_short_side(each.width, each.height, side)) for each in screens.items]
    made = batches(items, limits)
    asked = sum(batch.tokens for batch in made)
    wasted = padded_tokens(items, limits)
    return Finding(
        group=1,
        name="batches by resolution",
        measured=f"{len(made)} batches of {len(items)} pictures, no padding",
        compared_with=f"all in one: {100 * wasted / (wasted + asked):.0f} % of its tokens are padding",
        verdict="pays where pictures come in several shapes",
    )


def _prefetch(screens: Screens, side: int) -> Finding:
    encoded = _encoded(screens)

    def one_by_one() -> None:
        for each in encoded:
            _preparer(side).prepare(each)
            time.sleep(_ACCELERATOR_S)

    def ahead() -> None:
        for _ in prefetched(encoded, _preparer(side).prepare):
            time.sleep(_ACCELERATOR_S)

    plain, early = _timed(one_by_one), _timed(ahead)
    return Finding(
        group=1,
        name="prefetch, 2 threads",
        measured=f"{1000 * early / len(encoded):.0f} ms a picture",
        compared_with=f"{1000 * plain / len(encoded):.0f} ms without, 20 ms of them waiting for an accelerator",
        verdict=f"{100 * (1 - early / plain):.0f} % less time" if early < plain else "no gain on this machine",
    )


def _cache(job: Job, side: int) -> Finding:
    screens = open_screens(job.sessions or job.screens)
    encoded = [(job.sessions or job.screens) / each.image for each in screens.items]
    preparer = Preparer((2 * side, 2 * side), 1 << 28)
    first = _timed(lambda: [preparer.prepare(path.read_bytes()) for path in encoded])
    repeated = preparer.figures.hits
    again = _timed(lambda: [preparer.prepare(path.read_bytes()) for path in encoded])
    return Finding(
        group=1,
        name="cache of prepared pictures",
        measured=f"{1000 * again / len(encoded):.1f} ms a known picture, {repeated} of {len(encoded)} steps repeat one",
        compared_with=f"{1000 * first / len(encoded):.0f} ms a new picture",
        verdict="pays where screens repeat, byte for byte",
    )


def _flops(job: Job, screens: Screens, side: int) -> Finding:
    """The count from first principles against torch's, on the vision tower of this very model."""
    replier = Replier(job.model, job.device)
    shape = flops.architecture(json.loads((Path(job.model) / "config.json").read_text(encoding="utf-8")))
    worst = 0.0
    for screen in screens.items[:3]:
        width, height = at_short_side(screen.width, screen.height, side)
        pixels, grid = replier.pixels(screens.decoded(screen), width * height)
        seen = count_flops(lambda pixels=pixels, grid=grid: replier.see(pixels, grid))  # type: ignore[misc]
        counted = flops.vision(shape.vision, [token_grid(screen.width, screen.height, width * height)]).total
        worst = max(worst, abs(counted / seen - 1))
    return Finding(
        group=7,
        name="FLOPs from first principles, vision tower",
        measured=f"off by {100 * worst:.2f} % at most, 3 screens",
        compared_with="torch's counter",
        verdict="within 2 %" if worst <= 0.02 else "not within 2 %",
    )


def _encoded(screens: Screens) -> list[bytes]:
    return [(screens.folder / each.image).read_bytes() for each in screens.items[:_PICTURES]]


def _preparer(side: int) -> Preparer:
    """One that keeps nothing."""
    return Preparer((2 * side, 2 * side), 0)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
