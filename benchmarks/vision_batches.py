"""Pictures of several sizes through the vision tower: one by one, by size, and all sizes in one call.

A load of phones, tablets and desktops that wait at once. Each arm computes the same features, in turns: `one by one` is
`visionBatchTokens: 0`; `by size` puts pictures of one size together, as the engines do up to `visionBatchTokens`; `mixed`
takes all in one call, each attending only to itself; `mixed, padded` and `by size, padded` do attention for all pictures
of a call at once, padded to the longest and masked. Times are processor time until features are there. Options: `--wide`
(instead of the checkpoint's tower one layer of GLM-4.1V's widths, random), `--short-sides`, `--rounds`, `--threads`.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.machine import describe, table
from PIL import Image, ImageDraw
from transformers import Glm4vVisionModel
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.vision_utils import get_vision_position_ids

from autoglm_serving.engines.vision_tower import Grid, encode
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, load_tower
from autoglm_serving.model.locate import locate
from autoglm_serving.vision.batching import BatchLimits, Item, batches
from autoglm_serving.vision.modules.tower import Run, blocks_padded, embed, merge, rotary
from autoglm_serving.vision.sizing import at_short_side

LOAD = {"phone": (1080, 2400, 4), "tablet": (1600, 2560, 2), "desktop": (1920, 1080, 2)}
"""Width, height and how many."""


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    pixels: torch.Tensor
    grid: Grid


Features = list[torch.Tensor]
Call = Callable[[Any, Sequence[Picture]], Features]


@dataclass(frozen=True)
class Arm:
    """How a load is cut into calls of the tower, and how a call is made."""

    call: Call
    cut: Callable[[Sequence[Picture]], list[list[int]]]


@dataclass(frozen=True)
class Timed:
    """Processor seconds of one load, and until a picture's features were there, by picture."""

    whole: float
    waited: tuple[float, ...]


def packed(tower: Any, pictures: Sequence[Picture]) -> Features:
    """The engines' own call."""
    return encode(tower, [(each.pixels, each.grid) for each in pictures])


@torch.inference_mode()
def padded(tower: Any, pictures: Sequence[Picture]) -> Features:
    """The tower's steps with attention over all pictures at once."""
    grids = torch.tensor([each.grid for each in pictures])
    places = get_vision_position_ids(grids, tower.spatial_merge_size)
    run = Run(tuple(grids.prod(1).tolist()), places, grids[:, 1:])
    hidden = embed(tower, torch.cat([each.pixels for each in pictures]), run)
    merged = merge(tower, blocks_padded(tower, hidden, run, rotary(tower, hidden, run)))
    return list(torch.split(merged, [length // tower.spatial_merge_size**2 for length in run.lengths]))


def alone(pictures: Sequence[Picture]) -> list[list[int]]:
    return [[index] for index in range(len(pictures))]


def by_size(pictures: Sequence[Picture]) -> list[list[int]]:
    items = [Item(str(index), each.width, each.height) for index, each in enumerate(pictures)]
    return [[int(key) for key in batch.keys] for batch in batches(items, BatchLimits(tokens=1 << 20))]


def together(pictures: Sequence[Picture]) -> list[list[int]]:
    return [list(range(len(pictures)))]


ARMS = {
    "one by one": Arm(packed, alone),
    "by size": Arm(packed, by_size),
    "by size, padded": Arm(padded, by_size),
    "mixed": Arm(packed, together),
    "mixed, padded": Arm(padded, together),
}


def load(images: ModelImages, short_side: int, rng: random.Random) -> list[Picture]:
    """The pictures in the order in which they came."""
    found = []
    for width, height, count in LOAD.values():
        fit = at_short_side(width, height, short_side)
        size = images.size.limited_to(fit[0] * fit[1])
        for _ in range(count):
            pixels, _ = images.pixels(drawn(rng, *fit), size)
            found.append(Picture(*fit, pixels, images.grid(*fit, size)))
    rng.shuffle(found)
    return found


def drawn(rng: random.Random, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.randrange(width), rng.randrange(height)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        draw.rectangle((x, y, x + width // 4, y + height // 16), fill=colour)
    return image


def timed(tower: Any, pictures: Sequence[Picture], arm: Arm) -> tuple[Timed, Features]:
    calls = arm.cut(pictures)
    waited, found = [0.0] * len(pictures), [torch.empty(0)] * len(pictures)
    begun = time.process_time()
    for call in calls:
        features = arm.call(tower, [pictures[index] for index in call])
        for index, each in zip(call, features, strict=True):
            waited[index], found[index] = time.process_time() - begun, each
    return Timed(time.process_time() - begun, tuple(waited)), found


def far(one: Features, other: Features) -> float:
    """The largest difference between the same features, relative to their largest value."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(one, other, strict=True))


def wide() -> Any:
    """One layer of GLM-4.1V's vision tower, in its widths, with random weights."""
    torch.manual_seed(1)
    config = Glm4vVisionConfig(depth=1)
    config._attn_implementation = "sdpa"
    return Glm4vVisionModel(config).eval()


def wide_images(folder: Any) -> ModelImages:
    """The folder's processor with GLM-4.1V's patches."""
    images = ModelImages(folder)
    images._hf.patch_size, images._hf.merge_size = 14, 2
    return images


def rows(tower: Any, pictures: Sequence[Picture], rounds: int) -> list[list[str]]:
    """One row for each arm: shares of the first arm's times, by the medians of rounds in turns."""
    names = list(ARMS)
    seen: dict[str, list[Timed]] = {name: [] for name in names}
    features: dict[str, Features] = {}
    for number in range(-1, rounds):  # the first is to warm up
        at = number % len(names)
        for name in names[at:] + names[:at]:
            once, features[name] = timed(tower, pictures, ARMS[name])
            if number >= 0:
                seen[name].append(once)
    base = {measure: median(seen["one by one"], measure) for measure in MEASURES}
    found = []
    for name in names:
        cells = [share(seen[name], measure, value) for measure, value in base.items()]
        calls = len(ARMS[name].cut(pictures))
        found.append([name, str(calls), *cells, f"{far(features[name], features['one by one']):.0e}"])
    return found


MEASURES: dict[str, Callable[[Timed], float]] = {
    "all features": lambda once: once.whole,
    "a picture's features, mean": lambda once: statistics.mean(once.waited),
    "the first features": lambda once: min(once.waited),
}


def median(seen: Sequence[Timed], measure: str) -> float:
    return statistics.median(MEASURES[measure](once) for once in seen)


def share(seen: Sequence[Timed], measure: str, base: float) -> str:
    value = median(seen, measure)
    return f"{value / base:.2f} ({1000 * value:.0f} ms)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin://autoglm-tiny-grounded", help="URI of the model")
    parser.add_argument(
        "--wide", action="store_true", help="one random layer of GLM-4.1V's widths instead of its tower"
    )
    parser.add_argument("--short-sides", default="112,224")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    machine = describe()
    folder = check_folder(locate(asked.model))
    tower = wide() if asked.wide else load_tower(folder, torch.float32, torch.device("cpu"))
    images = wide_images(folder) if asked.wide else ModelImages(folder)
    found = []
    for short_side in map(int, asked.short_sides.split(",")):
        pictures = load(images, short_side, random.Random(short_side))
        patches = f"{short_side} ({sum(each.pixels.shape[0] for each in pictures)} patches)"
        found += [[patches, *row] for row in rows(tower, pictures, asked.rounds)]
        print("\n".join(" | ".join(row) for row in found[-len(ARMS) :]), file=sys.stderr, flush=True)
    kinds = ", ".join(f"{count} of {width}x{height}" for width, height, count in LOAD.values())
    name = "one layer of GLM-4.1V's widths" if asked.wide else asked.model
    print(f"{machine}; {name}, {asked.threads} thread(s), {asked.rounds} rounds in turns; {kinds}, at once\n")
    columns = ["short side", "how", "calls", *MEASURES, "features differ by"]
    print(table(columns, found))


if __name__ == "__main__":
    main()
