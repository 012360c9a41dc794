"""Pieces that several templates are put together from."""

from collections.abc import Sequence
from html import escape

from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import Scene, icon, part


def top_bar(scene: Scene, title: str, *, lead: str = "back", tools: Sequence[str] = ()) -> str:
    """A bar with a leading icon, a title and tools."""
    right = "".join(icon(scene, name) for name in tools)
    solid = "solid" if scene.dice.chance(35) else ""
    return f'<div class="bar {solid}">{icon(scene, lead)}<div class="t">{escape(title)}</div>{right}</div>'


def bottom_tabs(names: Sequence[str], icons: Sequence[str], chosen: int = 0) -> str:
    """The places of an app along the lower edge."""
    parts = [
        part(
            "tab",
            name,
            f"{icon_svg(sign)}<div>{escape(name)}</div>",
            css=f"bt {'on' if number == chosen else ''}",
            state="selected" if number == chosen else "",
        )
        for number, (name, sign) in enumerate(zip(names, icons, strict=True))
    ]
    return f'<div class="bottom">{"".join(parts)}</div>'


def avatar(scene: Scene, name: str) -> str:
    """A coloured circle with a name's first letter."""
    return f'<div class="avatar" style="background:hsl({scene.dice.below(360)} 45% 45%)">{escape(name[0])}</div>'


def swatch(scene: Scene, style: str) -> str:
    """A picture's stand-in: two hues as hills with a sun, stripes, rings or a bottle-like shape."""
    dice = scene.dice
    hue, x, y = dice.below(360), dice.between(15, 85), dice.between(15, 60)
    other = (hue + dice.between(20, 90)) % 360
    light, dark = f"hsl({other} 70% 78%)", f"hsl({other} 45% 38%)"
    ground = f"linear-gradient({dice.between(120, 200)}deg,hsl({hue} 45% 62%),hsl({other} 40% 50%))"
    pictures = (
        (
            f"radial-gradient(circle at {x}% {y}%,{light} 0 14%,transparent 15%),"
            f"linear-gradient({dice.between(155, 205)}deg,transparent 0 {dice.between(45, 65)}%,{dark} 0),{ground}"
        ),
        (
            f"repeating-linear-gradient({dice.below(180)}deg,{dark} 0 {dice.between(4, 12)}"
            f"px,transparent 0 {dice.between(16, 30)}px),{ground}"
        ),
        f"radial-gradient(circle at {x}% {y}%,{dark} 0 10%,{light} 0 22%,transparent 23%),{ground}",
        (
            f"linear-gradient({light},{light}) 50% 100%/30% 70% no-repeat,linear-gradient({dark},{dark}"
            f") 50% 22%/12% 16% no-repeat,{ground}"
        ),
    )
    return f'<div style="{style};background:{dice.pick(pictures)}"></div>'
