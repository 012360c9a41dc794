"""HTML files from folders, shown in a Chromium without scripts or a network, and read off like pages made here."""

import os
from collections import Counter
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
  // A form, picture or field named `body` or `closest` would stand before the DOM's own.
  const NAMED = ['form', 'img', 'embed', 'object', 'iframe', 'input', 'button', 'select', 'textarea', 'fieldset', 'output'];
  const named = Document.prototype.querySelectorAll.call(document, NAMED.map(name => name + '[name]').join());
  for (const e of named) Element.prototype.removeAttribute.call(e, 'name');
  // What moves is elsewhere in the picture than where it was read off.
  const still = document.createElement('style');
  still.textContent = '*,*::before,*::after{animation:none!important;transition:none!important}';
  document.documentElement.append(still);
  for (const each of document.getAnimations()) each.cancel();
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
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) return;
    marked.push(e);
    Object.assign(e.dataset, {role, text, state: state || ''});
  };
  for (const e of document.querySelectorAll('[data-role]')) e.removeAttribute('data-role');
  for (const e of document.querySelectorAll('a[href],button,summary,input,textarea')) {
    const role = e.matches(':disabled') ? null : ROLES[kind(e)];
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
  return {near, url: location.href, lang: document.documentElement.lang, text: document.body.innerText.slice(0, 20000),
          moves: !!document.querySelector('meta[http-equiv=refresh i]'),
          framed: !!document.querySelector('frame,iframe,object,embed')};
})
"""


class NoDocuments(Exception):
    """A folder that is not there, or has no HTML page in it."""


def find_documents(folder: Path, left_out: Counter[str] | None = None) -> Folder:
    """The HTML pages under a folder in the order of their names, each file once, named by the folder's own name and their path.

    `left_out` is told how many are not used for which reason.
    """
    reasons = Counter[str]() if left_out is None else left_out
    if not folder.is_dir():
        raise NoDocuments(f"no such folder: {folder}")
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_ENDINGS) and Path(parent, name).is_file()
    )
    once = {path.resolve(): path for path in reversed(paths)}.values()
    ours: list[Document] = []
    for path in sorted(once):
        each = Document(str(path), (Path(folder.resolve().name) / path.relative_to(folder)).as_posix())
        if reason := _unfit(each, folder):
            reasons[reason] += 1
        else:
            ours.append(each)
    if not ours:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        raise NoDocuments(
            f"no HTML page in English or Chinese in {folder}: name another folder, or install some "
            f"({install}; the pages are in /usr/share/doc/debian, /usr/share/debian-reference and more)"
        )
    return tuple(ours)


def _unfit(document: Document, folder: Path) -> str | None:
    """Why a file is not used, if it is not."""
    try:
        document.name.encode()
    except UnicodeEncodeError:
        return "with names that are not UTF-8"  # no manifest can hold them
    if not Path(document.path).resolve().is_relative_to(folder.resolve()):
        return "linked from outside the folder"
    return None if named_language(document.name) in (None, "en", "zh") else "named after other languages"


def show_document(browser: Chromium, view: View) -> tuple[Rendered, Language]:
    """What is seen of a document. Raises NotShown with the reason when nothing on it can be tapped or it cannot be shown."""
    path = Path(view.document.path)
    if not path.is_file():
        raise NotShown("gone")
    if path.stat().st_size > _LARGEST:
        raise NotShown("too large")
    if moves_on(path.read_bytes()):
        raise NotShown("goes to another page")
    address = path.resolve().as_uri()
    browser.open(address, view.device, view.theme)
    told = browser.evaluate(f"{_MARK}({'null' if view.place is None else view.place})")
    # Bytes tell a refresh only in encodings like ASCII; one that was not waited for shows in the address.
    if told["moves"] or told["url"] != address:
        raise NotShown("goes to another page")
    if told["framed"]:
        raise NotShown("has pages in it")
    language = language_of(told["lang"] or named_language(view.document.name) or "", told["text"])
    if language is None:
        raise NotShown("neither English nor Chinese")
    rendered = read_off(browser, view.device) if told["near"] else None
    if rendered is None or all(each.role == "heading" for each in rendered.elements):
        raise NotShown("nothing to tap")
    return rendered, language
