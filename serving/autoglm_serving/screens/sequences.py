"""Sessions: one application, step after step, where each screen differs from the last by what one tap or one minute does.

Their pages are for measuring what changes between screens (regions of interest, caches). None is a training or test page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from autoglm_serving.screens import words
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.pages import document
from autoglm_serving.screens.plan import Page
from autoglm_serving.screens.scene import DEVICES, Device, Scene, button, icon, part, roll_look, toggle
from autoglm_serving.screens.templates.pieces import avatar, swatch
from autoglm_serving.screens.words import Language

STEPS = 8
"""Screens of one session."""

_ROW = 64

Change = Literal["start", "scroll", "toggle", "open", "close", "minute", "nothing"]


@dataclass(frozen=True)
class State:
    """Where a session stands. `scrolled` counts rows, `minute` minutes of the day; `change` is what led here."""

    change: Change
    scrolled: int
    on: frozenset[int]
    dialog: bool
    minute: int


def states(dice: Dice, rows: int, visible: int) -> list[State]:
    """The steps of one session. Opened dialogs are closed before anything else happens."""
    state = State(
        "start", 0, frozenset(row for row in range(rows) if dice.chance(30)), dialog=False, minute=dice.below(1400)
    )
    found = [state]
    while len(found) < STEPS:
        state = _next(state, dice, rows, visible)
        found.append(state)
    return found


def _next(state: State, dice: Dice, rows: int, visible: int) -> State:
    if state.dialog:
        return replace(state, change="close", dialog=False)
    change: Change = dice.pick(("scroll", "scroll", "toggle", "toggle", "open", "minute", "nothing"))
    match change:
        case "scroll":
            most = max(rows - visible, 1)
            return replace(
                state, change=change, scrolled=(state.scrolled + dice.between(1, max(most // 2, 1))) % (most + 1)
            )
        case "toggle":
            row = state.scrolled + dice.below(visible)
            return replace(state, change=change, on=state.on ^ {min(row, rows - 1)})
        case "open":
            return replace(state, change=change, dialog=True)
        case "minute":
            return replace(state, change=change, minute=state.minute + 1)
        case _:
            return replace(state, change="nothing")


def session(seed: int, number: int) -> list[Page]:
    """The pages of one session. Each is drawn from the same dice, so that only the state makes a difference."""
    name = list(_BODIES)[number % len(_BODIES)]
    devices = [each for each in DEVICES if each.kind in ("phone", "tablet")]
    device = Dice("session device", seed, number).pick(devices)
    rows, visible = 24, max((device.height - 220) // _ROW, 1)
    steps = states(Dice("session states", seed, number), rows, visible)
    return [_page(name, seed, number, step, state, device) for step, state in enumerate(steps)]


def _page(name: str, seed: int, number: int, step: int, state: State, device: Device) -> Page:
    dice = Dice("session page", seed, number)
    language: Language = "zh" if dice.chance(50) else "en"
    look = roll_look(dice, device.kind)
    scene = Scene(device, language, look, dice)
    body = _BODIES[name](scene, state)
    ended = _dialog(scene) if state.dialog else ""
    clock = f"{state.minute // 60 % 24:02d}:{state.minute % 60:02d}"
    label = f"session-{seed}-{number:05d}"
    html = document(scene, body + ended, clock)
    return Page(f"{label}-{step}", name, device, language, language, look, html, label, step)


def _list(bar: str, rows: list[str], state: State) -> str:
    moved = f'<div style="transform:translateY(-{state.scrolled * _ROW}px)">{"".join(rows)}</div>'
    return f'<div class="bar solid">{bar}</div><div class="main"><div class="scroll">{moved}</div></div>'


def _switches(scene: Scene, state: State) -> str:
    """Names with switches."""
    style = f"height:{_ROW}px"
    rows = []
    for number, name in enumerate(scene.words(words.SETTINGS, 24)):
        lead = f'<div class="lead" style="background:hsl({scene.dice.below(360)} 45% 45%)">{icon_svg("gear")}</div>'
        inner = f'{lead}<div class="g">{escape(name)}</div>{toggle(name, number in state.on)}'
        rows.append(f'<div class="row" style="{style}">{inner}</div>')
    title = f'<div class="t">{scene.say("Control centre", "控制中心")}</div>'
    return _list(icon(scene, "back") + title + icon(scene, "search"), rows, state)


def _feed(scene: Scene, state: State) -> str:
    """Posts with pictures; a tap likes one."""
    rows = []
    for number, title in enumerate(scene.words(words.HEADLINES + words.SUBJECTS, 24)):
        thumb = swatch(scene, "width:56px;height:48px;border-radius:var(--r)")
        heart = f'<span style="color:{"#e53935" if number in state.on else "var(--dim)"}">{icon_svg("heart")}</span>'
        inner = f'{thumb}<div class="g">{escape(title)}</div>{heart}'
        rows.append(part("row", title, inner, css="row", style=f"height:{_ROW}px"))
    title = f'<div class="t">{scene.say("Community", "社区")}</div>'
    return _list(icon(scene, "menu") + title + icon(scene, "bell"), rows, state)


def _people(scene: Scene, state: State) -> str:
    """Contacts; a tap selects one."""
    rows = []
    for number, name in enumerate(scene.words(words.PEOPLE, 24)):
        look = "background:var(--soft)" if number in state.on else ""
        inner = f'{avatar(scene, name)}<div class="g">{escape(name)}</div>' + (
            icon_svg("check") if number in state.on else ""
        )
        rows.append(part("row", name, inner, css="row", style=f"height:{_ROW}px;{look}"))
    title = f'<div class="t">{scene.say("Invite people", "邀请联系人")}</div>'
    return _list(icon(scene, "close") + title + icon(scene, "check"), rows, state)


def _dialog(scene: Scene) -> str:
    yes, no = scene.words(words.ACTIONS, 2)
    ends = f'<div class="flow end">{button(no, css="button plain")}{button(yes)}</div>'
    return (
        f'<div class="shade"><div class="dialog"><div class="b">{escape(scene.word(words.QUESTIONS))}'
        f"</div>{ends}</div></div>"
    )


_BODIES: Mapping[str, Callable[[Scene, State], str]] = {
    "session_switches": _switches,
    "session_feed": _feed,
    "session_people": _people,
}
