"""Cards: pages full of texts, drawn while training. They show forty times as many letters per image token as screens do.

A card is a small screen without tasks: lines of phrases that screens say, close to each other, in the fonts that screens
use. Every letter's place is known. Letters, words and places are learned on cards; what a screen looks like, on screens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from autoglm_serving.screens import words
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Element, Screen, TextLine
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

_MIDDLE_SIZE = 14
"""Of the letters, in pixels of the card."""

_OTHER_SIZES = (-5, -4, -3, -2, -2, -1, -1, 0, 0, 0, 1, 1, 2, 3, 4, 6, 8)

LETTERS = tuple(
    sorted({sign for topic in words.ALL for pair in topic for text in pair for sign in text if not sign.isspace()})
)
"""Every sign that a card can show."""

_ENGLISH = tuple(sign for sign in LETTERS if sign.isascii())
_OTHER = tuple(sign for sign in LETTERS if not sign.isascii())

_SIDES = (4, 7)
"""Of a card, in image tokens."""

_WHOLE = 1 << 20


@dataclass(frozen=True)
class Line(TextLine):
    """A text on the card, with the size of its letters in pixels."""

    size: int


@dataclass(frozen=True)
class Card:
    """A picture in the model's size and what is on it. The screen's elements are the texts that it shows whole."""

    screen: Screen
    picture: Image.Image


_Colour = tuple[int, int, int]


@dataclass
class _Drawing:
    """A card while it is drawn. `variety` from 0 (one font, one size, plain) to 1."""

    pen: ImageDraw.ImageDraw
    dice: Dice
    dark: bool
    ground: _Colour
    variety: float
    width: int
    height: int
    lines: list[Line] = field(default_factory=list)

    def grows(self, percent: int) -> bool:
        """True in so many of a hundred cases, seldom while there is little variety."""
        return self.dice.below(1000) < 10 * percent * self.variety

    def from_to(self, least: float, most: float) -> float:
        return least + (most - least) * self.dice.below(_WHOLE) / _WHOLE


def draw_card(dice: Dice, variety: float = 1.0) -> Card:
    """The card of these dice. Without Chinese fonts on the machine all texts are English."""
    width, height = dice.between(*_SIDES) * TOKEN_SIDE, dice.between(*_SIDES) * TOKEN_SIDE
    dark = dice.below(1000) < 450 * min(1.0, 2 * variety)
    ground = _grey(dice, 8, 50) if dark else _grey(dice, 225, 255)
    image = Image.new("RGB", (width * _FINE, height * _FINE), ground)
    drawing = _Drawing(ImageDraw.Draw(image), dice, dark, ground, variety, width, height)
    top = drawing.from_to(-6, 4)
    while top < height - 6:
        top = _draw_line(drawing, top)
    elements = _elements(drawing.lines, width, height)
    screen = Screen(
        id="card", image="", width=width, height=height, kind="phone", template="card", theme="dark" if dark else "light",
        language="en", elements=elements, tasks=(), texts=tuple(drawing.lines),
    )  # fmt: skip
    return Card(screen, image.resize((width, height), Image.Resampling.BICUBIC))


def _draw_line(drawing: _Drawing, top: float) -> float:
    """Fill one line with texts from beyond the left side to beyond the right one; returns where the next one begins."""
    dice = drawing.dice
    size = _MIDDLE_SIZE + round(drawing.variety * dice.pick(_OTHER_SIZES))
    ink, bottom = _ink(drawing), top + size * drawing.from_to(1.1, 1.5)
    if drawing.grows(20):
        plate, ink = _plate(drawing, ink)
        drawing.pen.rectangle((0, top * _FINE, drawing.width * _FINE, bottom * _FINE), fill=plate)
    left, middle = drawing.from_to(-8, 6), (top + bottom) / 2
    while left < drawing.width:
        text, font = _phrase(drawing, size)
        drawing.pen.text((left * _FINE, middle * _FINE), text, fill=ink, font=font, anchor="lm")
        ends = [left, *(left + drawing.pen.textlength(text[:end], font) / _FINE for end in range(1, len(text) + 1))]
        drawing.lines.append(Line(text, tuple(ends), middle, size))
        left = ends[-1] + drawing.from_to(3, 14)
    return bottom


def _elements(lines: Sequence[Line], width: int, height: int) -> tuple[Element, ...]:
    """The texts that are all on the card, each but once."""
    found: list[Element] = []
    texts: set[str] = set()
    for line in lines:
        half = line.size * _LETTER_HEIGHT / 2
        left, right, top, bottom = line.ends[0], line.ends[-1], line.y - half, line.y + half
        if left < 0 or right > width or top < 0 or bottom > height or line.text in texts:
            continue
        texts.add(line.text)
        box = (int(left), int(top), max(int(left) + 1, int(right)), max(int(top) + 1, int(bottom)))
        found.append(Element(f"e{len(found)}", "button", line.text, box))
    return tuple(found)


_LETTER_HEIGHT = 0.9


def _phrase(drawing: _Drawing, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    dice = drawing.dice
    if drawing.grows(25) and (fonts := _fonts(_CHINESE, size)):
        return _letters(dice, _OTHER) if dice.chance(_NO_WORDS) else dice.pick(dice.pick(words.ALL))[1], dice.pick(
            fonts
        )
    fonts = _fonts(_LATIN, size) or (_any_font(size),)
    font = dice.pick(fonts[: 1 + round((len(fonts) - 1) * drawing.variety)])
    if dice.chance(_NO_WORDS):
        return _letters(dice, _ENGLISH), font
    english = dice.pick(dice.pick(words.ALL))[0]
    if dice.chance(20):
        english = dice.pick((english.upper(), english.title(), english.lower()))
    return english, font


_NO_WORDS = 25
"""Percent of the texts that are letters by chance, so that letters are read and not guessed from their neighbours."""


def _letters(dice: Dice, signs: Sequence[str]) -> str:
    return "".join(dice.pick(signs) for _ in range(dice.between(1, 8)))


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


def _ink(drawing: _Drawing) -> _Colour:
    dice, dark = drawing.dice, drawing.dark
    if drawing.grows(12):
        low, high = (130, 255) if dark else (0, 140)
        return dice.between(low, high), dice.between(low, high), dice.between(low, high)
    return _grey(dice, 150, 255) if dark else _grey(dice, 0, 115)


def _plate(drawing: _Drawing, ink: _Colour) -> tuple[_Colour, _Colour]:
    """A ground behind a line, and an ink that can be read on it."""
    dice = drawing.dice
    if dice.chance(50):
        return (dice.below(150), dice.below(150), dice.below(150)), (255, 255, 255)
    return (_grey(dice, 20, 75) if drawing.dark else _grey(dice, 215, 255)), ink


def _grey(dice: Dice, low: int, high: int) -> _Colour:
    value = dice.between(low, high)
    return value, value, value
