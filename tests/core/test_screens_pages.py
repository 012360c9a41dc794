"""Pages depend on the seed alone, are whole HTML, and no page or template is in two splits."""

import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_serving.screens import words
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.pages import document
from autoglm_serving.screens.plan import Page, page
from autoglm_serving.screens.scene import DEVICES, Device, Scene, part, roll_look
from autoglm_serving.screens.sequences import STEPS, session, states
from autoglm_serving.screens.templates import TEMPLATES, Split, Template
from autoglm_serving.screens.words import Language

SPLITS: tuple[Split, ...] = ("train", "test")
VOID = {"meta", "path", "rect", "ellipse", "br"}
EVERY = [
    (template, device, language)
    for split in SPLITS
    for template in TEMPLATES[split].values()
    for device in DEVICES
    if device.kind in template.kinds
    for language in ("en", "zh")
]


class Reader(HTMLParser):
    """Finds unclosed tags and collects the elements that can be tapped."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.parts: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if "data-role" in values:
            self.parts.append(values)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open in ([], ["p"])
    return reader


def drawn(template: Template, device: Device, language: Language, seed: int) -> str:
    dice = Dice("test", seed)
    scene = Scene(device, language, roll_look(dice, device.kind), dice)
    return document(scene, template.draw(scene), "12:34")


@pytest.mark.parametrize("seed", range(3))
def test_every_template_makes_whole_html_with_named_parts_on_every_screen_it_is_made_for(seed: int) -> None:
    for template, device, language in EVERY:
        parts = read(drawn(template, device, language, seed)).parts  # type: ignore[arg-type]
        assert len(parts) >= 2
        assert all(each["data-text"] for each in parts)


def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing() -> None:
    for split, number in itertools.product(SPLITS, range(60)):
        assert not re.search(r"<script|<link |@import|url\(|https?:|src=", page(split, 0, number).html)


@given(seed=st.integers(0, 10_000), number=st.integers(0, 10_000), split=st.sampled_from(SPLITS))
@settings(max_examples=40, deadline=None)
def test_a_page_depends_on_its_seed_and_number_alone(seed: int, number: int, split: Split) -> None:
    one = page(split, seed, number)
    assert one == page(split, seed, number)
    assert one.html != page(split, seed + 1, number).html
    assert one.html != page(split, seed, number + 1).html


def test_dice_fall_the_same_with_every_interpreter() -> None:
    # A change of these numbers changes every set of screens: the committed one must then be made anew.
    dice = Dice("page", "train", 0, 0)
    assert [dice.below(1000) for _ in range(4)] == [999, 452, 923, 504]


def test_no_template_is_in_two_splits_and_there_are_enough_of_them() -> None:
    train, test = TEMPLATES["train"], TEMPLATES["test"]
    assert not train.keys() & test.keys()
    assert not {each.draw for each in train.values()} & {each.draw for each in test.values()}
    assert len(train) >= 14
    assert len(test) >= 6


def test_no_page_is_in_two_splits_or_twice_in_one() -> None:
    pages: list[Page] = [page(split, 0, number) for split in SPLITS for number in range(300)]
    pages += [session(0, number)[0] for number in range(30)]
    assert len({each.html for each in pages}) == len(pages)
    assert len({each.id for each in pages}) == len(pages)


def test_every_template_kind_theme_and_language_has_its_share() -> None:
    for split in SPLITS:
        pages = [page(split, 0, number) for number in range(220)]
        assert {each.template for each in pages} == set(TEMPLATES[split])
        assert {each.device.kind for each in pages} == {"phone", "tablet", "desktop", "kiosk"}
        assert {(each.look.theme, each.language) for each in pages} == set(
            itertools.product(("light", "dark"), ("en", "zh"))
        )
        phones = [each for each in pages if each.device.pixels == (1080, 2400)]
        assert len(phones) > len(pages) / 4


def test_markup_in_a_text_is_shown_and_not_obeyed() -> None:
    shown = part("row", '"><b>bold</b>')
    assert read(shown).parts[0]["data-text"] == '"><b>bold</b>'
    assert "<b>" not in shown


def test_every_word_is_said_in_both_languages_and_names_one_thing_in_its_topic() -> None:
    for topic in words.ALL:
        for language in (0, 1):
            said = [pair[language] for pair in topic]
            assert all(said)
            assert len(set(said)) == len(said)
        # Quotes would end the text of a reply early.
        assert not any('"' in text for pair in topic for text in pair)


def test_the_screens_of_a_session_are_one_application_and_differ_by_their_state_alone() -> None:
    for number in range(12):
        pages = session(0, number)
        assert [each.step for each in pages] == list(range(STEPS))
        assert len({(each.session, each.template, each.device, each.look, each.language) for each in pages}) == 1
        assert len({each.id for each in pages}) == STEPS
        assert len({each.html for each in pages}) > 1


@given(seed=st.integers(0, 10_000), visible=st.integers(1, 24))
def test_the_states_of_a_session_stay_within_its_list_and_dialogs_are_closed_first(seed: int, visible: int) -> None:
    found = states(Dice(seed), 24, visible)
    assert len(found) == STEPS
    for before, after in itertools.pairwise(found):
        assert 0 <= after.scrolled <= max(24 - visible, 1)
        assert after.on <= set(range(24))
        if before.dialog:
            assert after.change == "close"
            assert not after.dialog
        if after.change == "toggle":
            assert len(before.on ^ after.on) == 1
        if after.change == "nothing":
            assert (before.scrolled, before.on, before.dialog, before.minute) == (
                after.scrolled,
                after.on,
                after.dialog,
                after.minute,
            )


@given(seed=st.integers(), bound=st.integers(1, 1000))
def test_dice_stay_within_their_bounds(seed: int, bound: int) -> None:
    dice = Dice(seed)
    assert 0 <= dice.below(bound) < bound
    assert 3 <= dice.between(3, 3 + bound) <= 3 + bound
    drawn = dice.some(range(bound), 5)
    assert len(set(drawn)) == len(drawn) == min(5, bound)
    assert not dice.chance(0)
    assert dice.chance(100)
