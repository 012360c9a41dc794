"""The API's quantities, which are text: "2s", "100Mbit", "500m". Each function reads one kind into a plain number."""

import re

DURATION = r"[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)"
BANDWIDTH = r"[0-9]{1,6}(\.[0-9]{1,3})?(kbit|Mbit|Gbit)"
CPUS = r"[0-9]{1,4}(\.[0-9]{1,3})?|[0-9]{1,6}m"
MEMORY = r"[1-9][0-9]{0,5}(Mi|Gi|Ti)"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BITS = {"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}


def seconds(text: str) -> float:
    """Seconds of a duration such as "500ms", "2s", "5m" or "1.5h". ValueError says what was expected."""
    number, unit = _split(text, DURATION, 'a duration such as "500ms", "2s", "5m" or "1h"')
    return float(number) * _SECONDS[unit]


def bits_per_second(text: str) -> float:
    """Bits per second of a bandwidth such as "800kbit", "100Mbit" or "1Gbit" (decimal units, as `tc` has them)."""
    number, unit = _split(text, BANDWIDTH, 'a bandwidth such as "800kbit", "100Mbit" or "1Gbit"')
    return float(number) * _BITS[unit]


def duration(value: float) -> str:
    """Seconds as text with two digits, which is as right as a measured duration is; at least a tenth of a millisecond."""
    ms = max(float(f"{value * 1000:.2g}"), 0.1)
    return f"{ms:g}ms" if ms < 1000 else f"{ms / 1000:g}s"


def bandwidth(value: float) -> str:
    """Bits per second as text with two digits; at least one kbit."""
    kbit = max(float(f"{value / 1000:.2g}"), 1.0)
    return f"{kbit:g}kbit" if kbit < 1000 else f"{kbit / 1000:g}Mbit"


def cpus(quantity: int | str) -> float:
    """CPU cores of a Kubernetes quantity such as 2, "1.5" or "500m"."""
    number, unit = _split(str(quantity), CPUS, 'CPU cores such as 2, "1.5" or "500m"')
    return float(number) / 1000 if unit == "m" else float(number)


def option_value(value: int | str) -> str | int | float | bool:
    """An engine option as the engine wants it. The API has fractions and booleans as text ("0.9", "true")."""
    if isinstance(value, int):
        return value
    if value in ("true", "false"):
        return value == "true"
    return float(value) if re.fullmatch(r"-?[0-9]+\.[0-9]+", value) else value


def _split(text: str, pattern: str, expected: str) -> tuple[str, str]:
    """Number and unit of a quantity."""
    if re.fullmatch(pattern, text) is None:
        raise ValueError(f"{text!r} is not {expected}")
    number = re.match(r"[0-9.]+", text)
    assert number is not None, "every quantity pattern starts with a digit"
    return number.group(), text[number.end() :]
