"""Run the ablation: techniques one after the other, or several processes side by side."""

import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from autoglm_serving.training.ablation import measure as measuring
from autoglm_serving.training.ablation.measure import Measured, Settings, row_of
from autoglm_serving.training.ablation.memory import Memory
from autoglm_serving.training.ablation.plan import Technique
from autoglm_serving.training.ablation.table import Finding, Row, Table, markdown, to_json
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.replies import Replier
from autoglm_serving.vision.modules.variants import VARIANTS

TABLE, PAGE = "techniques.json", "techniques.md"


@dataclass(frozen=True)
class Job:
    """All that a process needs to measure techniques."""

    model: Path
    screens: Path
    sessions: Path | None
    limit: int | None
    settings: Settings
    device: str = "cpu"


class Bench:
    """A model and its data, ready to measure."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._replier = Replier(job.model, job.device)
        self._memory = Memory()
        self._screens = _limited(open_screens(job.screens), job.limit)
        self._sessions = None if job.sessions is None else _limited(open_screens(job.sessions), job.limit)

    def measure(self, technique: Technique) -> Measured | None:
        """None for a technique on sessions when there are none, and for one whose new weights were not trained."""
        data = self._sessions if technique.data in ("sessions", "changed") else self._screens
        if data is None or measuring.is_untrained(technique, self._replier, self._job.settings):
            return None
        return measuring.measure(technique, self._replier, data, self._job.settings, self._memory)


def run(
    job: Job, techniques: Sequence[Technique], jobs: int, tell: Callable[[str, tuple[Row, ...]], None]
) -> tuple[Row, ...]:
    """A row for each technique that could be measured, in their order. `tell` hears who is done, and the rows so far."""
    found: dict[str, Measured] = {}
    for technique, measured in _measured(job, techniques, jobs):
        if measured is not None:
            found[technique.name] = measured
        tell(technique.name, _rows(techniques, found))
    return _rows(techniques, found)


def _rows(techniques: Sequence[Technique], found: Mapping[str, Measured]) -> tuple[Row, ...]:
    return tuple(
        row_of(found[each.name], found[each.against])
        for each in techniques
        if each.name in found and each.against in found
    )


def not_trained(techniques: Sequence[Technique], rows: Sequence[Row]) -> tuple[Finding, ...]:
    """Techniques with new weights that nobody has trained beside this model: said, not measured."""
    named = {row.name for row in rows}
    return tuple(
        Finding(
            group=each.group,
            name=each.name,
            measured="not trained",
            compared_with="",
            verdict=f"says nothing before `autoglm train variant {each.way}`",
        )
        for each in techniques
        if each.name not in named and each.way in VARIANTS
    )


def _measured(job: Job, techniques: Sequence[Technique], jobs: int) -> Iterator[tuple[Technique, Measured | None]]:
    if jobs == 1:
        bench = Bench(job)
        for technique in techniques:
            yield technique, bench.measure(technique)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (job,)) as pool:
        waiting = {pool.submit(_one, technique): technique for technique in techniques}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


_bench: list[Bench] = []
"""Of this process: loaded once, asked for many techniques."""


def _start(job: Job) -> None:
    torch.set_num_threads(1)
    _bench.append(Bench(job))


def _one(technique: Technique) -> Measured | None:
    return _bench[0].measure(technique)


def write(out: Path, rows: Sequence[Row], findings: Sequence[Finding], model: str, source: str) -> str:
    """Write the table as JSON and as a page; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    table = Table(
        model=model,
        source=source,
        measured=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
        rows=tuple(rows),
        findings=tuple(findings),
    )
    page = markdown(table)
    (out / TABLE).write_text(to_json(table), encoding="utf-8")
    (out / PAGE).write_text(page, encoding="utf-8")
    return page


def machine() -> str:
    """What the times were measured on."""
    return f"{platform.machine()} with {os.cpu_count()} processors, torch {torch.__version__}"


def _limited(screens: Screens, limit: int | None) -> Screens:
    return replace(screens, items=screens.items[:limit])
