"""Cards, drawn with the fonts of this machine (or Pillow's own)."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Screen, TextLine
from autoglm_serving.training.cards import LETTERS, Card, Line, draw_card
from autoglm_serving.training.letters import Letter, letters
from autoglm_serving.training.spelling import PLACE, patch_spelling, place_codes, place_directions, spelling
from autoglm_serving.training.windows import Window


def shown(card: Card) -> list[Letter]:
    """The letters on a card."""
    width, height = card.screen.width, card.screen.height
    return letters(card.screen, Window((0, 0, width, height), width, height))


def token_spelling(card: Card) -> torch.Tensor:
    """[image tokens, 256]: the sums of what a card's patches of 7 pixels show."""
    across, along = card.screen.width // 28, card.screen.height // 28
    found = torch.zeros(across * along, 256)
    for patch, spelled in patch_spelling(shown(card), across, 7, 256).items():
        found[patch // 16] += spelled
    return found


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
    count = tokens = 0
    for seed in range(20):
        card = draw_card(Dice("shown", seed))
        count += sum(letter.number is not None for letter in shown(card))
        tokens += card.screen.width * card.screen.height // 28**2
        for element in card.screen.elements:
            if element.text.strip(".-,'!?:"):
                grey = np.asarray(card.picture.crop(element.box).convert("L"), dtype=int)
                assert grey.max() - grey.min() > 30, element
    assert count > 3 * tokens


def test_letters_lie_in_their_texts_from_left_to_right() -> None:
    for seed in range(10):
        card = draw_card(Dice("letters", seed))
        for line in card.screen.texts:
            assert len(line.ends) == len(line.text) + 1
            assert all(left <= right for left, right in pairwise(line.ends))
        by_text = {element.text: element.box for element in card.screen.elements}
        assert by_text
        for text, (left, top, right, bottom) in by_text.items():
            inside = {letter.sign for letter in shown(card) if left <= letter.x <= right and top <= letter.y <= bottom}
            assert inside >= {sign for sign in text if not sign.isspace()}


def test_image_tokens_are_spelled_as_the_texts_that_they_show() -> None:
    """What a text is likest to is an image token that shows a part of it: in three of four cases, some texts share words."""
    found = asked = 0
    for seed in range(10):
        card = draw_card(Dice("words", seed))
        across, along = card.screen.width // 28, card.screen.height // 28
        spelled = token_spelling(card)
        assert spelled.shape == (across * along, 256)
        alike = spelled / (spelled.norm(dim=1, keepdim=True) + 1e-6)
        for element in card.screen.elements:
            if len(element.text) > 2:
                best = int((alike @ spelling(element.text, 256)).argmax())
                left, top = best % across * 28, best // across * 28
                middle = (element.box[1] + element.box[3]) / 2
                asked += 1
                found += left < element.box[2] and element.box[0] < left + 28 and top <= middle < top + 28
    assert asked > 50
    assert found > 0.75 * asked


def test_texts_that_share_letters_are_alike() -> None:
    def likeness(one: str, other: str) -> float:
        return float(torch.cosine_similarity(spelling(one, 256), spelling(other, 256), 0))

    assert likeness("Wi-Fi", "WI-FI") == pytest.approx(1)
    assert likeness("Bluetooth", "Blue tooth") > 0.9
    assert likeness("Bluetooth", "Bluetoofh") > 0.6
    assert abs(likeness("Bluetooth", "Gray")) < 0.25


def test_spellings_say_nothing_where_codes_of_places_do() -> None:
    assert (place_directions(256) @ spelling("Bluetooth 蓝牙", 256)).abs().max() < 1e-5


def test_letters_of_a_window_are_where_the_picture_shows_them() -> None:
    line = TextLine("A bé", (100.0, 120.0, 130.0, 150.0, 170.0), 205.0)
    screen = Screen("s", "", 1080, 2400, "phone", "t", "light", "en", (), (), texts=(line,))
    half = letters(screen, Window((90, 100, 650, 660), 280, 280))
    assert [(each.sign, each.after, each.x, each.y) for each in half] == [
        ("A", "", 10.0, 52.5),
        ("b", "é", 25.0, 52.5),
        ("é", "", 35.0, 52.5),
    ]
    assert half[0].number == LETTERS.index("A")
    assert half[2].number is None
    assert [each.sign for each in letters(screen, Window((125, 100, 405, 380), 280, 280))] == ["b", "é"]
    assert letters(screen, Window((90, 206, 370, 486), 280, 280)) == []


def test_codes_tell_places_apart() -> None:
    codes = place_codes(12, 26, 256)
    assert codes.shape == (12 * 26, 256)
    assert torch.allclose(codes.norm(dim=1), torch.tensor(PLACE))
    nearest = torch.cdist(codes, codes).fill_diagonal_(9).argmin(1)
    rows, columns = torch.arange(12 * 26) // 12, torch.arange(12 * 26) % 12
    steps = (rows - rows[nearest]).abs() + (columns - columns[nearest]).abs()
    assert steps.max() == 1, "the code that is likest to a place's is that of a neighbour"


def test_cards_without_variety_are_plain() -> None:
    """Dark letters of one font and size on a light ground."""
    for seed in range(10):
        card = draw_card(Dice("plain", seed), variety=0)
        assert card.screen.theme == "light"
        assert {line.size for line in card.screen.texts if isinstance(line, Line)} == {14}
        assert all(letter.sign.isascii() for letter in shown(card))
