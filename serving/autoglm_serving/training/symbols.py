"""Symbols: what can be tapped and has a name that is written nowhere on the screen."""

from autoglm_serving.screens.records import Element, Screen

_ROLES = ("icon", "key")


def symbols_of(screen: Screen) -> tuple[Element, ...]:
    """The icons and keys of a screen that knows its texts, without those whose name one of the texts says."""
    if not screen.texts:
        return ()
    written = [line.text.casefold() for line in screen.texts]
    return tuple(
        element
        for element in screen.elements
        if element.role in _ROLES
        and (name := element.text.strip().casefold())
        and not any(name in text for text in written)
    )


def middle(element: Element) -> tuple[float, float]:
    """Of an element's box, in pixels of the screen."""
    left, top, right, bottom = element.box
    return (left + right) / 2, (top + bottom) / 2
