"""Checkpoints of a run: whole or not there, the last two kept, and the log cut back to the step that they hold."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

KEPT = 2
_UNFINISHED = ".unfinished-"
_STATE = "state.pt"


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write beside, make durable, rename: a run that is killed at any moment leaves the checkpoint before."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{_UNFINISHED}{step}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with (unfinished / _STATE).open("wb") as file:
        torch.save({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    target = folder / f"step-{step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    for old in _whole(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None when there is none."""
    for each in reversed(_whole(folder)):
        try:
            state: dict[str, Any] = torch.load(each / _STATE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError):
            continue
        return state
    return None


def _whole(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint does not hold, and a last line that was cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            break
        if value["step"] >= step:
            break
        kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")
