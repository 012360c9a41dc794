"""Which signs and symbols a picture shows, and where: of cards, and of windows of screens that know their texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoglm_serving.screens.records import Element, Screen
from autoglm_serving.training.cards import LETTERS
from autoglm_serving.training.symbols import middle
from autoglm_serving.training.windows import Window


@dataclass(frozen=True)
class Letter:
    """A sign with its middle in pixels of the picture."""

    sign: str
    x: float
    y: float

    @property
    def number(self) -> int | None:
        """Its place in LETTERS; None for a sign that no card shows."""
        return _NUMBERS.get(self.sign)


@dataclass(frozen=True)
class Symbol:
    """An icon or a key whose name is not written on it, with its middle in pixels of the picture."""

    name: str
    x: float
    y: float


_NUMBERS = {sign: number for number, sign in enumerate(LETTERS)}


def letters(screen: Screen, window: Window) -> list[Letter]:
    """The signs whose middle is in the window, in pixels of the picture that the model sees. Gaps are none."""
    left, top = window.box[:2]
    across, along = _scale(window)
    found = []
    for line in screen.texts:
        y = (line.y - top) * along
        if 0 <= y < window.height:
            found += [
                Letter(sign, x, y)
                for place, sign in enumerate(line.text)
                if not sign.isspace()
                and 0 <= (x := ((line.ends[place] + line.ends[place + 1]) / 2 - left) * across) < window.width
            ]
    return found


def symbols(elements: Sequence[Element], window: Window) -> list[Symbol]:
    """Those of a screen's symbols (`symbols_of`) whose middle is in the window, in pixels of the picture that is seen."""
    left, top = window.box[:2]
    across, along = _scale(window)
    found = []
    for element in elements:
        x, y = middle(element)
        at = Symbol(element.text.strip(), (x - left) * across, (y - top) * along)
        if 0 <= at.x < window.width and 0 <= at.y < window.height:
            found.append(at)
    return found


def _scale(window: Window) -> tuple[float, float]:
    """Pixels of the picture for each of the screen's, across and along."""
    return window.width / window.sides[0], window.height / window.sides[1]
