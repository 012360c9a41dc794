"""Cards, drawn with the fonts of this machine (or Pillow's own)."""

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
    assert screen.width * screen.height <= 80 * 28 * 28
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


def test_cards_show_what_they_say() -> None:
    """Every field has letters: its pixels are not all alike."""
    for seed in range(20):
        card = draw_card(Dice("shown", seed))
        for element in card.screen.elements:
            grey = np.asarray(card.picture.crop(element.box).convert("L"), dtype=int)
            assert grey.max() - grey.min() > 40, element


def test_letters_lie_on_their_texts_and_on_the_image_tokens_that_show_them() -> None:
    for seed in range(10):
        card = draw_card(Dice("letters", seed))
        shown = sorted(LETTERS[letter.number] for letter in card.letters)
        assert shown == sorted(sign for element in card.screen.elements for sign in element.text if not sign.isspace())
        across = card.screen.width // 28
        by_cell = card.letters_by_cell()
        assert by_cell
        for cell, found in by_cell.items():
            assert sum(weight for _, weight in found) == pytest.approx(1)
            left, top = cell % across * 28, cell // across * 28
            near = {
                letter.number
                for letter in card.letters
                if letter.box[0] < left + 28
                and left < letter.box[2]
                and letter.box[1] < top + 28
                and top < letter.box[3]
            }
            assert {number for number, _ in found} <= near


def test_cards_without_variety_are_plain() -> None:
    """Dark letters of one font and size on a light ground."""
    for seed in range(10):
        card = draw_card(Dice("plain", seed), variety=0)
        assert card.screen.theme == "light"
        assert len({round(letter.box[3] - letter.box[1], 3) for letter in card.letters}) == 1
        assert all(LETTERS[letter.number].isascii() for letter in card.letters)
