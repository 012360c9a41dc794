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
    """A picture's stand-in: two hues, and a hill or a disc."""
    hue = scene.dice.below(360)
    other = (hue + scene.dice.between(20, 90)) % 360
    x, y = scene.dice.between(15, 85), scene.dice.between(15, 60)
    return (
        f'<div style="{style};background:radial-gradient(circle at {x}% {y}%,hsl({other} 70% 78%) 0 14%,transparent 15%),'
        f'linear-gradient(165deg,hsl({hue} 45% 62%) 0 55%,hsl({other} 45% 38%) 56%)"></div>'
    )
