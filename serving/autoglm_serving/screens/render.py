"""A page in Chromium becomes a picture, its elements with boxes, and the texts that are visible or out of sight."""

import io
from dataclasses import dataclass

from PIL import Image

from autoglm_serving.screens.chromium import Chromium
from autoglm_serving.screens.records import Element
from autoglm_serving.screens.scene import Device

COLOURS = 256
"""Pictures have a palette of so many colours: a third of the bytes, and no difference to see on flat screens."""

_LEAST_VISIBLE = 0.6
_LEAST_SIDE = 8

# An element counts when enough of it is inside the window and every box that clips it, and when the pixel in the middle of
# the visible part belongs to it and to no smaller element. What is below a clipping box is listed as hidden below. Of a link
# over several lines the line with most of it counts; of a heading (data-tight) its text, not the line that it has for itself.
_SCRIPT = """
(() => {
  const W = innerWidth, H = innerHeight, found = [], below = [];
  const piece = e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    if (e.dataset.tight) return range.getBoundingClientRect();
    if (getComputedStyle(e).display !== 'inline' || !e.childNodes.length) return e.getBoundingClientRect();
    const pieces = [...range.getClientRects()].sort((a, b) => b.width * b.height - a.width * a.height);
    if (!pieces.length) return e.getBoundingClientRect();
    const middle = (pieces[0].top + pieces[0].bottom) / 2;
    const line = pieces.filter(r => r.top < middle && middle < r.bottom);
    const [left, top] = [Math.min(...line.map(r => r.left)), Math.min(...line.map(r => r.top))];
    const [right, bottom] = [Math.max(...line.map(r => r.right)), Math.max(...line.map(r => r.bottom))];
    return {left, top, right, bottom, width: right - left, height: bottom - top};
  };
  for (const e of document.querySelectorAll('[data-role]')) {
    const r = piece(e);
    if (r.width < 1 || r.height < 1) continue;
    let [l, t, x, y] = [Math.max(0, r.left), Math.max(0, r.top), Math.min(W, r.right), Math.min(H, r.bottom)];
    let under = r.top >= H, scroller = null;
    for (let p = e.parentElement; p; p = p.parentElement) {
      // What these two clip is clipped by the window already.
      if (p === document.body || p === document.documentElement) continue;
      if (getComputedStyle(p).overflowY === 'visible') continue;
      const q = p.getBoundingClientRect();
      if (p.classList.contains('scroll') && !scroller) { scroller = p; under = under || r.top >= q.bottom - 4; }
      [l, t, x, y] = [Math.max(l, q.left), Math.max(t, q.top), Math.min(x, q.right), Math.min(y, q.bottom)];
    }
    const item = {role: e.dataset.role, text: e.dataset.text, state: e.dataset.state || ''};
    if (x - l < 1 || y - t < 1) {
      if (under && scroller) {
        const q = scroller.getBoundingClientRect();
        below.push({...item, area: [q.left, q.top, q.right, q.bottom]});
      } else if (under && document.documentElement.dataset.scrolls) {
        below.push({...item, area: [0, 0, W, H]});
      }
      continue;
    }
    if ((x - l) * (y - t) < LEAST * r.width * r.height) continue;
    // A document wider than the window cuts words off, and what is left of them is not their name.
    if (document.documentElement.dataset.scrolls && x - l < r.width - 2) continue;
    const hit = document.elementFromPoint((l + x) / 2, (t + y) / 2);
    if (!hit || hit.closest('[data-role]') !== e) continue;
    found.push({...item, box: [l, t, x, y]});
  }
  return {found, below, lines: document.body.innerText.split('\\n').map(s => s.trim()).filter(s => s),
          shaded: !!document.querySelector('.shade')};
})()
""".replace("LEAST", str(_LEAST_VISIBLE))


@dataclass(frozen=True)
class Hidden:
    """A text below the visible part of a list, and the list's visible area in pixels."""

    text: str
    area: tuple[int, int, int, int]


@dataclass(frozen=True)
class Rendered:
    """All that is known of a page once it was laid out. `lines` are all texts of the page, visible or not."""

    png: bytes
    width: int
    height: int
    elements: tuple[Element, ...]
    hidden: tuple[Hidden, ...]
    lines: tuple[str, ...]


def render(browser: Chromium, html: str, device: Device) -> Rendered:
    """Show a page and read it off."""
    browser.show(html, device)
    return read_off(browser, device)


def read_off(browser: Chromium, device: Device) -> Rendered:
    """Read off the page that is shown: its picture, and the elements that are marked with `data-role`."""
    seen = browser.evaluate(_SCRIPT)
    image = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    width, height = image.size
    scale = width / device.width
    kept = [(each, _pixels(each["box"], scale, width, height)) for each in seen["found"]]
    elements = tuple(
        Element(f"e{number}", each["role"], each["text"], box, each["state"])
        for number, (each, box) in enumerate((each, box) for each, box in kept if _large_enough(box))
    )
    hidden = tuple(
        Hidden(each["text"], _pixels(each["area"], scale, width, height))
        for each in seen["below"]
        if not seen["shaded"]
    )
    return Rendered(palette_png(image), width, height, elements, hidden, tuple(seen["lines"]))


def palette_png(image: Image.Image) -> bytes:
    """A PNG with a palette; the same bytes for the same pixels."""
    out = io.BytesIO()
    flat = image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    flat.save(out, "PNG", compress_level=6)
    return out.getvalue()


def _pixels(box: list[float], scale: float, width: int, height: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(side * scale) for side in box)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def _large_enough(box: tuple[int, int, int, int]) -> bool:
    return box[2] - box[0] >= _LEAST_SIDE and box[3] - box[1] >= _LEAST_SIDE
