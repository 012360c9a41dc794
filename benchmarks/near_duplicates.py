"""What reusing the features of unchanged parts of a screen would gain, and what it would cost in answers.

For two screens after each other: which image tokens cover equal pixels; how far their features differ all the same (the
vision tower attends over the whole picture); and how often the answer is the same when those features are taken from the
screen before. Computing only the changed part could save at most the share of unchanged tokens.

Settings by environment: NEAR_DUPLICATES_MODEL (a model's URI), NEAR_DUPLICATES_SESSIONS (a folder of sessions),
NEAR_DUPLICATES_MAX_PIXELS, NEAR_DUPLICATES_PAIRS (of each kind).
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
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
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer
from autoglm_serving.model.locate import locate
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


def main() -> None:
    uri = os.environ.get("NEAR_DUPLICATES_MODEL", "builtin://autoglm-tiny")
    folder = Path(os.environ.get("NEAR_DUPLICATES_SESSIONS", FOLDER))
    limit = os.environ.get("NEAR_DUPLICATES_MAX_PIXELS")
    pairs = int(os.environ.get("NEAR_DUPLICATES_PAIRS", "20"))
    machine = describe()
    model = Model(uri)
    rows = []
    for kind, found in (("only the clock changed", clocks(folder)), ("next screen of a session", consecutive(folder))):
        measured = [
            measure(model, pair, int(limit) if limit else None) for _, pair in zip(range(pairs), found, strict=False)
        ]
        rows.append(row(kind, measured))
    print(f"{machine}; {uri.rpartition('/')[2]}, pixel limit {limit or 'none'}, answers of {NEW_TOKENS} tokens\n")
    columns = ["pairs", "number", "unchanged tokens", "their features' drift", "drift of unrelated tokens"]
    print(table([*columns, "same answer with them reused", "same answer with the whole old picture"], rows))


if __name__ == "__main__":
    main()
