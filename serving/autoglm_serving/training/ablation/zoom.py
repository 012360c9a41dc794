"""Look at the whole screen small, then closely at the place that the question's attention points to.

The article "compression", section 2.2, crops by an attention map and keeps the crop's scale. Here the crop is looked at again
as a picture of its own, and larger: what was a few pixels is read better, and a wrong digit is a smaller mistake.
"""

from dataclasses import dataclass, replace

from autoglm_serving.screens.actions import Tap, read_reply
from autoglm_serving.training.ablation.ways import Asked, Reframed, cut_out, mapped
from autoglm_serving.training.replies import Replier, Reply, See, Seen
from autoglm_serving.vision.boxes import Box


@dataclass(frozen=True)
class ZoomRule:
    """`glance` and `close` are factors of the size asked for: of the whole screen first, of the screen around the part then.

    `wide` and `tall` are the part's shares of the screen's width and height.
    """

    glance: float = 1.0
    close: float = 4 / 3
    wide: float = 0.6
    tall: float = 0.3


class Zoomed:
    """Two looks for each question that asks for a place. An answer that taps nowhere is that of the first look.

    `see` may be another way to see the whole screen than the model's own.
    """

    def __init__(self, rule: ZoomRule, see: See | None = None) -> None:
        self._rule, self._see = rule, see

    def answers(self, replier: Replier, asked: Asked) -> list[Reply]:
        seen = self._glance(replier, asked)
        first = replier.answers_about(seen, asked.instructions)
        middles = looked_at(replier, seen, asked.instructions)
        return [
            self._closer(replier, asked, reply, instruction, middle)
            for reply, instruction, middle in zip(first, asked.instructions, middles, strict=True)
        ]

    def first_look(self, replier: Replier, asked: Asked) -> Seen:
        """Both looks of the first question, with the whole first answer."""
        one = asked.instructions[:1]
        seen = self._glance(replier, asked)
        replier.answers_about(seen, one)
        return self._part(replier, self._around(asked, looked_at(replier, seen, one)[0]))

    def _glance(self, replier: Replier, asked: Asked) -> Seen:
        small = replace(asked, short_side=round(asked.short_side * self._rule.glance))
        return (self._see or replier.see)(*replier.pixels(asked.picture, small.max_pixels))

    def _closer(
        self, replier: Replier, asked: Asked, first: Reply, instruction: str, middle: tuple[float, float]
    ) -> Reply:
        if not isinstance(read_reply(first.text), Tap):
            return first
        shown = self._around(asked, middle)
        second = replier.answers_about(self._part(replier, shown), [instruction])[0]
        read = first.image_tokens + second.image_tokens
        if not isinstance(read_reply(second.text), Tap):
            return replace(first, image_tokens=read)
        return replace(second, text=mapped(second.text, shown.back), image_tokens=read)

    def _part(self, replier: Replier, shown: Reframed) -> Seen:
        return replier.see(*replier.pixels(shown.picture, shown.max_pixels))

    def _around(self, asked: Asked, middle: tuple[float, float]) -> Reframed:
        box = part_around(asked.picture.size, middle, (self._rule.wide, self._rule.tall))
        return cut_out(asked, box, self._rule.close)


def looked_at(replier: Replier, seen: Seen, instructions: tuple[str, ...]) -> list[tuple[float, float]]:
    """For each question the middle of the image token that its attention is highest at, as shares of width and height."""
    side = int(replier.model.config.vision_config.spatial_merge_size)
    columns, rows = int(seen.grid[0, 2]) // side, int(seen.grid[0, 1]) // side
    places: list[int] = replier.looks(seen, instructions).argmax(-1).tolist()
    return [((place % columns + 0.5) / columns, (place // columns + 0.5) / rows) for place in places]


def part_around(size: tuple[int, int], middle: tuple[float, float], shares: tuple[float, float]) -> Box:
    """A part of a screen with so much of its width and height around a place, moved inside where it would reach beyond."""
    (left, right), (top, bottom) = (
        _within(length, place, share) for length, place, share in zip(size, middle, shares, strict=True)
    )
    return Box(left, top, right, bottom)


def _within(length: int, middle: float, share: float) -> tuple[int, int]:
    part = min(length, max(1, round(length * share)))
    first = min(max(0, round(length * middle - part / 2)), length - part)
    return first, first + part
