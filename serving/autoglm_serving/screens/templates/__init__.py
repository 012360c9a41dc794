"""Which template belongs to which split, and which kinds of screen it is made for. No template is in two splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.screens.records import Kind
from autoglm_serving.screens.scene import Scene
from autoglm_serving.screens.templates import forms, large, lists, unseen, visual

Split = Literal["train", "test"]

HAND: tuple[Kind, ...] = ("phone", "tablet")
DESK: tuple[Kind, ...] = ("phone", "tablet", "desktop")
ALL: tuple[Kind, ...] = ("phone", "tablet", "desktop", "kiosk")
LARGE: tuple[Kind, ...] = ("tablet", "desktop", "kiosk")


@dataclass(frozen=True)
class Template:
    """A page's function (the body's HTML for a scene) and the kinds of screen it suits."""

    draw: Callable[[Scene], str]
    kinds: tuple[Kind, ...]


TEMPLATES: Mapping[Split, Mapping[str, Template]] = {
    "train": {
        "settings": Template(lists.settings, DESK),
        "mail": Template(lists.mail, DESK),
        "alarms": Template(lists.alarms, HAND),
        "news": Template(lists.news, ALL),
        "chats": Template(lists.chats, HAND),
        "preferences": Template(lists.preferences, DESK),
        "downloads": Template(lists.downloads, DESK),
        "form": Template(forms.form, ALL),
        "login": Template(forms.login, ALL),
        "transfer": Template(forms.transfer, ("phone", "tablet", "kiosk")),
        "keyboard": Template(forms.keyboard, HAND),
        "confirm": Template(forms.confirm, ALL),
        "conversation": Template(forms.conversation, DESK),
        "launcher": Template(visual.launcher, HAND),
        "street_map": Template(visual.street_map, ALL),
        "shop": Template(visual.shop, DESK),
        "calendar": Template(visual.calendar, DESK),
        "player": Template(visual.player, HAND),
        "share_sheet": Template(visual.share_sheet, HAND),
        "tools": Template(visual.tools, DESK),
        "files": Template(large.files, DESK),
        "dashboard": Template(large.dashboard, ("tablet", "desktop", "phone")),
        "order": Template(large.order, LARGE),
    },
    "test": {
        "quick_panel": Template(unseen.quick_panel, HAND),
        "results": Template(unseen.results, DESK),
        "booking": Template(unseen.booking, ALL),
        "dialer": Template(unseen.dialer, HAND),
        "albums": Template(unseen.albums, DESK),
        "basket": Template(unseen.basket, ALL),
        "counter": Template(unseen.counter, ("kiosk", "tablet")),
        "board": Template(unseen.board, DESK),
    },
}
