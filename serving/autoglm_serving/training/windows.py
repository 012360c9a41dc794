"""The part of a screen that a training picture shows, and where its elements are then."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Box, Element, Screen
from autoglm_serving.vision.sizing import MAX_PIXELS, TOKEN_SIDE, at_short_side, fitted

_GRAIN = 1 << 20


@dataclass(frozen=True)
class Window:
    """A part of a screen in its pixels, and the size that the model sees it in."""

    box: Box
    width: int
    height: int

    @property
    def tokens(self) -> int:
        return (self.width // TOKEN_SIDE) * (self.height // TOKEN_SIDE)

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels of the screen."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def holds(self, box: Box) -> bool:
        """Whether all of a box of the screen is inside."""
        return self.box[0] <= box[0] and self.box[1] <= box[1] and box[2] <= self.box[2] and box[3] <= self.box[3]

    def inside(self, box: Box) -> Box:
        """A box of the screen as a box of the window."""
        left, top = self.box[:2]
        return box[0] - left, box[1] - top, box[2] - left, box[3] - top

    def cells(self, box: Box) -> tuple[int, ...]:
        """The image tokens, by row, whose middle lies in a box of the screen; at least the one under its middle."""
        width, height = self.sides
        left, top, right, bottom = self.inside(box)
        columns = _covered(left / width, right / width, self.width // TOKEN_SIDE)
        rows = _covered(top / height, bottom / height, self.height // TOKEN_SIDE)
        across = self.width // TOKEN_SIDE
        return tuple(row * across + column for row in rows for column in columns)


def whole(screen: Screen, short_side: int) -> Window:
    """All of the screen at a short side."""
    return _sized((0, 0, screen.width, screen.height), short_side)


def choose(screen: Screen, short_side: int, least: float, dice: Dice) -> Window:
    """A window around one of the screen's elements, in the scale in which all of the screen would have the short side.

    Most windows are as wide as the screen, because rows of lists are; its height is `least` to 1 of the screen's.
    """
    tall = least + (1 - least) * (dice.below(_GRAIN) / _GRAIN) ** 2
    wide = 1.0 if dice.chance(_FULL_WIDTH_PERCENT) else least + (1 - least) * dice.below(_GRAIN) / _GRAIN
    width, height = max(1, round(screen.width * wide)), max(1, round(screen.height * tall))
    middle = _middle(dice.pick(screen.elements)) if screen.elements else (screen.width // 2, screen.height // 2)
    left = _between(middle[0] - dice.below(width), 0, screen.width - width)
    top = _between(middle[1] - dice.below(height), 0, screen.height - height)
    scale = short_side / min(screen.width, screen.height)
    return Window(
        (left, top, left + width, top + height), *fitted(round(width * scale), round(height * scale), MAX_PIXELS)
    )


_FULL_WIDTH_PERCENT = 60


def to_read(screen: Screen, symbols: Sequence[Element], short_side: int, dice: Dice) -> Window:
    """A window to learn reading from, in the scale of `choose`, around one of the screen's symbols or around any element.

    Large ones have as many patches as a whole screen: the tower shall have seen so many beside each other.
    """
    columns, rows = _LARGE if dice.chance(_LARGE_PERCENT) else _SMALL
    side = TOKEN_SIDE * min(screen.width, screen.height) / short_side  # of an image token, in pixels of the screen
    across = _between(dice.between(*columns), 1, int(screen.width / side))
    along = _between(dice.between(*rows), 1, int(screen.height / side))
    around: Sequence[Element] = screen.elements
    if symbols and dice.chance(_SYMBOL_PERCENT):
        around = symbols
    middle = _middle(dice.pick(around)) if around else (screen.width // 2, screen.height // 2)
    width, height = round(across * side), round(along * side)
    left = _between(middle[0] - dice.below(width), 0, screen.width - width)
    top = _between(middle[1] - dice.below(height), 0, screen.height - height)
    return Window((left, top, left + width, top + height), across * TOKEN_SIDE, along * TOKEN_SIDE)


def part(screen: Screen, short_side: int, dice: Dice) -> Window:
    """A window anywhere, in the scale of `choose`, as wide as the screen where that is not many image tokens."""
    side = TOKEN_SIDE * min(screen.width, screen.height) / short_side  # of an image token, in pixels of the screen
    across = _between(dice.between(*_ACROSS), 1, max(1, round(screen.width / side)))
    along = _between(
        dice.pick(_PART_TOKENS) // across, min(3, round(screen.height / side)), round(screen.height / side)
    )
    width, height = min(screen.width, round(across * side)), min(screen.height, round(along * side))
    left, top = dice.below(screen.width - width + 1), dice.below(screen.height - height + 1)
    return Window((left, top, left + width, top + height), across * TOKEN_SIDE, along * TOKEN_SIDE)


_ACROSS = (10, 22)
"""Least and most columns of image tokens of a part."""

_PART_TOKENS = (100, 160, 220, 280)
"""About so many image tokens a part has."""

_SMALL, _LARGE = ((5, 9), (3, 7)), ((9, 12), (9, 16))
"""Least and most columns and rows of image tokens."""

_LARGE_PERCENT, _SYMBOL_PERCENT = 30, 35


def _sized(box: Box, short_side: int) -> Window:
    width, height = fitted(*at_short_side(box[2] - box[0], box[3] - box[1], short_side), MAX_PIXELS)
    return Window(box, width, height)


def _covered(start: float, end: float, count: int) -> range:
    first = next((cell for cell in range(count) if (cell + 0.5) / count >= start), count - 1)
    last = next((cell for cell in reversed(range(count)) if (cell + 0.5) / count < end), 0)
    if first <= last:
        return range(first, last + 1)
    middle = _between(int((start + end) / 2 * count), 0, count - 1)
    return range(middle, middle + 1)


def _middle(element: Element) -> tuple[int, int]:
    left, top, right, bottom = element.box
    return (left + right) // 2, (top + bottom) // 2


def _between(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
