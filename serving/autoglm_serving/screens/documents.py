"""Real HTML documents on screens, such as those of Debian's packages: which one, how it is shown, in which language it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.scene import DEVICES, PHONE, Device, Theme
from autoglm_serving.screens.words import Language

TRIES = 6
"""Views that are tried for one screen: many a part of a long text has nothing to tap."""

_KINDS = ("phone", "tablet", "desktop")
_NAMED_LANGUAGE = re.compile(r"\.([a-z]{2})(?:[-_][a-z]{2})?(?=\.|/|$)", re.IGNORECASE)
# Those that documentation comes in: not every two letters are a language (index.js.html, README.md.html).
_LANGUAGES = frozenset((
    "ar", "bg", "ca", "cs", "da", "de", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fr",
    "gl", "he", "hi", "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "nb", "nl", "nn", "no",
    "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "th", "tr", "uk", "vi", "zh",
))  # fmt: skip
_MOVES_ON = re.compile(rb"http-equiv\s*=\s*[\"']?refresh", re.IGNORECASE)
_HAN = re.compile(r"[\u3400-\u9fff]")
_OTHER_SIGNS = re.compile(r"[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")
_LEAST_HAN, _MOST_OTHER = 0.1, 0.02
_BOTH: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class Document:
    """An HTML file: where it is, and what it is called, from its folder's own name on."""

    path: str
    name: str


Folder = tuple[Document, ...]


@dataclass(frozen=True)
class View:
    """A document on a device. `place`: at its top (None), or so far into what can be tapped, from 0 to 1."""

    document: Document
    device: Device
    theme: Theme
    place: float | None
    translated: bool
    """Asked in the other language than the document's."""

    def instruct(self, language: Language) -> Language:
        """The language of the tasks about a document in this language."""
        return _BOTH[1 - _BOTH.index(language)] if self.translated else language


def views(folders: Sequence[Folder], percent: int, seed: int, number: int) -> list[View]:
    """What to try, in this order, for the screen with this number; nothing when it is none of a document.

    Each folder has the same share, however many documents are in it.
    """
    dice = Dice("document", seed, number)
    return [_view(folders, dice) for _ in range(TRIES)] if folders and dice.chance(percent) else []


def _view(folders: Sequence[Folder], dice: Dice) -> View:
    document = dice.pick(dice.pick(folders))
    device = PHONE if dice.chance(35) else dice.pick([each for each in DEVICES if each.kind in _KINDS])
    theme: Theme = "dark" if dice.chance(40) else "light"
    place = None if dice.chance(25) else dice.below(1000) / 1000
    return View(document, device, theme, place, dice.chance(15))


def named_language(name: str) -> str | None:
    """The language that a file's name tells, as in `guide.de.html/ch1.html` or `ch02.zh-cn.html`."""
    found = [each for each in map(str.lower, _NAMED_LANGUAGE.findall(name)) if each in _LANGUAGES]
    return found[-1] if found else None


def moves_on(html: bytes) -> bool:
    """Whether a page goes to another one by itself: what is seen a moment later is not what was read off."""
    return bool(_MOVES_ON.search(html))


def language_of(told: str, text: str) -> Language | None:
    """The language of a page from what it tells (`lang`, or its name) and its signs; None when it is neither of ours."""
    signs = [sign for sign in text if sign.isalpha()]
    plain = "".join(signs)
    if len(_OTHER_SIGNS.findall(plain)) > _MOST_OTHER * len(signs):
        return None
    told = told.lower().partition("-")[0].partition("_")[0]
    if told not in ("", *_BOTH):
        return None
    return "zh" if len(_HAN.findall(plain)) > _LEAST_HAN * len(signs) else "en"
