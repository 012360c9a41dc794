"""The ablation table as data: rows, findings, verdicts, Markdown and JSON. Negative results are rows like any other."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from autoglm_serving.markdown import table as markdown_table
from autoglm_serving.training.ablation.paired import Paired
from autoglm_serving.training.intervals import wilson

GROUPS = {
    1: "Preprocessing",
    2: "Tiling",
    3: "Fusion, alignment, attention blocks",
    4: "Positions and masks",
    5: "Regions of interest",
    6: "Dynamic resolution",
    7: "Cost models and early exit",
    8: "Load-aware down-sampling",
}

NOTABLE = 0.05
"""Work that changes by less is the same work."""

GOAL_SAVED = 0.37
"""Of the image tokens: what a crop by attention has to save at the same accuracy."""

CROPS = ("crop-", "region", "zoom")
"""Names of rows that have this goal begin so."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Row(_Part):
    """One way to see, on one set of tasks. `against` names the row that it is compared with; its own name: a reference."""

    group: Annotated[int, Field(ge=1, le=8)]
    name: str
    against: str
    short_side: int
    right: int
    total: int
    gained: int = 0
    """Tasks that are right here and wrong in the row it is compared with."""
    lost: int = 0
    image_tokens: float
    """Mean over the tasks; what a first look reads is counted in."""
    gflops: float
    """Until the first token of an answer, mean over the probed screens."""
    latency_ms: float
    """The same: processor time of one thread."""
    steps: int = 0
    """Steps in which new weights were learned; the model's own stay as they are."""
    new_weights: int = 0
    note: str = ""

    @property
    def is_reference(self) -> bool:
        return self.against == self.name


class Finding(_Part):
    """Something that is not right or wrong by tasks: what was measured, with what it is compared, what follows."""

    group: Annotated[int, Field(ge=1, le=8)]
    name: str
    measured: str
    compared_with: str
    verdict: str


class Table(_Part):
    """The whole table and where it comes from."""

    model: str
    source: str
    """The command."""
    measured: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    machine: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


FEW = 20
"""Of fewer tasks no difference is ever shown, and that none is shown says nothing."""


def verdict(row: Row, reference: Row) -> str:
    """What a row's figures say, in words that follow from the figures alone."""
    if row.is_reference:
        return "reference"
    paired = Paired(row.total, row.gained, row.lost)
    work = _work(row.gflops, reference.gflops)
    if paired.differs and paired.points > 0:
        return f"better by {paired.points:.1f} points, {work}"
    if paired.differs:
        return f"worse by {-paired.points:.1f} points, {work}"
    if row.total < FEW:
        return f"too few tasks to say, {work}"
    if row.gflops < reference.gflops * (1 - NOTABLE):
        return f"pays: no difference shown, {work}"
    if row.gflops > reference.gflops * (1 + NOTABLE):
        return f"does not pay: no difference shown, {work}"
    return f"no difference shown, {work}"


def saved_tokens(row: Row, reference: Row) -> float:
    """Share of the image tokens that a row saves."""
    return 1 - row.image_tokens / reference.image_tokens if reference.image_tokens else 0.0


def reaches_crop_goal(row: Row, reference: Row) -> bool:
    """Whether a crop keeps the accuracy with 37 % fewer image tokens."""
    worse = Paired(row.total, row.gained, row.lost)
    return not (worse.differs and worse.points < 0) and saved_tokens(row, reference) >= GOAL_SAVED


def markdown(table: Table) -> str:
    """The page: a table for each of the issue's eight groups."""
    parts = [_head(table)]
    for group, title in GROUPS.items():
        rows = [row for row in table.rows if row.group == group]
        findings = [finding for finding in table.findings if finding.group == group]
        if rows or findings:
            parts.append(f"## {group}. {title}\n")
        if rows:
            parts.append(_rows(rows, table.rows))
        if findings:
            parts.append(listed(findings))
    return "\n".join(parts)


def to_json(table: Table) -> str:
    """As it is stored."""
    return table.model_dump_json(by_alias=True, indent=1) + "\n"


def _head(table: Table) -> str:
    return (
        f"# Techniques measured on {table.model}\n\n"
        f"Made by `{table.source}` on {table.measured}; {table.machine}.\n\n"
        "Accuracy: share of the tasks answered right (a tap must hit the exact element), with Wilson's 95 % interval. A\n"
        "verdict compares with the row in *against*, task by task (McNemar's exact test, 5 %); tasks of one screen depend on\n"
        "each other, so the true certainty is somewhat less. GFLOP and latency go until the first token of an answer, latency\n"
        "as processor time of one thread. *Steps*: how long new weights were learned with the model's own frozen.\n"
    )


def _rows(rows: Sequence[Row], everything: Iterable[Row]) -> str:
    named = {row.name: row for row in everything}
    columns = ["technique", "px", "tasks", "right", "image tokens", "GFLOP", "ms", "steps", "against", "verdict"]
    lines = []
    for row in rows:
        share = wilson(row.right, row.total)
        shown = f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
        said = "; ".join(filter(None, (verdict(row, named[row.against]), _goal(row, named[row.against]), row.note)))
        steps = str(row.steps) if row.new_weights else "-"
        costs = [f"{row.image_tokens:.0f}", f"{row.gflops:.2f}", f"{row.latency_ms:.0f}", steps]
        against = "" if row.is_reference else row.against
        lines.append([row.name, str(row.short_side), str(row.total), shown, *costs, against, said])
    return markdown_table(columns, lines, "lrrlrrrrll") + "\n"


def _goal(row: Row, reference: Row) -> str:
    """Crops have a goal of their own."""
    if not row.name.startswith(CROPS) or row.total < FEW:
        return ""
    share = saved_tokens(row, reference)
    saved = f"{abs(100 * share):.0f} % {'fewer' if share >= 0 else 'more'} image tokens"
    return f"{saved}, the goal is {'reached' if reaches_crop_goal(row, reference) else 'missed'}"


def listed(findings: Sequence[Finding]) -> str:
    """Findings as a table."""
    lines = [[each.name, each.measured, each.compared_with, each.verdict] for each in findings]
    return markdown_table(["part", "measured", "compared with", "verdict"], lines) + "\n"


def _work(here: float, there: float) -> str:
    change = here / there - 1 if there else 0.0
    if abs(change) < NOTABLE:
        return "the same work"
    return f"{abs(100 * change):.0f} % {'more' if change > 0 else 'less'} work"
