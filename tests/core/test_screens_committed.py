"""The test split in the repository is whole: every picture is there, every answer is right, and the plan still makes it."""

import hashlib
import struct
from pathlib import Path

import pytest

from autoglm_serving.screens.plan import page
from autoglm_serving.screens.records import Screen, read_manifest, write_line
from autoglm_serving.screens.scoring import score
from autoglm_serving.screens.templates import TEMPLATES

FOLDER = Path(__file__).resolve().parents[2] / "data/screens-test"
LINES = (FOLDER / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
SCREENS = list(read_manifest(LINES))
LARGEST = 4 * 1024 * 1024


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", header[16:24])
    return width, height


def test_every_picture_is_there_with_the_size_that_the_manifest_says_and_no_other() -> None:
    assert {FOLDER / each.image for each in SCREENS} == set((FOLDER / "images").iterdir())
    for each in SCREENS:
        assert png_size(FOLDER / each.image) == (each.width, each.height)
    pictures = [hashlib.sha256((FOLDER / each.image).read_bytes()).digest() for each in SCREENS]
    assert len(set(pictures)) == len(SCREENS)


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= LARGEST


def test_the_manifest_is_as_the_writer_writes_it() -> None:
    assert [write_line(each) for each in SCREENS] == LINES


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.id)
def test_each_screen_is_the_one_that_the_plan_makes_and_its_answers_are_right(screen: Screen) -> None:
    split, seed, number = screen.id.split("-")
    assert split == "test"
    planned = page("test", int(seed), int(number))
    assert (planned.id, planned.template, planned.device.kind) == (screen.id, screen.template, screen.kind)
    assert (planned.look.theme, planned.language) == (screen.theme, screen.language)
    assert planned.device.pixels == (screen.width, screen.height)
    # The texts come from the page that the plan makes today: a changed template needs a new split.
    assert all(f'data-role="{each.role}"' in planned.html for each in screen.elements)
    assert screen.tasks
    for each in screen.elements:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= screen.width
        assert 0 <= top < bottom <= screen.height
    for task in screen.tasks:
        assert score(screen, task, task.answer).right


def test_it_has_every_test_template_every_kind_and_every_type_of_task() -> None:
    assert {each.template for each in SCREENS} == set(TEMPLATES["test"])
    assert {each.kind for each in SCREENS} == {"phone", "tablet", "desktop", "kiosk"}
    types = {task.type for each in SCREENS for task in each.tasks}
    assert types == {"tap", "type", "toggle", "scroll", "finish"}
    assert sum(task.type == "tap" for each in SCREENS for task in each.tasks) >= 300
