"""What a training run wrote."""

import json
from pathlib import Path
from typing import Any


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The log of the run in a folder, a line for each step."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
