"""Cards: pictures full of texts, drawn while training. They show ten times as many texts per image token as screens do.

A card is a small screen without tasks: rows of fields, each with a phrase that screens say, in the fonts that screens use.
Letters, words and places are learned on cards; what a screen looks like is learned on screens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from autoglm_serving.screens import words
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Box, Element, Screen
from autoglm_serving.vision.sizing import TOKEN_SIDE

_LATIN = (
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSansCondensed.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSansNarrow-Regular.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Bold.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSerif-Regular.ttf",
)
"""As `screens.scene.FONTS`; the first ones come first when a run begins with easy cards."""

_CHINESE = ("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",)

_FINE = 2
"""Cards are drawn in twice their size and reduced, as the pictures of screens are."""

_MIDDLE_SIZE, _SMALLER, _LARGER = 14, 5, 8
"""Of the letters, in pixels of the card, and how much smaller and larger they can be."""

LETTERS = tuple(
    sorted({sign for topic in words.ALL for pair in topic for text in pair for sign in text if not sign.isspace()})
)
"""Every sign that a card can show."""

_NUMBERS = {sign: number for number, sign in enumerate(LETTERS)}

_SIDES = (5, 11)
"""Of a card, in image tokens; the larger one is rarely reached by both."""

_TRIES = 6
"""Phrases that are tried for one field: long ones do not fit narrow fields."""


@dataclass(frozen=True)
class Letter:
    """A sign's number in LETTERS, and its box in pixels of the card."""

    number: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Card:
    """A picture in the model's size and what is on it."""

    screen: Screen
    picture: Image.Image
    letters: tuple[Letter, ...]

    def letters_by_cell(self) -> dict[int, list[tuple[int, float]]]:
        """By image token: the signs that it shows a good part of, with weights that add up to 1."""
        across, along = self.screen.width // TOKEN_SIDE, self.screen.height // TOKEN_SIDE
        seen: dict[int, list[tuple[int, float]]] = {}
        for letter in self.letters:
            for cell, share in _shares(letter.box, across, along):
                seen.setdefault(cell, []).append((letter.number, share))
        return {cell: _normal(found) for cell, found in seen.items()}


def _shares(box: tuple[float, float, float, float], across: int, along: int) -> Iterator[tuple[int, float]]:
    """The image tokens that show a good part of a box, with the part."""
    left, top, right, bottom = box
    area = (right - left) * (bottom - top)
    for row in range(max(0, int(top // TOKEN_SIDE)), min(along - 1, int(bottom // TOKEN_SIDE)) + 1):
        for column in range(max(0, int(left // TOKEN_SIDE)), min(across - 1, int(right // TOKEN_SIDE)) + 1):
            wide = min(right, (column + 1) * TOKEN_SIDE) - max(left, column * TOKEN_SIDE)
            tall = min(bottom, (row + 1) * TOKEN_SIDE) - max(top, row * TOKEN_SIDE)
            share = max(0.0, wide) * max(0.0, tall) / area
            if share > _GOOD_PART:
                yield row * across + column, share


_GOOD_PART = 0.3


def _normal(found: list[tuple[int, float]]) -> list[tuple[int, float]]:
    total = sum(share for _, share in found)
    return [(number, share / total) for number, share in found]


@dataclass
class _Drawing:
    """A card while it is drawn. `variety` from 0 (one font, one size, plain) to 1."""

    pen: ImageDraw.ImageDraw
    dice: Dice
    dark: bool
    variety: float
    elements: list[Element]
    letters: list[Letter]

    def grows(self, percent: int) -> bool:
        """True in so many of a hundred cases, seldom while there is little variety."""
        return self.dice.below(1000) < 10 * percent * self.variety


def draw_card(dice: Dice, variety: float = 1.0) -> Card:
    """The card of these dice. Without Chinese fonts on the machine all texts are English."""
    across, along = dice.between(*_SIDES), dice.between(*_SIDES)
    while across * along > _MOST_TOKENS:
        along -= 1
    width, height = across * TOKEN_SIDE, along * TOKEN_SIDE
    dark = dice.below(1000) < 450 * min(1.0, 2 * variety)
    ground = _grey(dice, 8, 50) if dark else _grey(dice, 225, 255)
    image = Image.new("RGB", (width * _FINE, height * _FINE), ground)
    drawing = _Drawing(ImageDraw.Draw(image), dice, dark, variety, [], [])
    top = dice.between(0, 12)
    while (row := _row(drawing, top, width, height)) is not None:
        for field in row.fields:
            _draw_field(drawing, field, row.size)
        top = row.bottom
    screen = Screen(
        id="card", image="", width=width, height=height, kind="phone", template="card", theme="dark" if dark else "light",
        language="en", elements=tuple(drawing.elements), tasks=(),
    )  # fmt: skip
    return Card(screen, image.resize((width, height), Image.Resampling.BICUBIC), tuple(drawing.letters))


_MOST_TOKENS = 80


@dataclass(frozen=True)
class _Row:
    fields: tuple[Box, ...]
    size: int
    bottom: int


def _row(drawing: _Drawing, top: int, width: int, height: int) -> _Row | None:
    """The next row from `top` on, or None when the card is full."""
    dice, variety = drawing.dice, drawing.variety
    size = dice.between(_MIDDLE_SIZE - round(_SMALLER * variety), _MIDDLE_SIZE + round(_LARGER * variety))
    tall = size + dice.between(4, 24)
    if top + tall > height:
        return None
    gap, margin = dice.between(0, 8), dice.between(0, 10)
    count = dice.pick((1, 1, 2, 2, 3)) if width >= _WIDE else dice.pick((1, 1, 2))
    each = (width - 2 * margin - gap * (count - 1)) // count
    lefts = [margin + number * (each + gap) for number in range(count)]
    fields = tuple((left, top, left + each, top + tall) for left in lefts)
    return _Row(fields, size, top + tall + dice.between(0, 8))


_WIDE = 196


def _draw_field(drawing: _Drawing, box: Box, size: int) -> None:
    """Draw one phrase that fits into the field and is new on the card, on a plate or not; nothing if none is found."""
    pen, dice = drawing.pen, drawing.dice
    left, top, right, bottom = (side * _FINE for side in box)
    inset = dice.between(2, 10) * _FINE
    taken = {element.text for element in drawing.elements}
    for _ in range(_TRIES):
        text, font = _phrase(drawing, size)
        length = pen.textlength(text, font)
        if text not in taken and length <= right - left - 2 * inset:
            break
    else:
        return
    plate, ink = _colours(drawing)
    if plate is not None:
        pen.rounded_rectangle((left, top, right - 1, bottom - 1), dice.between(0, 12) * _FINE, fill=plate)
    start = left + inset if dice.chance(60) else left + (right - left - length) / 2
    pen.text((start, (top + bottom) / 2), text, fill=ink, font=font, anchor="lm")
    drawing.elements.append(Element(f"e{len(drawing.elements)}", "button", text, box))
    half = size * _LETTER_HEIGHT / 2
    middle = (box[1] + box[3]) / 2
    ends = [start / _FINE, *((start + pen.textlength(text[:end], font)) / _FINE for end in range(1, len(text) + 1))]
    drawing.letters.extend(
        Letter(_NUMBERS[sign], (ends[place], middle - half, ends[place + 1], middle + half))
        for place, sign in enumerate(text)
        if sign in _NUMBERS and ends[place + 1] > ends[place]
    )


_LETTER_HEIGHT = 0.9


def _phrase(drawing: _Drawing, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    dice = drawing.dice
    english, chinese = dice.pick(dice.pick(words.ALL))
    if drawing.grows(45) and (fonts := _fonts(_CHINESE, size)):
        return chinese, dice.pick(fonts)
    if dice.chance(6):
        english = str(dice.between(0, 99))
    fonts = _fonts(_LATIN, size) or (_any_font(size),)
    return english, dice.pick(fonts[: 1 + round((len(fonts) - 1) * drawing.variety)])


@lru_cache
def _fonts(paths: Sequence[str], size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """Those of the fonts that this machine has."""
    return tuple(ImageFont.truetype(path, size * _FINE) for path in paths if Path(path).exists())


@lru_cache
def _any_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: Latin letters only."""
    font = ImageFont.load_default(size * _FINE)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built with FreeType"
    return font


_Colour = tuple[int, int, int]


def _colours(drawing: _Drawing) -> tuple[_Colour | None, _Colour]:
    """A plate (or none) and an ink that can be read on it."""
    dice, dark = drawing.dice, drawing.dark
    if drawing.grows(25):  # a plate in a strong colour under white letters
        return (dice.below(170), dice.below(150), dice.below(190)), (255, 255, 255)
    plate = (_grey(dice, 20, 75) if dark else _grey(dice, 215, 255)) if drawing.grows(50) else None
    if drawing.grows(15):  # coloured letters
        low, high = (130, 255) if dark else (0, 140)
        return plate, (dice.between(low, high), dice.between(low, high), dice.between(low, high))
    return plate, _grey(dice, 150, 255) if dark else _grey(dice, 0, 115)


def _grey(dice: Dice, low: int, high: int) -> _Colour:
    value = dice.between(low, high)
    return value, value, value
