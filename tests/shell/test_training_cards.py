"""Cards, drawn with the fonts of this machine (or Pillow's own)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Element, Screen, TextLine
from autoglm_serving.training.cards import LETTERS, Card, Line, draw_card
from autoglm_serving.training.letters import Letter, Symbol, letters, symbols
from autoglm_serving.training.spelling import (
    PLACE,
    direction_of,
    free_directions,
    letter_directions,
    patch_signs,
    place_codes,
    place_directions,
    spelling,
    start_codes,
    symbol_signs,
    told,
)
from autoglm_serving.training.symbols import symbols_of
from autoglm_serving.training.windows import Window, to_read


def shown(card: Card) -> list[Letter]:
    """The letters on a card."""
    width, height = card.screen.width, card.screen.height
    return letters(card.screen, Window((0, 0, width, height), width, height))


def token_spelling(card: Card) -> torch.Tensor:
    """[image tokens, 256]: the sums of what a card's patches of 7 pixels show."""
    across, along = card.screen.width // 28, card.screen.height // 28
    found = torch.zeros(across * along, 256)
    signs = told(patch_signs(shown(card), [], across, 7))
    spelled = signs.spelled(start_codes(256)) @ letter_directions(256)
    return found.index_add(0, signs.patches // 16, spelled)


def symbol_spelling(name: str) -> torch.Tensor:
    """[256]: what a symbol tells."""
    signs = told({0: symbol_signs(name)})
    return (signs.spelled(start_codes(256)) @ letter_directions(256))[0]


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


def test_letters_places_and_marks_are_told_by_directions_at_right_angles() -> None:
    parts = [place_directions(256), letter_directions(256), free_directions(256)]
    assert [len(part) for part in parts] == [64, 64, 128]
    whole = torch.cat(parts)
    assert torch.allclose(whole @ whole.T, torch.eye(256), atol=1e-5)
    spelled = spelling("Bluetooth 蓝牙 7", 256)
    assert (torch.cat([parts[0], parts[2]]) @ spelled).abs().max() < 1e-5
    assert spelled.norm() > 2


def test_small_letters_and_digits_are_told_apart_as_well_as_can_be_and_other_signs_roughly() -> None:
    signs = "abcdefghijklmnopqrstuvwxyz0123456789设置蓝牙"
    codes = torch.stack([direction_of(sign, 256) for sign in signs])
    likeness = codes @ codes.T
    assert torch.allclose(likeness.diagonal(), torch.ones(len(signs)), atol=1e-5)
    assert torch.allclose(likeness[:36, :36], torch.eye(36), atol=1e-5)
    assert (likeness - torch.eye(len(signs))).abs().max() < 0.6
    narrow = direction_of("a", 96)
    assert narrow.norm() == pytest.approx(1, abs=1e-5), "where a model leaves fewer directions, letters share those"
    assert (place_directions(96) @ narrow).abs().max() < 1e-5


def icon_screen() -> Screen:
    """Two icons, of which the second one's name is written under it, and a key whose name is no word."""
    elements = (
        Element("a", "icon", "Camera", (100, 100, 180, 180)),
        Element("b", "icon", "Music", (300, 100, 380, 180)),
        Element("c", "key", "Backspace", (500, 100, 580, 180)),
        Element("d", "button", "Gallery", (700, 100, 780, 180)),
    )
    line = TextLine("music", (310.0, 320.0, 330.0, 340.0, 350.0, 360.0), 200.0)
    return Screen("s", "", 1080, 2400, "phone", "t", "light", "en", elements, (), texts=(line,))


def test_symbols_are_icons_and_keys_whose_names_are_not_written() -> None:
    shown = icon_screen()
    found = symbols(symbols_of(shown), Window((50, 50, 610, 610), 280, 280))
    assert [(each.name, each.x, each.y) for each in found] == [("Camera", 45.0, 45.0), ("Backspace", 245.0, 45.0)]
    assert symbols(symbols_of(shown), Window((150, 50, 450, 350), 280, 280)) == []
    assert symbols(symbols_of(replace(shown, texts=())), Window((50, 50, 610, 610), 280, 280)) == [], (
        "nothing is known to be unwritten"
    )


def test_a_symbol_tells_its_name_in_both_languages() -> None:
    def alike(name: str, text: str) -> float:
        return float(torch.cosine_similarity(symbol_spelling(name), spelling(text, 256), 0))

    assert alike("Camera", "camera") > 0.5
    assert alike("Camera", "相机") > 0.5
    assert torch.allclose(symbol_spelling("Camera"), symbol_spelling("相机"), atol=1e-6)
    assert alike("Backspace", "Backspace") == pytest.approx(1, abs=1e-5)
    only = patch_signs([], [Symbol("Camera", 45.0, 10.0)], 10, 7)
    assert list(only) == [16 + 4 + 2], "the second image token, its second row of patches, its third column"
    assert only[22] == symbol_signs("Camera")


def test_windows_to_read_are_small_or_as_full_as_a_whole_screen_and_often_around_symbols() -> None:
    shown = icon_screen()
    found = [to_read(shown, symbols_of(shown), 448, Dice("read", number)) for number in range(400)]
    grids = [(each.width // 28, each.height // 28) for each in found]
    large = [grid for grid in grids if grid[0] >= 9 and grid[1] >= 9]
    small = [grid for grid in grids if grid[0] <= 9 and grid[1] <= 7]
    assert len(large) + len(small) == 400
    assert 80 < len(large) < 160
    assert max(across * along for across, along in grids) > 150
    for each in found:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= 1080
        assert 0 <= top < bottom <= 2400
        assert each.width / (right - left) == pytest.approx(448 / 1080, rel=0.01)
        assert each.height / (bottom - top) == pytest.approx(448 / 1080, rel=0.01)
    far = replace(shown, elements=(*shown.elements[:1], *(replace(shown.elements[3], box=(0, 2300, 50, 2350)),) * 9))
    around = [
        to_read(far, symbols_of(far), 448, Dice("far", number)).holds((139, 139, 141, 141)) for number in range(400)
    ]
    assert 130 < sum(around) < 230, "35 % for the only symbol, and 65 % among ten elements"


def test_a_screen_smaller_than_a_window_to_read_is_shown_as_far_as_it_goes() -> None:
    shown = replace(icon_screen(), width=224, height=448, elements=())
    for number in range(20):
        window = to_read(shown, symbols_of(shown), 112, Dice("small", number))
        assert window.width <= 112
        assert window.height <= 224
        assert window.box[2] <= 224
        assert window.box[3] <= 448


def test_letters_of_a_window_are_where_the_picture_shows_them() -> None:
    line = TextLine("A bé", (100.0, 120.0, 130.0, 150.0, 170.0), 205.0)
    screen = Screen("s", "", 1080, 2400, "phone", "t", "light", "en", (), (), texts=(line,))
    half = letters(screen, Window((90, 100, 650, 660), 280, 280))
    assert [(each.sign, each.x, each.y) for each in half] == [("A", 10.0, 52.5), ("b", 25.0, 52.5), ("é", 35.0, 52.5)]
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
