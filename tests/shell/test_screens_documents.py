"""A real Chromium shows HTML files: their links are found by their place in the picture, and nothing else is loaded or run."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from autoglm_serving.screens.chromium import Chromium, NotShown, find_chromium
from autoglm_serving.screens.commands import screens
from autoglm_serving.screens.documents import View
from autoglm_serving.screens.make import shoot_document
from autoglm_serving.screens.reader import NoDocuments, find_documents
from autoglm_serving.screens.records import Screen, read_manifest
from autoglm_serving.screens.scene import Device, Theme
from autoglm_serving.screens.scoring import score

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine: scripts/install-chromium.sh installs it"
)
SMALL = Device("phone", 300, 400, 2)
ENGLISH = """<!doctype html><html lang="en"><body style="margin:0"><h1>Packages</h1>
<p>Read <a href="x.html" style="background:#f00;color:#f00">the manual</a> first.</p>
<p><label>Search word <input></label> <button>Go ahead</button></p>
<p><label><input type="checkbox" checked>Keep it</label></p>
<div style="height:500px"></div><h2>Later on</h2></body></html>"""
CHINESE = """<!doctype html><html><meta charset="utf-8"><body><h1>软件包</h1><p>请先阅读<a href="x.html">维护者手册</a>。</p>
<div style="height:2000px"></div><p><a href="y.html">上一页</a></p></body></html>"""
BROKEN = '<form style="position:fixed;inset:0"><input type="hidden" id="closest"></form><a href="x">Next</a>'
NOTHING = "<!doctype html><html><body><h1>Only words</h1><p>There is nothing to follow here.</p></body></html>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as started:
        yield started


def shot(browser: Chromium, folder: Path, html: str, *, place: float | None = None, theme: Theme = "light") -> Screen:
    """The screen of a page with this text, as the whole of `shoot_document` makes it."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "page.html").write_text(html, encoding="utf-8")
    (document,) = find_documents(folder)
    return shoot_document(browser, folder, View(document, SMALL, theme, place, False), "shot")


def pixels(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "images/shot.png").convert("RGB")).astype(int)


@needs_chromium
def test_a_link_is_where_its_colour_is_in_the_picture(browser: Chromium, tmp_path: Path) -> None:
    screen = shot(browser, tmp_path, ENGLISH)
    (link,) = [each for each in screen.elements if each.text == "the manual"]
    ys, xs = np.nonzero((np.abs(pixels(tmp_path) - (255, 0, 0)) < 40).all(axis=2))
    drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert all(abs(one - other) <= 2 for one, other in zip(link.box, drawn, strict=True)), (link.box, drawn)
    (task,) = [each for each in screen.tasks if each.target == link.id]
    assert "the manual" in task.instruction
    assert score(screen, task, task.answer).right


@needs_chromium
def test_headings_fields_buttons_and_boxes_are_elements_and_what_lies_below_is_scrolled_to(
    browser: Chromium, tmp_path: Path
) -> None:
    screen = shot(browser, tmp_path, ENGLISH)
    found = {(each.role, each.text, each.state) for each in screen.elements}
    assert found == {
        ("heading", "Packages", ""),
        ("link", "the manual", ""),
        ("field", "Search word", ""),
        ("button", "Go ahead", ""),
        ("checkbox", "Keep it", "on"),
    }
    assert {each.type for each in screen.tasks} == {"tap", "type", "toggle", "scroll"}
    (below,) = [each for each in screen.tasks if each.type == "scroll"]
    assert "Later on" in below.instruction
    assert all(score(screen, task, task.answer).right for task in screen.tasks)
    assert (screen.language, screen.source, screen.template) == ("en", f"{tmp_path.name}/page.html", "document")
    assert [line.text for line in screen.texts if "manual" in line.text] == ["the manual"]


@needs_chromium
def test_a_chinese_page_is_scrolled_to_what_can_be_tapped(browser: Chromium, tmp_path: Path) -> None:
    assert [each.text for each in shot(browser, tmp_path, CHINESE).elements] == ["软件包", "维护者手册"]
    down = shot(browser, tmp_path, CHINESE, place=0.9)
    assert down.language == "zh"
    assert [each.text for each in down.elements] == ["上一页"]
    assert down.tasks[0].instruction.replace("上一页", "") != down.tasks[0].instruction
    left, top, right, bottom = down.elements[0].box
    assert pixels(tmp_path)[top:bottom, left:right].min() < 128, "ink in the box"


@needs_chromium
def test_of_a_link_over_several_lines_one_line_is_the_box_with_what_is_raised_on_it(
    browser: Chromium, tmp_path: Path
) -> None:
    body = '<body style="font-size:20px"><a href="x">a <sup style="color:#00f">1</sup> name that is longer than the screen</a>'
    (link,) = shot(browser, tmp_path, body).elements
    assert link.box[3] - link.box[1] < 80, "not both lines"
    assert link.text == "a 1 name that is longer than the screen"
    inside = pixels(tmp_path)[link.box[1] : link.box[3], link.box[0] : link.box[2]]
    assert ((inside[:, :, 2] > 200) & (inside[:, :, 0] < 60)).any(), "the raised sign"


@needs_chromium
def test_in_the_dark_a_page_without_dark_colours_gets_some(browser: Chromium, tmp_path: Path) -> None:
    assert shot(browser, tmp_path, ENGLISH, theme="dark").theme == "dark"
    assert np.median(pixels(tmp_path)) < 60
    shot(browser, tmp_path, ENGLISH)
    assert np.median(pixels(tmp_path)) > 200


@needs_chromium
@pytest.mark.parametrize(
    ("html", "reason"),
    [
        (NOTHING, "nothing to tap"),
        ("", "nothing to tap"),
        ("\x00\x01<a href", "nothing to tap"),
        ('<a href="x">same</a> <a href="y">same</a>', "no.* name of its own"),
        ('<html lang="fr"><a href="x">Suivant</a>', "neither English nor Chinese"),
        ('<iframe src="x"></iframe><a href="x">Next</a>', "has pages in it"),
        ('<meta http-equiv="refresh" content="0;url=x"><a href="x">Next</a>', "goes to another page"),
        ('<meta http-equiv="&#114;efresh" content="9;url=x"><a href="x">Next</a>', "goes to another page"),
        (
            '<meta http-equiv="&#114;efresh" content="0;url=x"><a href="x">Next</a>',
            "goes to another|cannot be read off",
        ),
        (BROKEN, "cannot be read off"),
        (
            '<a href="x" style="opacity:0">Next</a> <button disabled>Send</button> <input disabled value="x">',
            "nothing to tap",
        ),
        (
            '<div style="opacity:0"><a href="x">Next</a></div><fieldset disabled><button>Send</button></fieldset>',
            "nothing to tap",
        ),
        (f'<a href="x">Next</a>{"x" * (1 << 20)}', "too large"),
    ],
)
def test_what_cannot_be_used_says_why(browser: Chromium, tmp_path: Path, html: str, reason: str) -> None:
    with pytest.raises(NotShown, match=reason):
        shot(browser, tmp_path, html)
    assert not list((tmp_path / "images").iterdir())


@needs_chromium
def test_nothing_is_fetched_from_a_network_and_no_script_runs(browser: Chromium, tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "own.css").write_text("a{color:#0a0}")
        screen = shot(
            browser,
            tmp_path,
            f'<link rel="stylesheet" href="{address}/a.css"><link rel="stylesheet" href="own.css">'
            f'<img src="{address}/b.png" width="9"><a href="x">Next</a><a id="n" href="y">Untouched</a>'
            "<script>document.getElementById('n').textContent = 'Changed'</script>",
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == []
    assert [each.text for each in screen.elements] == ["Next", "Untouched"]
    image = pixels(tmp_path)
    assert ((image[:, :, 1] > 150) & (image[:, :, 0] < 40)).any(), "its own style sheet is used"


@needs_chromium
def test_a_page_that_prepares_connections_makes_none(browser: Chromium, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        shot(browser, tmp_path, f'<link rel="preconnect" href="{address}"><a href="x">Next</a>')
        listening.settimeout(2)
        with pytest.raises(TimeoutError):
            listening.accept()


@needs_chromium
def test_a_refresh_in_an_encoding_that_hides_it_is_found(browser: Chromium, tmp_path: Path) -> None:
    html = '<html lang="en"><meta http-equiv="refresh" content="9;url=x"><a href="x">Next</a>'
    (tmp_path / "page.html").write_bytes(html.encode("utf-16"))
    (document,) = find_documents(tmp_path)
    with pytest.raises(NotShown, match="goes to another page"):
        shoot_document(browser, tmp_path, View(document, SMALL, "light", None, False), "shot")


@needs_chromium
def test_names_in_a_page_do_not_stand_before_those_of_the_dom(browser: Chromium, tmp_path: Path) -> None:
    forms = "".join(
        f'<form name="{name}"></form>' for name in ("querySelectorAll", "readyState", "body", "documentElement")
    )
    screen = shot(browser, tmp_path, f'{forms}<form><input name="closest"><a href="x">Next</a></form>')
    assert "Next" in [each.text for each in screen.elements]


@needs_chromium
def test_a_name_that_the_prose_says_over_two_lines_or_with_markup_means_two_things(
    browser: Chromium, tmp_path: Path
) -> None:
    wrapped = '<p style="width:60px">about blue moon</p>'
    marked = "<p>about bl<b>ue</b> moon</p>"
    for prose in (wrapped, marked):
        screen = shot(browser, tmp_path, f'{prose}<p><a href="x">blue moon</a> <a href="y">red sun</a></p>')
        assert {task.target for task in screen.tasks} == {each.id for each in screen.elements if each.text == "red sun"}


@needs_chromium
def test_one_does_not_scroll_to_what_the_prose_names_over_two_lines(browser: Chromium, tmp_path: Path) -> None:
    html = '<p style="width:60px">{}</p><a href="x">Next</a><div style="height:500px"></div><a href="y">blue moon</a>'
    clear = shot(browser, tmp_path, html.format("about red suns"))
    assert ["blue moon" in task.instruction for task in clear.tasks if task.type == "scroll"] == [True]
    assert not [task for task in shot(browser, tmp_path, html.format("about blue moon")).tasks if task.type == "scroll"]


@needs_chromium
def test_what_nobody_can_read_is_no_text(browser: Chromium, tmp_path: Path) -> None:
    screen = shot(browser, tmp_path, '<p>Plain</p><p style="opacity:0">Secret</p><a href="x">Next</a>')
    assert [line.text for line in screen.texts] == ["Plain", "Next"]


@needs_chromium
def test_what_moves_is_read_off_where_it_stands_in_the_picture(browser: Chromium, tmp_path: Path) -> None:
    moving = "@keyframes m{from{transform:none}to{transform:translateY(250px)}}a{display:block;animation:m "
    html = (
        f'<style>{moving}.3s infinite alternate linear}}</style><a href="x" style="background:#f00;color:#f00">Next</a>'
    )
    for _ in range(3):
        (link,) = shot(browser, tmp_path, html).elements
        ys, xs = np.nonzero((np.abs(pixels(tmp_path) - (255, 0, 0)) < 40).all(axis=2))
        drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert all(abs(one - other) <= 2 for one, other in zip(link.box, drawn, strict=True)), (link.box, drawn)


@needs_chromium
def test_odd_documents_do_not_end_the_making_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc/broken.html").write_text(BROKEN)
    (tmp_path / "doc/moves.html").write_text(
        '<meta http-equiv="&#114;efresh" content="0;url=en.html"><a href="x">Next</a>'
    )
    (tmp_path / "doc/en.html").write_text(ENGLISH)
    done = make(tmp_path / "out", tmp_path / "doc", count=12)
    assert done.exit_code == 0, done.output
    assert "cannot be read off" in done.output
    assert {each.source for each in manifest(tmp_path / "out")} == {None, "doc/en.html"}


def make(out: Path, *folders: Path, split: str = "train", count: int = 6) -> Result:
    named = [word for folder in folders for word in ("--documents", str(folder))]
    command = ["make", str(out), "--split", split, "--count", str(count), "--seed", "3", *named]
    return CliRunner().invoke(screens, [*command, "--documents-percent", "50"])


def manifest(folder: Path) -> list[Screen]:
    with (folder / "manifest.jsonl").open(encoding="utf-8") as lines:
        return list(read_manifest(lines))


@needs_chromium
def test_documents_are_mixed_in_and_the_same_files_give_the_same_manifest_wherever_they_are(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "doc").mkdir(parents=True)
        for name, html in (("en.html", ENGLISH), ("zh.html", CHINESE), ("none.html", NOTHING)):
            (tmp_path / place / "doc" / name).write_text(html, encoding="utf-8")
    here = make(tmp_path / "here/out", tmp_path / "here/doc", count=12)
    assert here.exit_code == 0, here.output
    assert make(tmp_path / "there/out", tmp_path / "there/doc", count=12).exit_code == 0
    one, two = (tmp_path / place / "out" for place in ("here", "there"))
    assert (one / "manifest.jsonl").read_bytes() == (two / "manifest.jsonl").read_bytes()
    found = manifest(one)
    shown = [each for each in found if each.template == "document"]
    assert {each.source for each in shown} == {"doc/en.html", "doc/zh.html"}
    assert f"{len(shown)} of them show HTML documents" in here.output
    assert "nothing to tap" in here.output
    assert all(each.texts and each.tasks for each in shown)
    # The others are those that are made without documents.
    assert make(tmp_path / "plain", count=12).exit_code == 0
    plain = {each.id: each for each in manifest(tmp_path / "plain")}
    others = [each for each in found if each.template != "document"]
    assert others
    assert len(others) + len(shown) == 12
    assert all(plain[each.id] == each for each in others)


@needs_chromium
def test_where_no_document_can_be_used_templates_take_their_place(tmp_path: Path) -> None:
    (tmp_path / "none.html").write_text(NOTHING)
    done = make(tmp_path / "out", tmp_path, count=3)
    assert done.exit_code == 0, done.output
    assert "0 of them show HTML documents" in done.output
    assert len(manifest(tmp_path / "out")) == 3


def test_files_are_found_once_and_other_languages_not_at_all(tmp_path: Path) -> None:
    for name in ("b/two.htm", "a/one.html", "guide.de.html/one.html", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "c.html").symlink_to("a/one.html")
    (tmp_path / "broken.html").symlink_to("nowhere.html")
    (tmp_path / "README.md.html").write_text("x")
    left_out: Counter[str] = Counter()
    found = find_documents(tmp_path, left_out)
    assert [each.name for each in found] == [
        f"{tmp_path.name}/{name}" for name in ("README.md.html", "a/one.html", "b/two.htm")
    ]
    assert left_out == {"named after other languages": 1}


def test_names_that_no_manifest_can_hold_and_links_out_of_the_folder_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc/good.html").write_text("x")
    (tmp_path / "private.html").write_text("x")
    (tmp_path / "doc/link.html").symlink_to("../private.html")
    Path(os.fsdecode(bytes(tmp_path / "doc") + b"/caf\xe9.html")).write_text("x")
    left_out: Counter[str] = Counter()
    assert [each.name for each in find_documents(tmp_path / "doc", left_out)] == ["doc/good.html"]
    assert left_out == {"with names that are not UTF-8": 1, "linked from outside the folder": 1}


def test_a_folder_that_is_missing_or_empty_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = make(tmp_path / "out", tmp_path / "missing")
    assert done.exit_code == 1
    assert "no such folder" in done.output
    (tmp_path / "empty").mkdir()
    done = make(tmp_path / "out", tmp_path / "empty")
    assert done.exit_code == 1
    assert "no HTML page" in done.output
    assert "apt-get install --no-install-recommends debian-faq" in done.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(NoDocuments):
        find_documents(tmp_path / "empty")


def test_documents_are_for_training_only(tmp_path: Path) -> None:
    done = make(tmp_path / "out", tmp_path, split="test")
    assert done.exit_code == 2
    assert "no page is in two splits" in done.output
