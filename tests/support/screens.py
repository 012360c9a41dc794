"""Small screens drawn by Pillow: for tests that need a data set and no browser."""

from pathlib import Path

from PIL import Image, ImageDraw

from autoglm_serving.screens.actions import finish, swipe, tap
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import Element, Kind, Screen, Task, relative_point, write_line

COLOURS = {"red": (210, 40, 40), "green": (30, 150, 60), "blue": (40, 80, 220), "black": (10, 10, 10)}
NAMES = ("Wi-Fi", "Camera", "蓝牙", "Maps", "Save", "Cancel", "音乐", "Mail")


def screen(number: int, width: int = 224, height: int = 448, kind: Kind = "phone") -> Screen:
    """A screen with four coloured buttons in four rows, each with a name of its own; the same for the same number."""
    dice = Dice("screen", number)
    rows = height // 4
    elements = []
    for row, (name, _) in enumerate(zip(dice.some(NAMES, 4), COLOURS, strict=True)):
        left = dice.between(0, width // 2)
        top = row * rows + dice.between(0, rows // 2)
        elements.append(Element(f"e{row}", "button", name, (left, top, left + width // 2, top + rows // 2)))
    middles = [tap(relative_point(each.box, width, height)) for each in elements]
    tasks = [Task(f"t{row}", "tap", f"Tap {each.text}", middles[row], each.id) for row, each in enumerate(elements)]
    tasks.append(Task("t4", "finish", "Which is the first?", finish(elements[0].text)))
    tasks.append(Task("t5", "scroll", "Scroll down", swipe((500, 800), (500, 200))))
    return Screen(
        id=f"s{number}",
        image=f"images/s{number}.png",
        width=width,
        height=height,
        kind=kind,
        template="drawn",
        theme="light",
        language="en",
        elements=tuple(elements),
        tasks=tuple(tasks),
    )


def draw(shown: Screen) -> Image.Image:
    """The screen's picture: what tells its buttons apart is colour."""
    picture = Image.new("RGB", (shown.width, shown.height), (240, 240, 240))
    pencil = ImageDraw.Draw(picture)
    for element, colour in zip(shown.elements, COLOURS.values(), strict=True):
        pencil.rectangle(element.box, fill=colour)
    return picture


def write_screens(folder: Path, count: int, width: int = 224, height: int = 448) -> tuple[Screen, ...]:
    """A folder of screens as `autoglm train tiny` reads it."""
    (folder / "images").mkdir(parents=True)
    kinds: tuple[Kind, ...] = ("phone", "tablet")
    made = tuple(screen(number, width, height, kinds[number % 2]) for number in range(count))
    for each in made:
        draw(each).save(folder / each.image)
    (folder / "manifest.jsonl").write_text("".join(map(write_line, made)), encoding="utf-8")
    return made
