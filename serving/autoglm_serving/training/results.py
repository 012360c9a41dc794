"""Verdicts of an evaluation counted: accuracy by size, screen and task, with intervals, as Markdown and as plain values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autoglm_serving.markdown import table
from autoglm_serving.routing_table import MeasuredQuality
from autoglm_serving.training.intervals import Share, wilson
from autoglm_serving.vision.quality import EVERY_KIND, QualityTable


@dataclass(frozen=True)
class Verdict:
    """One task at one size. `short_side` is what was asked for; a smaller screen is seen as it is."""

    screen: str
    task: str
    kind: str
    type: str
    language: str
    short_side: int
    image_tokens: int
    right: bool
    confidence: float
    reason: str


@dataclass(frozen=True)
class Row:
    """Accuracy of one group of tasks at one size."""

    group: str
    name: str
    short_side: int
    share: Share
    image_tokens: float
    """Mean over the tasks."""


GROUPS: dict[str, Callable[[Verdict], str]] = {
    "all": lambda _: "all tasks",
    "kind": lambda verdict: verdict.kind,
    "task": lambda verdict: verdict.type,
    "language": lambda verdict: verdict.language,
    "taps by kind": lambda verdict: verdict.kind if verdict.type == "tap" else "",
}


def count(verdicts: Iterable[Verdict]) -> list[Row]:
    """Rows for every group and size, in the order of groups, names and sizes."""
    listed = list(verdicts)
    rows = []
    for group, name_of in GROUPS.items():
        for name in sorted({name_of(verdict) for verdict in listed} - {""}):
            for side in sorted({verdict.short_side for verdict in listed}):
                members = [each for each in listed if each.short_side == side and name_of(each) == name]
                if members:
                    rows.append(_row(group, name, side, members))
    return rows


def _row(group: str, name: str, side: int, members: Sequence[Verdict]) -> Row:
    tokens = sum(each.image_tokens for each in members) / len(members)
    return Row(group, name, side, wilson(sum(each.right for each in members), len(members)), tokens)


def markdown(rows: Sequence[Row]) -> str:
    """A table for each group: a row for each name, a column for each size."""
    return "\n".join(_table(group, [row for row in rows if row.group == group]) for group in GROUPS)


def _table(group: str, rows: Sequence[Row]) -> str:
    sides = sorted({row.short_side for row in rows})
    lines = []
    for name in dict.fromkeys(row.name for row in rows):
        cells = {row.short_side: row.share for row in rows if row.name == name}
        shown = [_cell(cells[side]) if side in cells else "" for side in sides]
        lines.append([name, str(max(share.total for share in cells.values())), *shown])
    return table([group, "tasks", *(f"{side} px" for side in sides)], lines, "lr" + "r" * len(sides)) + "\n"


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain values, one object a row."""
    return [
        {
            "group": row.group,
            "name": row.name,
            "shortSide": row.short_side,
            "right": row.share.right,
            "total": row.share.total,
            "accuracy": round(row.share.value, 4),
            "low": round(row.share.low, 4),
            "high": round(row.share.high, 4),
            "imageTokens": round(row.image_tokens, 1),
        }
        for row in rows
    ]


def quality_table(rows: Sequence[Row], model: str, source: str, measured: str) -> QualityTable:
    """What the router asks: accuracy by kind of screen and size. `measured` is a day, as 2026-01-31."""
    chosen = [(EVERY_KIND if row.group == "all" else row.name, row) for row in rows if row.group in ("all", "kind")]
    return QualityTable(
        model=model,
        source=source,
        measured=measured,
        measurements=tuple(
            MeasuredQuality(kind=kind, short_side=row.short_side, right=row.share.right, samples=row.share.total)
            for kind, row in chosen
        ),
    )
