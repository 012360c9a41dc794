"""The signs that a picture is taught to tell: those of all cards and all digits, capitals as their small letters."""

from autoglm_serving.training.cards import LETTERS

USUAL = "abcdefghijklmnopqrstuvwxyz0123456789"
"""Signs whose directions are at right angles to each other, whatever those of all others are."""

SIGNS = tuple(
    sorted(
        {sign.lower() for sign in LETTERS if len(sign.lower()) == 1} | set(USUAL),
        key=lambda sign: (not sign.isascii(), sign),
    )
)
"""Latin ones first."""

LATIN = sum(sign.isascii() for sign in SIGNS)
"""So many of them, the first ones, are Latin letters, digits and punctuation."""

USUAL_NUMBERS = tuple(SIGNS.index(sign) for sign in USUAL)


def number_of(sign: str) -> int | None:
    """A sign's place in SIGNS; None for one that is not taught."""
    return _NUMBERS.get(sign.lower())


def numbers_of(text: str) -> list[int]:
    """Those of a text's signs that are taught."""
    return [number for sign in text if (number := number_of(sign)) is not None]


_NUMBERS = {sign: number for number, sign in enumerate(SIGNS)}
