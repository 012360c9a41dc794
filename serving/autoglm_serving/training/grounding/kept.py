"""Pictures that are kept as what the tower makes of them: computed once, learned from a hundred times."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from autoglm_serving.model.load import ImageSize, ModelImages
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Screen
from autoglm_serving.training import windows
from autoglm_serving.training.cards import draw_card
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.grounding.recipe import Views
from autoglm_serving.training.letters import letters, symbols
from autoglm_serving.training.network import Student
from autoglm_serving.training.signs import number_of
from autoglm_serving.training.sorting import Patches, after_last_mlp, all_patches, entering_last_mlp
from autoglm_serving.training.spelling import (
    Told,
    middles,
    patch_of,
    patch_signs,
    place_codes,
    place_directions,
    told,
)
from autoglm_serving.training.symbols import symbols_of
from autoglm_serving.training.windows import Window
from autoglm_serving.vision.sizing import TOKEN_SIDE

_ANY_SIZE = ImageSize(1, 1 << 40)


@dataclass(frozen=True)
class View:
    """One picture: what it shows, and what patches [image tokens, patches of one, width] of it are to the tower.

    At first `patches` enter the tower's last MLP; `told` afterwards, they are what the merger gets.
    """

    screen: Screen
    window: Window
    patches: torch.Tensor
    signs: Told
    spots: torch.Tensor
    """[image tokens, 2]: where the letters and symbols in each have their middle, 0 to 1; of empty ones its own middle."""
    full: torch.Tensor
    """[image tokens]: whether it shows any."""

    @property
    def grid(self) -> torch.Tensor:
        """[1, 3]: one picture, rows and columns of patches."""
        side = TOKEN_SIDE // round(self.patches.shape[1] ** 0.5)
        return torch.tensor([[1, self.window.height // side, self.window.width // side]])


Shown = Callable[[int, int], None]
"""Told how many are done, and of how many."""


@torch.no_grad()
def keep(student: Student, images: ModelImages, screens: Screens, views: Views, seed: int, shown: Shown) -> list[View]:
    """So many pictures of screens that know their texts, and cards; screens in turn, in an order that the seed gives."""
    known = [screen for screen in screens.items if screen.texts]
    order = Dice(seed, "order").some(known, len(known))
    found = []
    for number in range(views.count):
        dice = Dice(seed, "view", number)
        if dice.chance(views.cards_percent):
            card = draw_card(dice)
            screen, picture = card.screen, card.picture
            window = Window((0, 0, screen.width, screen.height), screen.width, screen.height)
        else:
            screen = order[number % len(order)]
            window = _window(screen, views, dice)
            picture = screens.picture(screen, window)
        pixels, _ = images.pixels(picture, _ANY_SIZE)
        found.append(_view(student, screen, window, pixels))
        shown(number + 1, views.count)
    return found


def _window(screen: Screen, views: Views, dice: Dice) -> Window:
    if dice.chance(views.whole_percent):
        return windows.whole(screen, dice.pick(views.whole_sides))
    least, most = (side // TOKEN_SIDE for side in views.part_sides)
    return windows.part(screen, TOKEN_SIDE * dice.between(least, most), dice)


def _view(student: Student, screen: Screen, window: Window, pixels: torch.Tensor) -> View:
    network = student.recipe.network
    side, per_token, across = network.patch_side, network.patches_per_token, window.width // TOKEN_SIDE
    grid = torch.tensor([[1, window.height // side, window.width // side]])
    entering = entering_last_mlp(student, pixels, grid)
    found, icons = letters(screen, window), symbols(symbols_of(screen), window)
    signs = patch_signs(found, icons, across, side)
    weighed = [(each, 1.0) for each in found if number_of(each.sign) is not None] + [(each, _SYMBOL) for each in icons]
    spots = torch.zeros(window.tokens, 3)
    for each, weight in weighed:
        token = patch_of(each.x, each.y, across, side) // per_token
        spots[token] += weight * torch.tensor([each.x / window.width, each.y / window.height, 1.0])
    full = spots[:, 2] > 0
    return View(
        screen,
        window,
        entering.view(-1, per_token, entering.shape[-1]).half(),
        told(signs),
        torch.where(
            full.unsqueeze(1), spots[:, :2] / spots[:, 2:].clamp(min=1), middles(across, window.height // TOKEN_SIDE)
        ),
        full,
    )


def to_sort(view: View, seed: int, width: int) -> Patches:
    """A view's patches that show something, and some that show nothing, as the sorting learns from them."""
    codes = place_codes(view.window.width // TOKEN_SIDE, view.window.height // TOKEN_SIDE, width)
    everything = all_patches(view.patches.flatten(0, 1).float(), view.signs, codes @ place_directions(width).T)
    drawn = torch.rand(len(everything.entering), generator=torch.Generator().manual_seed(seed))
    return everything.of(((everything.counts > 0) | (drawn < _EMPTY_KEPT)).nonzero().flatten())


@torch.no_grad()
def as_told(student: Student, view: View) -> View:
    """The view with what the merger gets, now that the last MLP has learned."""
    return replace(view, patches=after_last_mlp(student, view.patches.float()).half())


_SYMBOL = 2.0
"""How much a symbol counts beside a letter where an image token shows both."""

_EMPTY_KEPT = 0.1
"""Of the patches that show nothing."""
