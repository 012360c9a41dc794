"""HTML files from folders, shown in a Chromium without scripts or a network, and read off like pages made here."""

import os
from pathlib import Path

from autoglm_serving.screens.chromium import Chromium, NotShown
from autoglm_serving.screens.documents import Document, Folder, View, language_of, moves_on, named_language
from autoglm_serving.screens.render import Rendered, read_off
from autoglm_serving.screens.words import Language

PACKAGES = (
    "debian-faq", "debian-faq-zh-cn", "debian-reference-en", "debian-reference-zh-cn", "developers-reference",
    "maint-guide-zh-cn",
)  # fmt: skip
"""Debian packages with HTML in English and Chinese: under 15 MB installed."""

_ENDINGS = (".html", ".htm")
_LARGEST = 1 << 20
"""Bytes. A whole book in one file takes seconds for each of its screens."""

# Marks what can be tapped as templates mark their parts, so that the same script reads both. A picture that is a link, and a
# name that only assistive technology hears, are left out: nobody can read them. Below the window, two windows are looked at.
_MARK = """
((place) => {
  const say = e => (e.innerText || '').replace(/[\\u00b6\\s]+/g, ' ').trim();
  const tells = text => text.length <= 60 && /[\\p{L}\\p{N}]/u.test(text);
  const kind = e => e.localName === 'input' ? e.type : e.localName;
  const label = e => (e.labels && e.labels[0] ? say(e.labels[0]) : '') || e.placeholder || '';
  const ROLES = {a: 'link', button: 'button', summary: 'button', submit: 'button', reset: 'button', text: 'field',
    search: 'field', email: 'field', url: 'field', tel: 'field', number: 'field', password: 'field', textarea: 'field',
    checkbox: 'checkbox', radio: 'radio'};
  const marked = [];
  const mark = (e, role, text, state) => {
    if (!tells(text) || !e.getClientRects().length) return;
    marked.push(e);
    Object.assign(e.dataset, {role, text, state: state || ''});
  };
  for (const e of document.querySelectorAll('[data-role]')) e.removeAttribute('data-role');
  for (const e of document.querySelectorAll('a[href],button,summary,input,textarea')) {
    const role = ROLES[kind(e)];
    if (role === 'checkbox' || role === 'radio') {
      mark(e.labels && e.labels[0] || e, role, label(e), e.checked ? 'on' : 'off');
    } else if (role === 'field') {
      mark(e, role, label(e));
    } else if (role) {
      mark(e, role, e.localName === 'input' ? e.value : say(e));
    }
  }
  const count = marked.length;
  for (const e of document.querySelectorAll('h1,h2,h3,h4,h5,h6')) {
    if ([...e.querySelectorAll('a[href]')].some(a => say(a)) || e.closest('a[href]')) continue;
    mark(e, 'heading', say(e));
    e.dataset.tight = '1';
  }
  document.documentElement.dataset.scrolls = '1';
  if (place !== null && count) {
    const top = marked[Math.floor(place * count)].getBoundingClientRect().top + scrollY;
    scrollTo({top: Math.max(0, Math.round(top - innerHeight * 0.4)), behavior: 'instant'});
  }
  let near = 0;
  marked.forEach((e, number) => {
    const r = e.getBoundingClientRect();
    if (r.bottom < 0 || r.top > 3 * innerHeight) e.removeAttribute('data-role');
    else if (number < count) near += 1;
  });
  return {near, lang: document.documentElement.lang, text: document.body.innerText.slice(0, 20000),
          framed: !!document.querySelector('frame,iframe,object,embed')};
})
"""


class NoDocuments(Exception):
    """A folder that is not there, or has no HTML page in it."""


def find_documents(folder: Path) -> Folder:
    """The HTML pages under a folder in the order of their names, each file once; those named after other languages left out."""
    if not folder.is_dir():
        raise NoDocuments(f"no such folder: {folder}")
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_ENDINGS) and Path(parent, name).is_file()
    )
    once = {path.resolve(): path for path in reversed(paths)}.values()
    found = [Document(str(path), path.relative_to(folder).as_posix()) for path in sorted(once)]
    ours = tuple(each for each in found if named_language(each.name) in (None, "en", "zh"))
    if not ours:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        raise NoDocuments(
            f"no HTML page in English or Chinese in {folder}: name another folder, or install some "
            f"({install}; the pages are in /usr/share/doc/debian, /usr/share/debian-reference and more)"
        )
    return ours


def show_document(browser: Chromium, view: View) -> tuple[Rendered, Language]:
    """What is seen of a document. Raises NotShown with the reason when nothing on it can be tapped or it cannot be shown."""
    path = Path(view.document.path)
    if not path.is_file():
        raise NotShown("gone")
    if path.stat().st_size > _LARGEST:
        raise NotShown("too large")
    if moves_on(path.read_bytes()):
        raise NotShown("goes to another page")
    browser.open(path.resolve().as_uri(), view.device, view.theme)
    told = browser.evaluate(f"{_MARK}({'null' if view.place is None else view.place})")
    if told["framed"]:
        raise NotShown("has pages in it")
    language = language_of(told["lang"] or named_language(view.document.name) or "", told["text"])
    if language is None:
        raise NotShown("neither English nor Chinese")
    rendered = read_off(browser, view.device) if told["near"] else None
    if rendered is None or all(each.role == "heading" for each in rendered.elements):
        raise NotShown("nothing to tap")
    return rendered, language
