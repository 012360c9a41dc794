"""Ask a model all tasks of a set of screens at several sizes, and judge its answers."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from autoglm_serving.images import ImageSize
from autoglm_serving.resolution import pixel_limit
from autoglm_serving.screens.records import Screen
from autoglm_serving.screens.scoring import score
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.replies import Replier
from autoglm_serving.training.results import Verdict, count, markdown, quality_table, to_json
from autoglm_serving.training.windows import whole

RESULTS, TABLE, QUALITY, VERDICTS = "results.json", "results.md", "quality.json", "verdicts.jsonl"


def verdicts(
    replier: Replier, screens: Screens, short_sides: Sequence[int], tell: Callable[[int, int], None]
) -> Iterator[Verdict]:
    """Every task at every size: screens whose pictures have as many tokens come one after the other."""
    plan = sorted(
        ((side, screen) for side in short_sides for screen in screens.items if screen.tasks),
        key=lambda item: (item[0], whole(item[1], item[0]).tokens),
    )
    for done, (side, screen) in enumerate(plan, 1):
        yield from judged(replier, screens, screen, side)
        tell(done, len(plan))


def judged(replier: Replier, screens: Screens, screen: Screen, side: int) -> Iterator[Verdict]:
    """Every task of one screen at one size."""
    picture = screens.decoded(screen)
    limit = pixel_limit([ImageSize(screen.width, screen.height, "png")], side)
    replies = replier.answers(picture, [task.instruction for task in screen.tasks], limit)
    for task, reply in zip(screen.tasks, replies, strict=True):
        verdict = score(screen, task, reply.text)
        yield Verdict(
            screen=screen.id,
            task=task.id,
            kind=screen.kind,
            type=task.type,
            language=screen.language,
            short_side=side,
            image_tokens=reply.image_tokens,
            right=verdict.right,
            confidence=round(reply.confidence, 4),
            reason=verdict.reason,
        )


def write_results(out: Path, found: Sequence[Verdict], model: str, source: str) -> str:
    """Write the tables and every verdict; returns the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    rows = count(found)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    table = markdown(rows)
    content = {"model": model, "source": source, "measured": day, "rows": to_json(rows)}
    _write(out / RESULTS, json.dumps(content, indent=1) + "\n")
    _write(out / TABLE, table)
    _write(out / QUALITY, quality_table(rows, model, source, day).text())
    _write(out / VERDICTS, "".join(json.dumps(vars(each), ensure_ascii=False) + "\n" for each in found))
    return table


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
