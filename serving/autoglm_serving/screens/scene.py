"""What a template is given: a device, a language, a look and dice; and the small pieces of HTML that templates share."""

from dataclasses import dataclass
from html import escape
from typing import Literal

from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.icons import ICONS, icon_svg
from autoglm_serving.screens.records import Kind
from autoglm_serving.screens.words import Language, Topic

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Device:
    """A screen size in CSS pixels, and how many pixels of the picture one of them is."""

    kind: Kind
    width: int
    height: int
    scale: float

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return round(self.width * self.scale), round(self.height * self.scale)


PHONE = Device("phone", 360, 800, 3)
"""1080x2400, the size of most phones that AutoGLM drives."""

DEVICES: tuple[Device, ...] = (
    PHONE,
    Device("phone", 360, 780, 3),
    Device("phone", 393, 852, 3),
    Device("phone", 360, 800, 2),
    Device("phone", 360, 640, 3),
    Device("phone", 432, 960, 2.5),
    Device("tablet", 800, 1280, 1.5),
    Device("tablet", 768, 1024, 2),
    Device("tablet", 1280, 800, 1.5),
    Device("desktop", 1920, 1080, 1),
    Device("desktop", 1536, 864, 1.25),
    Device("desktop", 1366, 768, 1),
    Device("desktop", 1440, 900, 1),
    Device("kiosk", 720, 1280, 1.5),
    Device("kiosk", 1280, 1024, 1),
    Device("kiosk", 540, 960, 2),
)


@dataclass(frozen=True)
class Look:
    """How a page looks: colours, corners, type."""

    theme: Theme
    accent: str
    radius: int
    font: str
    size: float
    gap: int


ACCENTS = ("#1a73e8", "#0a7d4f", "#c2185b", "#d84315", "#5e35b1", "#00838f", "#3949ab", "#b8860b", "#455a64", "#e53935")
FONTS = ("DejaVu Sans", "Liberation Sans", "Liberation Sans Narrow", "DejaVu Sans Condensed", "Liberation Serif")
CHINESE_FONT = "WenQuanYi Zen Hei"


TYPE_SCALE: dict[Kind, float] = {"phone": 1.0, "tablet": 1.2, "desktop": 1.1, "kiosk": 1.45}
"""People stand farther from larger screens."""


def roll_look(dice: Dice, kind: Kind) -> Look:
    """A look by chance; two in five are dark, and serif type is rare."""
    theme: Theme = "dark" if dice.chance(40) else "light"
    font = FONTS[4] if dice.chance(6) else dice.pick(FONTS[:4])
    sizes = (0.92, 1.0, 1.0, 1.08, 1.16)
    size = dice.pick(sizes) * TYPE_SCALE[kind]
    return Look(theme, dice.pick(ACCENTS), dice.pick((0, 4, 8, 12, 18)), font, size, dice.pick((8, 12, 16)))


class Scene:
    """All that a template may use. Drawing words does not repeat them within a page."""

    def __init__(self, device: Device, language: Language, look: Look, dice: Dice) -> None:
        self.device = device
        self.language = language
        self.look = look
        self.dice = dice
        self._said: set[str] = set()

    @property
    def wide(self) -> bool:
        """Room for two columns."""
        return self.device.width >= 700

    def say(self, english: str, chinese: str) -> str:
        """The text in the page's language."""
        return english if self.language == "en" else chinese

    def words(self, topic: Topic, count: int) -> list[str]:
        """So many texts of a topic that this page has not said yet; fewer when the topic runs out."""
        index = 0 if self.language == "en" else 1
        fresh = [pair[index] for pair in topic if pair[index] not in self._said]
        chosen = self.dice.some(fresh, count)
        self._said.update(chosen)
        return chosen

    def word(self, topic: Topic) -> str:
        """One text of a topic."""
        return self.words(topic, 1)[0]

    def clock(self) -> str:
        """A time of day."""
        return f"{self.dice.between(0, 23):02d}:{self.dice.between(0, 59):02d}"

    def money(self, most: int = 300) -> str:
        """A price."""
        sign = self.say("$", "¥")
        return f"{sign}{self.dice.between(3, most)}.{self.dice.pick(('00', '50', '90', '99'))}"

    def icon_name(self, name: str) -> str:
        """How this page's language calls an icon."""
        return ICONS[name].english if self.language == "en" else ICONS[name].chinese


def part(role: str, text: str, inner: str | None = None, *, css: str = "", style: str = "", state: str = "") -> str:
    """An element that can be tapped. Its visible content is `inner` (HTML), or the text itself."""
    shown = escape(text) if inner is None else inner
    marks = f'data-role="{role}" data-text="{escape(text)}"' + (f' data-state="{state}"' if state else "")
    looks = (f' class="{css}"' if css else "") + (f' style="{style}"' if style else "")
    return f"<div {marks}{looks}>{shown}</div>"


def icon(scene: Scene, name: str, *, css: str = "icon", style: str = "") -> str:
    """An icon to tap, without visible text; its text is the icon's name."""
    return part("icon", scene.icon_name(name), icon_svg(name), css=css, style=style)


def toggle(text: str, on: bool) -> str:
    """A switch that belongs to the text."""
    return part("toggle", text, '<div class="knob"></div>', css=f"switch {'on' if on else ''}", state=_on(on))


def checkbox(text: str, on: bool, *, role: str = "checkbox") -> str:
    """A box (or, as a radio button, a circle) with its text."""
    mark = icon_svg("check") if on and role == "checkbox" else ""
    inner = f'<div class="box {role} {"on" if on else ""}">{mark}</div><div>{escape(text)}</div>'
    return part(role, text, inner, css="check", state=_on(on))


def field(label: str, value: str = "", *, hint: str = "", focused: bool = False, above: bool = True) -> str:
    """An input with its label above it, or, when not `above`, its label as the placeholder."""
    shown = escape(value) if value else f'<span class="hint">{escape(hint if above else label)}</span>'
    caret = '<span class="caret"></span>' if focused else ""
    inner = f"{shown}{caret}" if value else f"{caret}{shown}"
    box = part("field", label, inner, css=f"input {'focus' if focused else ''}", state="focused" if focused else "")
    return f'<div class="labelled"><div class="label">{escape(label)}</div>{box}</div>' if above else box


def button(text: str, *, css: str = "button", style: str = "") -> str:
    """A push button."""
    return part("button", text, css=css, style=style)


def _on(on: bool) -> str:
    return "on" if on else "off"
