"""What reusing the features of unchanged parts of a screen would gain, and what it would cost in answers.

For two screens after each other: which image tokens cover equal pixels; how far their features differ all the same (the
vision tower attends over the whole picture); and how often the answer is the same when those features are taken from the
screen before. Computing only the changed part could save at most the share of unchanged tokens.

The pairs are screens of real sessions. With `--screens` (a folder of `autoglm screens make --split sessions`) the tasks of
made sessions are asked as well, where a right answer is known: what reuse costs in them. Options: `--model`, `--sessions`,
`--max-pixels`, `--pairs` (of each kind), `--short-side` (of the made screens).
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from benchmarks.machine import describe, table
from PIL import Image, ImageDraw

from autoglm_serving.engines.interface import GenerateRequest, ImagePart, Message, TextPart
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.engines.prompt import Prompt, PromptBuilder
from autoglm_serving.engines.transformers_pictures import CacheBounds, Pictures
from autoglm_serving.engines.transformers_runner import TransformersRunner
from autoglm_serving.images import ImageSize
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer
from autoglm_serving.model.locate import locate
from autoglm_serving.resolution import pixel_limit
from autoglm_serving.screens.records import Screen
from autoglm_serving.screens.scoring import score
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.replies import Replier
from support.phone_sessions import load

FOLDER = Path(__file__).parent / "data" / "phone-sessions"
EQUAL = 0.1
"""Normalised pixels that differ by less are equal: about seven of 255 levels, the noise of JPEG."""
NEW_TOKENS = 24
QUESTION = "** Screen Info **\n\n下一步操作是什么?"


@dataclass(frozen=True)
class Pair:
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Measured:
    """One pair. `drift`: relative distance of the features of unchanged tokens; `spread`: that of unrelated tokens."""

    unchanged: float
    drift: float
    spread: float
    spliced_same: bool
    stale_same: bool


class Model:
    """A model that answers about a picture with features that it is given."""

    def __init__(self, uri: str) -> None:
        folder = check_folder(locate(uri))
        images, tokenizer = ModelImages(folder), ModelTokenizer(folder)
        self._pictures = Pictures(images, CacheBounds(0, 0))
        self._runner = TransformersRunner(folder, self._pictures, TransformersOptions(prefix_cache_mib=0))
        self._prompts = PromptBuilder(tokenizer, images.tokens, images.size, folder.image_token_id, 25480)
        self._end = folder.end_ids

    def prompt(self, picture: Image.Image, max_pixels: int | None) -> tuple[Prompt, GenerateRequest]:
        message = Message("user", (ImagePart(picture), TextPart(QUESTION)))
        request = GenerateRequest("pair", (message,), NEW_TOKENS, max_pixels=max_pixels)
        return self._pictures.prepared(self._prompts.build(request)), request

    @torch.inference_mode()
    def features(self, prompt: Prompt) -> torch.Tensor:
        return next(iter(self._pictures.encode(self._runner._model, [(prompt, 0)]).values()))

    def answer(self, prompt: Prompt, request: GenerateRequest, features: torch.Tensor) -> list[int]:
        state = self._runner.start(prompt, request)
        state.features[0] = features
        while not self._runner.read(state, ()):
            pass
        ids: list[int] = []
        while len(ids) < NEW_TOKENS and (not ids or ids[-1] not in self._end):
            ids.append(self._runner.next_token(state))
        return ids


def measure(model: Model, pair: Pair, max_pixels: int | None) -> Measured:
    before, _ = model.prompt(pair.before, max_pixels)
    after, request = model.prompt(pair.after, max_pixels)
    old, new = model.features(before), model.features(after)
    kept = unchanged(before, after)
    spliced = torch.where(kept[:, None], old, new)
    true = model.answer(after, request, new)
    distance = (old - new).norm(dim=1) / new.norm(dim=1)
    spread = (new - new.roll(len(new) // 2, 0)).norm(dim=1) / new.norm(dim=1)
    return Measured(
        unchanged=kept.float().mean().item(),
        drift=distance[kept].mean().item() if bool(kept.any()) else 0.0,
        spread=spread.mean().item(),
        spliced_same=model.answer(after, request, spliced) == true,
        stale_same=model.answer(after, request, old) == true,
    )


def unchanged(before: Prompt, after: Prompt) -> torch.Tensor:
    """[tokens] whether all pixels of a token's patches are equal."""
    one, other = before.pixels[0], after.pixels[0]
    return (one - other).abs().view(before.image_tokens[0], -1).amax(dim=1) < EQUAL


def consecutive(folder: Path) -> Iterator[Pair]:
    """Screens of real sessions after each other."""
    for session in load(folder):
        pictures = [Image.open(io.BytesIO(step.picture)).convert("RGB") for step in session.steps]
        for before, after in pairwise(pictures):
            yield Pair(before, after)


def clocks(folder: Path) -> Iterator[Pair]:
    """Real screens, and the same a minute later: only the digits at the top left differ."""
    for session in load(folder):
        for step in session.steps:
            picture = Image.open(io.BytesIO(step.picture)).convert("RGB")
            yield Pair(_at(picture, "12:34"), _at(picture, "12:35"))


def _at(picture: Image.Image, clock: str) -> Image.Image:
    changed = picture.copy()
    draw = ImageDraw.Draw(changed)
    height = round(picture.height * 0.028)
    draw.rectangle((0, 0, round(picture.width * 0.2), height), fill=picture.getpixel((2, 2)))
    draw.text((height, height // 6), clock, fill="white", font_size=height * 2 // 3)
    return changed


def row(kind: str, found: list[Measured]) -> list[str]:
    return [
        kind,
        str(len(found)),
        f"{mean(each.unchanged for each in found):.0%}",
        f"{mean(each.drift for each in found):.2f}",
        f"{mean(each.spread for each in found):.2f}",
        f"{sum(each.spliced_same for each in found)}/{len(found)}",
        f"{sum(each.stale_same for each in found)}/{len(found)}",
    ]


@dataclass(frozen=True)
class Told:
    """The tasks of one screen: whether the answer was right with its own features, and with the old ones in part or whole."""

    unchanged: float
    drift: float
    own: tuple[bool, ...]
    spliced: tuple[bool, ...]
    stale: tuple[bool, ...]
    same: int
    """Answers that reuse did not change, right or not."""


def successors(screens: Screens) -> Iterator[tuple[Screen, Screen]]:
    """Made screens after each other in one session, the later with tasks."""
    for before, after in pairwise(screens.items):
        if after.session and after.session == before.session and after.tasks:
            yield before, after


@torch.inference_mode()
def tell(replier: Replier, screens: Screens, pair: tuple[Screen, Screen], short_side: int) -> Told:
    after = pair[1]
    limit = pixel_limit([ImageSize(after.width, after.height, "png")], short_side)
    (old_pixels, _), (pixels, grid) = (replier.pixels(screens.decoded(screen), limit) for screen in pair)
    old, new = replier.see(old_pixels, grid), replier.see(pixels, grid)
    kept = (old_pixels - pixels).abs().view(len(new.tokens), -1).amax(dim=1) < EQUAL
    distance = (old.tokens - new.tokens).norm(dim=1) / new.tokens.norm(dim=1)
    spliced = replace(new, tokens=torch.where(kept[:, None], old.tokens, new.tokens))
    instructions = [task.instruction for task in after.tasks]
    answers = [[reply.text for reply in replier.answers_about(each, instructions)] for each in (new, spliced, old)]
    own, reused, stale = (tuple(_right(after, texts)) for texts in answers)
    return Told(
        unchanged=kept.float().mean().item(),
        drift=distance[kept].mean().item() if bool(kept.any()) else 0.0,
        own=own,
        spliced=reused,
        stale=stale,
        same=sum(one == other for one, other in zip(answers[0], answers[1], strict=True)),
    )


def _right(screen: Screen, texts: Sequence[str]) -> Iterator[bool]:
    for task, text in zip(screen.tasks, texts, strict=True):
        yield score(screen, task, text).right


SHARES = ((0.95, 1.01), (0.5, 0.95), (0.0, 0.5))
"""Of unchanged tokens: from, below."""


def told_rows(found: Sequence[Told]) -> list[list[str]]:
    """One row for each range of unchanged tokens that screens lie in, and one for all."""
    rows = []
    for low, high in (*SHARES, (0.0, 1.01)):
        part = [each for each in found if low <= each.unchanged < high]
        tasks = sum(len(each.own) for each in part)
        if tasks:
            name = "all" if high - low > 1 else f"{low:.0%} and more" if high > 1 else f"{low:.0%} to {high:.0%}"
            rows.append([name, str(len(part)), str(tasks), *_told_cells(part, tasks)])
    return rows


def _told_cells(part: Sequence[Told], tasks: int) -> list[str]:
    lost = sum(one and not other for each in part for one, other in zip(each.own, each.spliced, strict=True))
    won = sum(other and not one for each in part for one, other in zip(each.own, each.spliced, strict=True))
    return [
        f"{mean(each.unchanged for each in part):.0%}",
        f"{mean(each.drift for each in part):.2f}",
        f"{sum(each.same for each in part)} of {tasks}",
        str(sum(sum(each.own) for each in part)),
        f"{sum(sum(each.spliced) for each in part)} ({lost} lost, {won} won)",
        str(sum(sum(each.stale) for each in part)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin://autoglm-tiny-grounded", help="URI of the model")
    parser.add_argument("--sessions", type=Path, default=FOLDER)
    parser.add_argument("--screens", type=Path, help="made sessions, to ask their tasks too")
    parser.add_argument("--max-pixels", type=int)
    parser.add_argument("--short-side", type=int, default=336)
    parser.add_argument("--pairs", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe()
    model = Model(asked.model)
    rows = []
    for kind, found in (
        ("only the clock changed", clocks(asked.sessions)),
        ("next screen of a session", consecutive(asked.sessions)),
    ):
        measured = [measure(model, pair, asked.max_pixels) for _, pair in zip(range(asked.pairs), found, strict=False)]
        rows.append(row(kind, measured))
    name = asked.model.rpartition("/")[2]
    print(f"{machine}; {name}, pixel limit {asked.max_pixels or 'none'}, answers of {NEW_TOKENS} tokens\n")
    columns = ["pairs", "number", "unchanged tokens", "their features' drift", "drift of unrelated tokens"]
    print(table([*columns, "same answer with them reused", "same answer with the whole old picture"], rows))
    if asked.screens:
        screens, replier = open_screens(asked.screens), Replier(locate(asked.model))
        told = []
        for pair in successors(screens):
            told.append(tell(replier, screens, pair, asked.short_side))
            print(pair[1].id, told[-1], file=sys.stderr, flush=True)
        print(f"\n{machine}; {name}, tasks of made sessions, short side {asked.short_side}\n")
        columns = [
            "unchanged tokens",
            "screens",
            "tasks",
            "mean",
            "their features' drift",
            "same answer with them reused",
        ]
        print(table([*columns, "right", "right with them reused", "right with the whole old picture"], told_rows(told)))


if __name__ == "__main__":
    main()
