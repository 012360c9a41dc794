"""Ways to ask about a picture: the model's own, another way to see, another picture, a crop for each question."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from autoglm_serving.screens.actions import Tap, read_reply, tap
from autoglm_serving.screens.records import RELATIVE
from autoglm_serving.training.ablation.memory import Memory
from autoglm_serving.training.replies import Replier, Reply, See, Seen
from autoglm_serving.vision.boxes import Box
from autoglm_serving.vision.modules.crop import CropRule
from autoglm_serving.vision.modules.look import Look, look_by_tower
from autoglm_serving.vision.modules.variant import FusedVariant
from autoglm_serving.vision.pixels import resize
from autoglm_serving.vision.pixels.content import detail_mask
from autoglm_serving.vision.pixels.flow import changed_regions
from autoglm_serving.vision.pixels.stitch import CannotStitch, stitch
from autoglm_serving.vision.regions import crop
from autoglm_serving.vision.sizing import TOKEN_SIDE, at_short_side, image_tokens


@dataclass(frozen=True)
class Asked:
    """Questions about one picture at one short side. `before` is the screen before it in its session."""

    picture: Image.Image
    instructions: tuple[str, ...]
    short_side: int
    before: Image.Image | None = None

    @property
    def max_pixels(self) -> int:
        width, height = at_short_side(*self.picture.size, self.short_side)
        return width * height


class Way(Protocol):
    """Answers questions in one way."""

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        """One answer for each instruction."""

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        """Only what is needed for the first token of the first answer: for measuring work and time."""


class Plain:
    """The model sees the whole picture, or sees it in another way given as `see`."""

    def __init__(self, see: See | None = None) -> None:
        self._see = see

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        return replier.answers_about(self.first_look(replier, asked), asked.instructions)

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        return (self._see or replier.see)(*replier.pixels(asked.picture, asked.max_pixels))


def by_variant(variant: FusedVariant, memory: Memory | None = None) -> See:
    """As a fused variant sees. What the memory keeps of a picture is taken up to where the variant's own weights begin."""
    tower, visual = variant.tower, variant.model.model.visual
    shared = memory is not None and tower.plan.place == "late" and tower.normalise is None

    @torch.inference_mode()
    def see(pixels: torch.Tensor, grid: torch.Tensor) -> Seen:
        if shared and memory is not None:
            begun = memory.recall(tower.plan, pixels, grid, lambda: tower.begin(visual, pixels, grid).without_pixels())
            encoded = tower.finish(visual, begun)[0]
        else:
            encoded = variant.pictures(pixels, grid)[0]
        side = variant.model.model.visual.spatial_merge_size
        rows, columns = encoded.grid
        return Seen(encoded.tokens, grid.new_tensor([[1, rows * side, columns * side]]))

    return see


def by_tower_crop(replier: Replier, rule: CropRule) -> See:
    """Only the tokens that the tower's own attention points to."""

    @torch.inference_mode()
    def see(pixels: torch.Tensor, grid: torch.Tensor) -> Seen:
        glance = look_by_tower(replier.model, {"pixel_values": pixels, "image_grid_thw": grid}, rule)
        return Seen(glance.tokens[0], grid, tuple(glance.crops[0].cells()))

    return see


class ByQuestion:
    """A crop for each question: a small picture is asked first, and only the place that it looks at is seen closely."""

    def __init__(self, look: Look, rule: CropRule) -> None:
        self._look, self._rule = look, rule

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        return [replier.answers_about(self._seen(replier, asked, each), [each])[0] for each in asked.instructions]

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        return self._seen(replier, asked, asked.instructions[0])

    @torch.inference_mode()
    def _seen(self, replier: Replier, asked: Asked, instruction: str) -> Seen:
        pixels, grid = replier.pixels(asked.picture, asked.max_pixels)
        ids = replier.prompt(instruction, replier.tokens_of(grid))
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == replier.model.config.image_token_id).int(),
            "pixel_values": pixels,
            "image_grid_thw": grid,
        }
        glance = self._look(replier.model, inputs, self._rule)
        return Seen(glance.tokens[0], grid, tuple(glance.crops[0].cells()), glance.looked[0])


class Detailed:
    """Image tokens of plain tiles are dropped; tiles with detail, and their neighbours, stay (content-aware tiles)."""

    def __init__(self, see: See | None = None) -> None:
        self._see = see

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        return replier.answers_about(self.first_look(replier, asked), asked.instructions)

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        pixels, grid = replier.pixels(asked.picture, asked.max_pixels)
        seen = (self._see or replier.see)(pixels, grid)
        side = replier.model.config.vision_config.spatial_merge_size
        rows, columns = (int(patches) // side for patches in grid[0, 1:])
        shown = asked.picture.resize((columns * TOKEN_SIDE, rows * TOKEN_SIDE), Image.Resampling.BICUBIC)
        mask = detail_mask(np.asarray(shown))
        cells = mask.reshape(rows, TOKEN_SIDE, columns, TOKEN_SIDE).any(axis=(1, 3)).flatten()
        kept = tuple(int(place) for place in np.flatnonzero(cells)) or tuple(range(rows * columns))
        return Seen(seen.tokens[list(kept)], grid, kept)


Point = tuple[float, float]


@dataclass(frozen=True)
class Reframed:
    """Another picture of the same screen. `back` maps a relative point of it to one of the screen."""

    picture: Image.Image
    max_pixels: int
    back: Callable[[Point], Point] = lambda point: point


class Viewed:
    """The model sees a picture made from the screen; its taps are mapped back."""

    def __init__(self, view: Callable[[Asked], Reframed]) -> None:
        self._view = view

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        shown = self._view(asked)
        replies = replier.answers(shown.picture, asked.instructions, shown.max_pixels)
        return [replace(reply, text=mapped(reply.text, shown.back)) for reply in replies]

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        shown = self._view(asked)
        return replier.see(*replier.pixels(shown.picture, shown.max_pixels))


def square_side(asked: Asked) -> int:
    """The side of a square that costs as many image tokens as the picture does."""
    tokens = image_tokens(*asked.picture.size, asked.max_pixels)
    return max(1, round(math.sqrt(tokens))) * TOKEN_SIDE


def stretched(asked: Asked) -> Reframed:
    """One frame for all shapes of screen, by stretching. Relative points stay what they are."""
    side = square_side(asked)
    return Reframed(asked.picture.resize((side, side), Image.Resampling.BICUBIC), side * side)


def padded(asked: Asked) -> Reframed:
    """One frame for all shapes of screen, by padding."""
    side = square_side(asked)
    framed, padding = resize.resize_with_pad(np.asarray(asked.picture), (side, side))

    def back(point: Point) -> Point:
        x, y = padding.to_source(point[0] * side / RELATIVE, point[1] * side / RELATIVE)
        return x * RELATIVE / padding.source_width, y * RELATIVE / padding.source_height

    return Reframed(Image.fromarray(framed), side * side, back)


def enlarged(asked: Asked) -> Reframed:
    """The picture as a small one, brought up to twice its sides: no new detail, but text in a size that training had."""
    width, height = at_short_side(*asked.picture.size, asked.short_side)
    small = asked.picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = resize.enlarged(np.asarray(small), 2 * asked.short_side)
    return Reframed(Image.fromarray(pixels), 4 * asked.max_pixels)


def stitched(asked: Asked) -> Reframed:
    """The screen put together again from two overlapping halves; the first half alone where they do not match."""
    picture = asked.picture
    width, height = at_short_side(*picture.size, 2 * asked.short_side)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    long = max(width, height)
    first, last = round(long * 0.65), round(long * 0.35)
    halves = [pixels[:first], pixels[last:]] if height >= width else [pixels[:, :first], pixels[:, last:]]
    try:
        joined = stitch(halves).picture
    except CannotStitch:
        joined = halves[0]
    return Reframed(Image.fromarray(joined), asked.max_pixels)


def changed_box(asked: Asked) -> Box | None:
    """Where the screen changed since the one before, with its surroundings; None where nothing did, or almost everything."""
    if asked.before is None:
        return None
    found = changed_regions(np.asarray(asked.before), np.asarray(asked.picture))
    part = crop(asked.picture.size, found.regions)
    return _with_surroundings(part.box, asked.picture.size) if part.reason == "region" else None


def changed(asked: Asked) -> Reframed:
    """Only what changed since the screen before, at the same scale; the whole screen where that says nothing."""
    box = changed_box(asked)
    if box is None:
        return Reframed(asked.picture, asked.max_pixels)
    return cut_out(asked, box)


def cut_out(asked: Asked, box: Box, closer: float = 1.0) -> Reframed:
    """A part of the screen as a picture of its own, so many times as large as the whole screen would show it."""
    whole_width, whole_height = asked.picture.size
    scale = closer * min(1.0, asked.short_side / min(whole_width, whole_height))
    size = max(TOKEN_SIDE, round(box.width * scale)), max(TOKEN_SIDE, round(box.height * scale))
    part = asked.picture.resize(size, Image.Resampling.BICUBIC, box=(box.left, box.top, box.right, box.bottom))

    def back(point: Point) -> Point:
        x, y = (box.left + point[0] * box.width / RELATIVE), (box.top + point[1] * box.height / RELATIVE)
        return x * RELATIVE / whole_width, y * RELATIVE / whole_height

    return Reframed(part, size[0] * size[1], back)


LEAST_SHARE = 0.2
"""Of each side of the screen: a crop is grown to it, because what a strip of a few pixels shows nobody knows."""


def _with_surroundings(box: Box, size: tuple[int, int]) -> Box:
    wide = _grown(box.left, box.right, size[0])
    high = _grown(box.top, box.bottom, size[1])
    return Box(wide[0], high[0], wide[1], high[1])


def _grown(start: int, end: int, whole: int) -> tuple[int, int]:
    wanted = max(end - start, round(LEAST_SHARE * whole))
    first = min(max(0, (start + end - wanted) // 2), whole - wanted)
    return first, first + wanted


def mapped(reply: str, back: Callable[[Point], Point]) -> str:
    """A reply about a view as one about the screen: taps go back, all else stays."""
    given = read_reply(reply)
    if not isinstance(given, Tap):
        return reply
    x, y = back(given.point)
    return tap((min(max(round(x), 0), RELATIVE - 1), min(max(round(y), 0), RELATIVE - 1)))
