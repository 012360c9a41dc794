"""Scenarios of vLLM in a process of their own, because vLLM changes the process that imports it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.processes import Process

TESTS = Path(__file__).parents[1]
RESULT = "result.json"


@contextmanager
def scenario(module: str, folder: Path, place: Path, deadline_s: float, *arguments: str) -> Iterator[Process]:
    """The process of a script that was given a model folder, once it has written its result to `place`."""
    result = place / RESULT
    command: list[str | Path] = [sys.executable, "-m", module, folder, result, *arguments]
    with Process("vllm", command, log=place / "log", env={"PYTHONPATH": str(TESTS)}) as started:
        started.wait_for(result.exists, "the scenario is over", deadline_s)
        yield started


def result_of(process: Process) -> dict[str, Any]:
    """What the script wrote."""
    outcome: dict[str, Any] = json.loads((process.log.parent / RESULT).read_text())
    return outcome


def write(path: Path, content: object) -> None:
    """All at once: whoever waits for the file finds it whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, ensure_ascii=False))
    part.rename(path)
