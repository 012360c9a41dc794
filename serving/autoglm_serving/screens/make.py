"""Writes folders of screens: pictures and a manifest, with one Chromium per job."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from autoglm_serving.screens.chromium import Chromium, NotShown, ScriptFailed
from autoglm_serving.screens.documents import Folder, View, views
from autoglm_serving.screens.plan import Page, page, task_dice
from autoglm_serving.screens.reader import show_document
from autoglm_serving.screens.records import Screen, TextLine, write_line
from autoglm_serving.screens.render import Rendered, render
from autoglm_serving.screens.sequences import STEPS, session
from autoglm_serving.screens.tasks import Seen, make_tasks, mentions
from autoglm_serving.screens.templates import Split
from autoglm_serving.screens.texts import visible_texts

Wanted = Split | Literal["sessions"]
MANIFEST = "manifest.jsonl"
IMAGES = "images"
DOCUMENT = "document"
"""The template of screens that show an HTML document."""
CHUNK = 20


@dataclass(frozen=True)
class Order:
    """Which screens: the first `count` of a split, or so many sessions; `percent` of them show documents, if there are any."""

    split: Wanted
    count: int
    seed: int
    documents: tuple[Folder, ...] = ()
    percent: int = 0


@dataclass(frozen=True)
class Tally:
    """How many screens show documents, and how many views of documents were left out for which reason."""

    documents: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


_Lines = list[str]


def make(folder: Path, order: Order, jobs: int, tell: Callable[[int], None]) -> Tally:
    """Write screens. `tell` hears how many are done since its last call."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    chunks = [range(start, min(start + CHUNK, order.count)) for start in range(0, order.count, CHUNK)]
    unfinished = folder / f"{MANIFEST}.part"
    documents, left_out = 0, Counter[str]()
    with unfinished.open("w", encoding="utf-8") as manifest:
        for lines, tally in _in_order(folder, order, chunks, jobs):
            manifest.writelines(lines)
            documents += tally.documents
            left_out += tally.left_out
            tell(len(lines) // (STEPS if order.split == "sessions" else 1))
    unfinished.replace(folder / MANIFEST)
    return Tally(documents, left_out)


def _in_order(folder: Path, order: Order, chunks: list[range], jobs: int) -> Iterator[tuple[_Lines, Tally]]:
    # A fresh interpreter per job: Chromium's pipes of one job must not be inherited by another.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_chunk, folder, order, chunk) for chunk in chunks]
        try:
            for each in waiting:
                yield each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _chunk(folder: Path, order: Order, numbers: range) -> tuple[_Lines, Tally]:
    made: list[Screen] = []
    left_out: Counter[str] = Counter()
    # Documents have a browser of their own: what they leave behind must not reach the templates' pages.
    with Chromium() as browser, Chromium() if order.documents else nullcontext() as reader:
        for number in numbers:
            document = _document(reader, folder, order, number, left_out) if reader else None
            if document is not None:
                made.append(document)
                continue
            pages = _pages(order.split, order.seed, number)
            made += [shoot(browser, folder, each, texts=order.split == "train") for each in pages]
    documents = sum(each.template == DOCUMENT for each in made)
    return [write_line(each) for each in made], Tally(documents, left_out)


def _pages(split: Wanted, seed: int, number: int) -> list[Page]:
    return session(seed, number) if split == "sessions" else [page(split, seed, number)]


def _document(reader: Chromium, folder: Path, order: Order, number: int, left_out: Counter[str]) -> Screen | None:
    """The first of the number's views that can be used. Where none can, the number is left to its template."""
    for view in views(order.documents, order.percent, order.seed, number):
        try:
            return shoot_document(reader, folder, view, f"document-{order.seed}-{number:06d}")
        except NotShown as reason:
            left_out[str(reason)] += 1
    return None


def shoot(browser: Chromium, folder: Path, each: Page, *, texts: bool = False) -> Screen:
    """Render one page, write its picture and say what is on it; with `texts`, also where every sign is."""
    rendered = render(browser, each.html, each.device)
    image = _write(folder, each.id, rendered)
    tasks = make_tasks(seen(rendered), each.instruct, task_dice(each.id))
    width, height, kind = rendered.width, rendered.height, each.device.kind
    theme, language = each.look.theme, each.language
    kept = (rendered.elements, tasks, each.session, each.step)
    lines = visible_texts(browser) if texts else ()
    return Screen(each.id, image, width, height, kind, each.template, theme, language, *kept, texts=lines)


def shoot_document(browser: Chromium, folder: Path, view: View, name: str) -> Screen:
    """Show a document, write its picture and say what is on it. Raises NotShown when it cannot be used."""
    try:
        rendered, language = show_document(browser, view)
        texts = visible_texts(browser)
    except ScriptFailed as error:
        raise NotShown("cannot be read off") from error
    tasks = make_tasks(seen_document(rendered, texts), view.instruct(language), task_dice(name))
    if not tasks:
        raise NotShown("nothing that has a name of its own")
    image = _write(folder, name, rendered)
    return Screen(
        id=name,
        image=image,
        width=rendered.width,
        height=rendered.height,
        kind=view.device.kind,
        template=DOCUMENT,
        theme=view.theme,
        language=language,
        elements=rendered.elements,
        tasks=tasks,
        texts=texts,
        source=view.document.name,
    )


def _write(folder: Path, name: str, rendered: Rendered) -> str:
    image = f"{IMAGES}/{name}.png"
    (folder / image).write_bytes(rendered.png)
    return image


def seen(rendered: Rendered) -> Seen:
    """What tasks are made from."""
    hidden = tuple((each.text, each.area) for each in rendered.hidden)
    return Seen(rendered.width, rendered.height, rendered.elements, hidden, rendered.lines)


def seen_document(rendered: Rendered, texts: Sequence[TextLine]) -> Seen:
    """The same of a document: only what the picture says can be mistaken; what lies below must be said once in all of it."""
    prose = tuple(line.text for line in texts)
    said, seen_here = mentions(rendered.lines), mentions(prose)
    hidden = tuple(
        (each.text, each.area) for each in rendered.hidden if said(each.text) <= 1 and not seen_here(each.text)
    )
    return Seen(rendered.width, rendered.height, rendered.elements, hidden, (), prose)
