"""Where every sign of the page in a Chromium is: what a model that learns to read is told."""

from autoglm_serving.screens.chromium import Chromium
from autoglm_serving.screens.records import TextLine

# A sign counts when the pixel in its middle belongs to the element that its text stands in. Signs that follow each other on
# one line are one text; what is covered or out of sight ends it.
_SCRIPT = """
(() => {
  const lines = [], range = document.createRange(), scale = devicePixelRatio;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const parent = node.parentElement;
    if (parent.checkVisibility() && !parent.checkVisibility({opacityProperty: true})) continue;  // nobody can read it
    range.selectNodeContents(node);
    const all = range.getBoundingClientRect();
    if (all.bottom < 0 || all.top > innerHeight) continue;  // long documents: most of it is out of the window
    let line = null, at = 0;
    for (const sign of node.data) {
      range.setStart(node, at);
      range.setEnd(node, at += sign.length);
      const r = range.getClientRects()[0];
      const x = r ? (r.left + r.right) / 2 : -1, y = r ? (r.top + r.bottom) / 2 : -1;
      const hit = r && r.width > 0 ? document.elementFromPoint(x, y) : null;
      if (!hit || !parent.contains(hit)) {
        if (sign.trim()) line = null;
        continue;
      }
      const follows = line && Math.abs(line.y - y * scale) < 2
        && Math.abs(line.ends[line.ends.length - 1] - r.left * scale) < 2 + r.width * scale;
      if (!follows) lines.push(line = {text: '', ends: [r.left * scale], y: y * scale});
      line.text += sign;
      line.ends.push(r.right * scale);
    }
  }
  return lines.filter(line => line.text.trim());
})()
"""


def visible_texts(browser: Chromium) -> tuple[TextLine, ...]:
    """The texts of the page that is shown, in pixels of its picture."""
    found = browser.evaluate(_SCRIPT)
    return tuple(
        TextLine(each["text"], tuple(round(end, 1) for end in each["ends"]), round(each["y"], 1)) for each in found
    )
