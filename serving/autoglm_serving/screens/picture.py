"""Draws a screen with its boxes and tasks, to look at."""

from pathlib import Path

from PIL import Image, ImageDraw

from autoglm_serving.screens.actions import Tap, read_reply
from autoglm_serving.screens.records import Screen, point_in_pixels

_COLOURS = {"field": "#0077ff", "toggle": "#00a040", "icon": "#e0007f", "button": "#e06000"}
_OTHER = "#d00000"


def draw(screen: Screen, folder: Path, width: int) -> Image.Image:
    """The screen's picture, `width` pixels wide: a box around each element, a dot where each right tap goes."""
    image = Image.open(folder / screen.image).convert("RGB")
    scale = width / image.width
    image = image.resize((width, round(image.height * scale)), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    for each in screen.elements:
        pen.rectangle([side * scale for side in each.box], outline=_COLOURS.get(each.role, _OTHER), width=2)
    for task in screen.tasks:
        action = read_reply(task.answer)
        if isinstance(action, Tap):
            x, y = (value * scale for value in point_in_pixels(action.point, screen.width, screen.height))
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_OTHER)
    return image
