"""The study as a picture: accuracy by size with intervals, and time by size, as SVG without any library."""

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from autoglm_serving.training.study.data import EVERY_KIND, Study

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 720, 260, 64, 40, 70
_COLOURS = ("#1a73e8", "#d84315", "#0a7d4f", "#8e24aa", "#555555")


def picture(study: Study) -> str:
    """The SVG file's text."""
    kinds = (*study.kinds, EVERY_KIND)
    colours = {kind: _COLOURS[number % len(_COLOURS)] for number, kind in enumerate(kinds)}
    slowest = max(study.mean_ms(kind, len(study.short_sides) - 1) for kind in kinds)
    top = 10 ** math.ceil(math.log10(max(slowest, 1.0)))
    decades = round(math.log10(top))
    accuracy = _Panel(
        "right answers, 95 % interval", _TOP, lambda value: value, [(step / 5, f"{20 * step} %") for step in range(6)]
    )
    time = _Panel(
        "milliseconds to the first token (log)",
        _TOP + _HEIGHT + _GAP,
        lambda value: math.log10(max(value, 1.0)) / max(decades, 1),
        [(step / max(decades, 1), f"{10**step:,}") for step in range(decades + 1)],
    )
    parts = [panel.frame(study.short_sides) for panel in (accuracy, time)]
    for number, kind in enumerate(kinds):
        colour = colours[kind]
        shares = [study.share(kind, place) for place in range(len(study.short_sides))]
        parts.append(accuracy.line(study.short_sides, [share.value for share in shares], colour))
        parts += [
            accuracy.bar(study.short_sides, side, (share.low, share.high), colour, 4 * number)
            for side, share in zip(study.short_sides, shares, strict=True)
        ]
        parts.append(time.line(study.short_sides, [study.mean_ms(kind, place) for place in range(len(shares))], colour))
        parts.append(_text(_LEFT + 250 + 85 * number, _TOP - 14, "all" if kind == EVERY_KIND else kind, colour))
    height = 2 * (_HEIGHT + _GAP) + _TOP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


class _Panel:
    """One diagram: sizes across, a value from 0 to 1 up."""

    def __init__(
        self, title: str, top: int, scale: Callable[[float], float], marks: Sequence[tuple[float, str]]
    ) -> None:
        self._title, self._top, self._scale, self._marks = title, top, scale, marks

    def frame(self, sides: Sequence[int]) -> str:
        parts = [_text(_LEFT, self._top - 14, self._title)]
        for place, label in self._marks:
            y = self._top + _HEIGHT * (1 - place)
            parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - 20}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(_text(8, y + 4, label))
        parts += [_text(_x(sides, side) - 10, self._top + _HEIGHT + 18, str(side)) for side in sides]
        parts.append(_text(_WIDTH / 2 - 60, self._top + _HEIGHT + 36, "short side in pixels"))
        return "".join(parts)

    def line(self, sides: Sequence[int], values: Sequence[float], colour: str) -> str:
        points = " ".join(
            f"{_x(sides, side):.1f},{self._y(value):.1f}" for side, value in zip(sides, values, strict=True)
        )
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def bar(self, sides: Sequence[int], side: int, bounds: tuple[float, float], colour: str, shift: int) -> str:
        x = _x(sides, side) + shift - 8
        low, high = (self._y(bound) for bound in bounds)
        return f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" opacity="0.5"/>'

    def _y(self, value: float) -> float:
        return self._top + _HEIGHT * (1 - min(max(self._scale(value), 0.0), 1.0))


def _x(sides: Sequence[int], side: int) -> float:
    """Sizes are spread by their logarithm."""
    low, high = math.log(sides[0]), math.log(sides[-1])
    return _LEFT + 20 + (_WIDTH - _LEFT - 60) * (math.log(side) - low) / (high - low)


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(text)}</text>'
