"""Writes folders of screens: pictures and a manifest, with one Chromium per job."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from autoglm_serving.screens.chromium import Chromium
from autoglm_serving.screens.plan import Page, page, task_dice
from autoglm_serving.screens.records import Screen, write_line
from autoglm_serving.screens.render import Rendered, render
from autoglm_serving.screens.sequences import STEPS, session
from autoglm_serving.screens.tasks import Seen, make_tasks
from autoglm_serving.screens.templates import Split
from autoglm_serving.screens.texts import visible_texts

Wanted = Split | Literal["sessions"]
MANIFEST = "manifest.jsonl"
IMAGES = "images"
CHUNK = 20


def make(folder: Path, split: Wanted, count: int, seed: int, jobs: int, tell: Callable[[int], None]) -> None:
    """Write the first `count` screens of a split, or so many sessions. `tell` hears how many are done since its last call."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    unfinished = folder / f"{MANIFEST}.part"
    with unfinished.open("w", encoding="utf-8") as manifest:
        for lines in _in_order(folder, split, seed, chunks, jobs):
            manifest.writelines(lines)
            tell(len(lines) // (STEPS if split == "sessions" else 1))
    unfinished.replace(folder / MANIFEST)


def _in_order(folder: Path, split: Wanted, seed: int, chunks: list[range], jobs: int) -> Iterator[list[str]]:
    # A fresh interpreter per job: Chromium's pipes of one job must not be inherited by another.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_chunk, folder, split, seed, chunk) for chunk in chunks]
        try:
            for each in waiting:
                yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _chunk(folder: Path, split: Wanted, seed: int, numbers: range) -> list[str]:
    with Chromium() as browser:
        wanted = [each for number in numbers for each in _pages(split, seed, number)]
        return [write_line(shoot(browser, folder, each, texts=split == "train")) for each in wanted]


def _pages(split: Wanted, seed: int, number: int) -> list[Page]:
    return session(seed, number) if split == "sessions" else [page(split, seed, number)]


def shoot(browser: Chromium, folder: Path, each: Page, *, texts: bool = False) -> Screen:
    """Render one page, write its picture and say what is on it; with `texts`, also where every sign is."""
    rendered = render(browser, each.html, each.device)
    image = f"{IMAGES}/{each.id}.png"
    (folder / image).write_bytes(rendered.png)
    tasks = make_tasks(seen(rendered), each.instruct, task_dice(each))
    width, height, kind = rendered.width, rendered.height, each.device.kind
    theme, language = each.look.theme, each.language
    kept = (rendered.elements, tasks, each.session, each.step)
    lines = visible_texts(browser) if texts else ()
    return Screen(each.id, image, width, height, kind, each.template, theme, language, *kept, texts=lines)


def seen(rendered: Rendered) -> Seen:
    """What tasks are made from."""
    hidden = tuple((each.text, each.area) for each in rendered.hidden)
    return Seen(rendered.width, rendered.height, rendered.elements, hidden, rendered.lines)
