"""Cards, drawn with the fonts of this machine (or Pillow's own)."""

from itertools import pairwise

import numpy as np
import pytest

from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.cards import LETTERS, draw_card


@pytest.mark.parametrize("seed", range(30))
def test_cards_hold_different_texts_side_by_side_and_are_the_same_for_the_same_dice(seed: int) -> None:
    card = draw_card(Dice(seed))
    screen = card.screen
    assert card.picture.size == (screen.width, screen.height)
    assert screen.width % 28 == screen.height % 28 == 0
    assert screen.width * screen.height <= 49 * 28 * 28
    texts = [element.text for element in screen.elements]
    assert len(set(texts)) == len(texts)
    for number, element in enumerate(screen.elements):
        left, top, right, bottom = element.box
        assert 0 <= left < right <= screen.width
        assert 0 <= top < bottom <= screen.height
        for other in screen.elements[:number]:
            assert right <= other.box[0] or other.box[2] <= left or bottom <= other.box[1] or other.box[3] <= top
    again = draw_card(Dice(seed))
    assert again.screen == screen
    assert again.picture.tobytes() == card.picture.tobytes()


def test_cards_are_full_of_letters_that_can_be_seen() -> None:
    """More than three to an image token, and the pixels of every text are not all alike."""
    letters = tokens = 0
    for seed in range(20):
        card = draw_card(Dice("shown", seed))
        letters += len(card.letters)
        tokens += card.screen.width * card.screen.height // 28**2
        for element in card.screen.elements:
            if element.text.strip(".-,'!?:"):
                grey = np.asarray(card.picture.crop(element.box).convert("L"), dtype=int)
                assert grey.max() - grey.min() > 30, element
    assert letters > 3 * tokens


def test_letters_lie_in_their_texts_from_left_to_right() -> None:
    for seed in range(10):
        card = draw_card(Dice("letters", seed))
        for line in card.lines:
            assert len(line.ends) == len(line.text) + 1
            assert all(left <= right for left, right in pairwise(line.ends))
        by_text = {element.text: element.box for element in card.screen.elements}
        assert by_text
        for text, (left, top, right, bottom) in by_text.items():
            inside = {
                LETTERS[letter.number]
                for letter in card.letters
                if left <= letter.x <= right and top <= letter.y <= bottom
            }
            assert inside >= {sign for sign in text if not sign.isspace()}


def test_image_tokens_show_the_words_that_lie_on_them() -> None:
    for seed in range(10):
        card = draw_card(Dice("words", seed))
        across = card.screen.width // 28
        # One token for each text, as its place among all texts.
        texts = list(dict.fromkeys(line.text for line in card.lines))
        by_cell = card.words_by_cell(lambda text, texts=texts: [(texts.index(text), 0, len(text))])  # type: ignore[misc]
        assert by_cell
        for cell, found in by_cell.items():
            assert sum(weight for _, weight in found) == pytest.approx(1)
            left, top = cell % across * 28, cell // across * 28
            near = {
                line.text
                for line in card.lines
                if line.ends[0] < left + 28 and left < line.ends[-1] and top <= line.y < top + 28
            }
            assert {texts[number] for number, _ in found} <= near


def test_cards_without_variety_are_plain() -> None:
    """Dark letters of one font and size on a light ground."""
    for seed in range(10):
        card = draw_card(Dice("plain", seed), variety=0)
        assert card.screen.theme == "light"
        assert {line.size for line in card.lines} == {14}
        assert all(LETTERS[letter.number].isascii() for letter in card.letters)
