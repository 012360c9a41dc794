"""Which page is the N-th of a split: template, device, language, look and text, all from the seed."""

from dataclasses import dataclass

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.pages import document
from autoglm_serving.screens.scene import DEVICES, PHONE, Device, Look, Scene, roll_look
from autoglm_serving.screens.templates import TEMPLATES, Split
from autoglm_serving.screens.words import Language


@dataclass(frozen=True)
class Page:
    """A page to render. `instruct` is the language of its tasks, mostly the page's own."""

    id: str
    template: str
    device: Device
    language: Language
    instruct: Language
    look: Look
    html: str
    session: str | None = None
    step: int | None = None


def page(split: Split, seed: int, number: int) -> Page:
    """The page with this number. Templates take turns, so that every one has its share in any stretch of numbers."""
    dice = Dice("page", split, seed, number)
    templates = TEMPLATES[split]
    name = list(templates)[number % len(templates)]
    template = templates[name]
    devices = [each for each in DEVICES if each.kind in template.kinds]
    device = PHONE if PHONE in devices and dice.chance(35) else dice.pick(devices)
    language: Language = "zh" if dice.chance(50) else "en"
    instruct = language if dice.chance(85) else ("en" if language == "zh" else "zh")
    look = roll_look(dice, device.kind)
    scene = Scene(device, language, look, dice)
    html = document(scene, template.draw(scene), scene.clock())
    return Page(f"{split}-{seed}-{number:06d}", name, device, language, instruct, look, html)


def task_dice(name: str) -> Dice:
    """The chance behind the tasks of a page (its id): apart from the page's own, so that wording can change without pages."""
    return Dice("tasks", name)
