"""Quantities as Kubernetes stores them, such as "1500m", "16Gi" or "2e3"."""

import re

_FACTORS = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,3})|([numkMGTPE]|[KMGTPE]i)?)")


def number(quantity: object) -> float:
    """The plain number of a quantity: cores, bytes, devices. What is none counts as 0: it reserves nothing."""
    found = _QUANTITY.fullmatch(str(quantity).strip())
    if found is None:
        return 0.0
    digits, exponent, unit = found.groups()
    return float(f"{digits}e{exponent}") if exponent else float(digits) * _FACTORS[unit or ""]
