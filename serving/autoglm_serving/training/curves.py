"""The log of a run as a picture: losses and what is right by step, smoothed, as SVG without any library."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 720, 200, 60, 30, 50
_PANELS = (("loss", ("answer", "looks", "tokens")), ("share of right tokens, of elements found", ("right", "found")))
_COLOURS = ("#1a73e8", "#d84315", "#0a7d4f")
_POINTS = 240


def write_curves(log: Path, picture: Path) -> None:
    """Draw the log's curves; without lines an empty picture."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    panels = [
        _panel(title, [(name, [float(line[name]) for line in lines]) for name in names], len(lines), place)
        for place, (title, names) in enumerate(_PANELS)
    ]
    height = len(_PANELS) * (_HEIGHT + _GAP) + _TOP
    picture.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n',
        encoding="utf-8",
    )


def smoothed(values: Sequence[float], points: int = _POINTS) -> list[tuple[float, float]]:
    """(place from 0 to 1, mean) of at most `points` equal parts."""
    parts = min(points, len(values))
    edges = [round(part * len(values) / parts) for part in range(parts + 1)] if parts else []
    return [((start + end) / 2 / len(values), sum(values[start:end]) / (end - start)) for start, end in pairwise(edges)]


def _panel(title: str, series: Sequence[tuple[str, Sequence[float]]], steps: int, place: int) -> str:
    top = _TOP + place * (_HEIGHT + _GAP)
    curves = [(name, smoothed(values)) for name, values in series]
    most = max((value for _, curve in curves for _, value in curve), default=1.0) or 1.0
    width = _WIDTH - _LEFT - 20
    parts = [_text(_LEFT, top - 8, f"{title} ({steps} steps)")]
    for mark in range(5):
        height = top + _HEIGHT * (4 - mark) / 4
        parts.append(f'<line x1="{_LEFT}" y1="{height:.1f}" x2="{_LEFT + width}" y2="{height:.1f}" stroke="#ddd"/>')
        parts.append(_text(8, height + 4, f"{most * mark / 4:.3g}"))
    for number, (name, curve) in enumerate(curves):
        points = " ".join(f"{_LEFT + x * width:.1f},{top + _HEIGHT * (1 - y / most):.1f}" for x, y in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[number]}" stroke-width="1.5"/>')
        parts.append(_text(_LEFT + 200 + 90 * number, top - 8, name, _COLOURS[number]))
    return "".join(parts)


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(text)}</text>'
