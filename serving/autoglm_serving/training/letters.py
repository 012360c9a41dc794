"""Which signs a picture shows, and where: of cards, and of windows of screens that know their texts."""

from dataclasses import dataclass

from autoglm_serving.screens.records import Screen, TextLine
from autoglm_serving.training.cards import LETTERS
from autoglm_serving.training.windows import Window


@dataclass(frozen=True)
class Letter:
    """A sign with its middle in pixels of the picture. `after` is the next sign of its text, "" at a gap or the end."""

    sign: str
    after: str
    x: float
    y: float

    @property
    def number(self) -> int | None:
        """Its place in LETTERS; None for a sign that no card shows."""
        return _NUMBERS.get(self.sign)


_NUMBERS = {sign: number for number, sign in enumerate(LETTERS)}


def letters(screen: Screen, window: Window) -> list[Letter]:
    """The signs whose middle is in the window, in pixels of the picture that the model sees. Gaps are none."""
    left, top = window.box[:2]
    across, along = window.width / window.sides[0], window.height / window.sides[1]
    found = []
    for line in screen.texts:
        y = (line.y - top) * along
        if 0 <= y < window.height:
            found += [
                Letter(sign, _after(line, place), x, y)
                for place, sign in enumerate(line.text)
                if not sign.isspace()
                and 0 <= (x := ((line.ends[place] + line.ends[place + 1]) / 2 - left) * across) < window.width
            ]
    return found


def _after(line: TextLine, place: int) -> str:
    return line.text[place + 1 : place + 2].strip()
