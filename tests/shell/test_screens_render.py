"""A real Chromium draws pages: boxes lie where things are seen, and the same seed gives the same bytes."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageChops, ImageStat

from autoglm_serving.screens.chromium import Chromium, NoChromium, find_chromium
from autoglm_serving.screens.commands import screens
from autoglm_serving.screens.make import Order, make, shoot
from autoglm_serving.screens.picture import draw
from autoglm_serving.screens.plan import page
from autoglm_serving.screens.records import Screen, read_manifest
from autoglm_serving.screens.render import Rendered, render
from autoglm_serving.screens.scene import Device, part
from autoglm_serving.screens.scoring import score
from autoglm_serving.screens.sequences import STEPS
from autoglm_serving.screens.texts import visible_texts
from support.processes import wait_until

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine: scripts/install-chromium.sh installs it"
)
SMALL = Device("phone", 200, 300, 2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as started:
        yield started


def shown(browser: Chromium, body: str, device: Device = SMALL) -> Rendered:
    return render(browser, f'<!doctype html><body style="margin:0">{body}</body>', device)


def texts(rendered: Rendered) -> list[str]:
    return [each.text for each in rendered.elements]


def absolute(text: str, left: int, top: int, width: int, height: int, more: str = "") -> str:
    place = f"position:absolute;left:{left}px;top:{top}px;width:{width}px;height:{height}px;{more}"
    return part("row", text, style=place)


@needs_chromium
def test_a_box_is_where_the_element_is_drawn_in_pixels_of_the_picture(browser: Chromium) -> None:
    rendered = shown(browser, absolute("A", 20, 30, 50, 40, "background:#f00;color:#f00"))
    assert (rendered.width, rendered.height) == (400, 600)
    assert [each.box for each in rendered.elements] == [(40, 60, 140, 140)]
    image = Image.open(io.BytesIO(rendered.png)).convert("RGB")
    assert image.size == (400, 600)
    assert image.getpixel((40, 60)) == image.getpixel((139, 139)) == (255, 0, 0)
    assert image.getpixel((39, 60)) == image.getpixel((140, 139)) == (255, 255, 255)


@needs_chromium
def test_what_cannot_be_tapped_is_no_element(browser: Chromium) -> None:
    covered = absolute("covered", 0, 0, 100, 50) + absolute("cover", 0, 0, 100, 50)
    outside = absolute("left of the window", -90, 60, 100, 40) + absolute("below", 0, 400, 100, 40)
    small = absolute("too small", 0, 110, 2, 2, "overflow:hidden")
    gone = absolute("gone", 0, 120, 50, 20, "display:none")
    assert texts(shown(browser, covered + outside + small + gone)) == ["cover"]


@needs_chromium
def test_an_element_whose_middle_belongs_to_a_smaller_one_is_left_out(browser: Chromium) -> None:
    inner = part("button", "inner", style="width:60px;height:60px;margin:20px")
    assert texts(shown(browser, part("row", "outer", inner, style="width:100px;height:100px"))) == ["inner"]


@needs_chromium
def test_what_a_list_hides_below_is_told_apart_from_what_it_shows(browser: Chromium) -> None:
    rows = "".join(part("row", f"row {number}", style="height:40px") for number in range(6))
    rendered = shown(browser, f'<div class="scroll" style="height:130px;overflow:hidden">{rows}</div>')
    assert texts(rendered) == ["row 0", "row 1", "row 2"]
    assert [each.text for each in rendered.hidden] == ["row 4", "row 5"]
    assert {each.area for each in rendered.hidden} == {(0, 0, 400, 260)}


@needs_chromium
def test_behind_a_dialog_nothing_can_be_tapped_or_scrolled_to(browser: Chromium) -> None:
    rows = "".join(part("row", f"row {number}", style="height:40px") for number in range(9))
    ahead = f'<div class="shade" style="position:fixed;inset:0">{part("button", "yes", style="margin:50px")}</div>'
    rendered = shown(browser, f'<div class="scroll" style="height:130px;overflow:hidden">{rows}</div>{ahead}')
    assert texts(rendered) == ["yes"]
    assert rendered.hidden == ()


@needs_chromium
def test_every_sign_that_can_be_seen_is_known_by_its_place(browser: Chromium) -> None:
    body = absolute("", 20, 30, 150, 40, "").replace("</div>", "<b>Ab 文</b></div>", 1)
    body += '<p style="position:absolute;left:500px;top:10px">outside</p>'
    body += '<p style="position:absolute;left:20px;top:100px;margin:0">covered</p>'
    body += '<div style="position:absolute;left:0;top:95px;width:200px;height:60px;background:#fff"></div>'
    rendered = shown(browser, body)
    (line,) = visible_texts(browser)
    assert line.text == "Ab 文"
    assert len(line.ends) == 5
    assert list(line.ends) == sorted(line.ends)
    image = np.asarray(Image.open(io.BytesIO(rendered.png)).convert("L"))

    def darkest(left: float, right: float) -> int:
        return int(image[round(line.y) - 14 : round(line.y) + 14, round(left) : round(right)].min())

    assert all(darkest(line.ends[place], line.ends[place + 1]) < 128 for place in (0, 1, 3)), "ink where each sign is"
    assert darkest(line.ends[-1] + 3, 400) > 250, "no ink behind the last one"


@needs_chromium
def test_every_template_gives_a_full_screen_with_right_answers(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split, count in (("train", 22), ("test", 8)):
        for number in range(count):
            screen = shoot(browser, tmp_path, page(split, 7, number))  # type: ignore[arg-type]
            assert screen.elements, screen.id
            assert screen.tasks, screen.id
            assert all(score(screen, task, task.answer).right for task in screen.tasks)
            image = Image.open(tmp_path / screen.image)
            assert image.size == (screen.width, screen.height)
            assert len(image.getcolors() or ()) > 8, "the page is not empty"


@needs_chromium
def test_a_screen_can_be_looked_at_with_its_boxes(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    screen = shoot(browser, tmp_path, page("train", 7, 0))
    looked_at = draw(screen, tmp_path, screen.width // 2)
    assert looked_at.width == screen.width // 2
    box = screen.elements[0].box
    before = Image.open(tmp_path / screen.image).convert("RGB").resize(looked_at.size)
    corner = (box[0] // 2, box[1] // 2)
    assert looked_at.getpixel(corner) != before.getpixel(corner)


def manifest(folder: Path) -> list[Screen]:
    with (folder / "manifest.jsonl").open(encoding="utf-8") as lines:
        return list(read_manifest(lines))


def difference(one: Path, two: Path) -> float:
    """Mean difference of two pictures in levels of 255."""
    changed = ImageChops.difference(Image.open(one).convert("RGB"), Image.open(two).convert("RGB"))
    return float(sum(ImageStat.Stat(changed).mean) / 3)


@needs_chromium
def test_the_same_seed_gives_the_same_manifest_and_pictures_however_many_browsers_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoglm_serving.screens.make.CHUNK", 3)
    for name, jobs in (("one", 1), ("two", 2)):
        make(tmp_path / name, Order("train", 6, 3), jobs, lambda _: None)
    one, two = (tmp_path / name / "manifest.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    found = manifest(tmp_path / "one")
    for each in found:
        # Chromium was seen to smooth the edge of an icon differently by a level or two.
        assert difference(tmp_path / "one" / each.image, tmp_path / "two" / each.image) < 0.5
    assert difference(tmp_path / "one" / found[0].image, tmp_path / "one" / found[4].image) > 5


@needs_chromium
def test_the_command_writes_sessions_of_ordered_screens_and_no_folder_twice(tmp_path: Path) -> None:
    command = ["make", str(tmp_path / "out"), "--split", "sessions", "--count", "2", "--seed", "5"]
    done = CliRunner().invoke(screens, command)
    assert done.exit_code == 0, done.output
    found = manifest(tmp_path / "out")
    assert [(each.session, each.step) for each in found] == [
        (f"session-5-{number:05d}", step) for number in range(2) for step in range(STEPS)
    ]
    assert len({(tmp_path / "out" / each.image).read_bytes() for each in found}) > STEPS
    again = CliRunner().invoke(screens, command)
    assert again.exit_code == 1
    assert "name a new folder" in again.output


def processes_with(text: str) -> list[str]:
    """Command lines that name a text. A process that ended has none, also when nobody reads its exit status."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            if text in line:
                found.append(line)
    return found


@needs_chromium
def test_the_browser_ends_with_its_user() -> None:
    with Chromium() as started:
        folder = started.folder.name
        assert started.process.poll() is None
        assert processes_with(folder)
    assert started.process.poll() is not None
    wait_until(lambda: not processes_with(folder), "no process of the browser is left")


@needs_chromium
def test_a_browser_that_dies_is_an_error_and_leaves_nothing_behind() -> None:
    with Chromium() as started:
        os.killpg(started.process.pid, signal.SIGKILL)
        with pytest.raises(NoChromium, match="ended"):
            shown(started, absolute("A", 0, 0, 50, 50))
    assert started.process.poll() is not None


def test_a_program_that_is_no_browser_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoChromium, match="ended"):
        Chromium("/bin/true")
    with pytest.raises(NoChromium, match="ended"):
        Chromium(str(tmp_path / "missing"))


def test_without_a_browser_the_command_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(screens, ["make", str(tmp_path / "out"), "--split", "test", "--count", "1"])
    assert done.exit_code == 1
    assert "scripts/install-chromium.sh" in done.output
