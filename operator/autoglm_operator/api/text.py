"""The kinds of text the API takes, each with its rule, its bound and a message that says what to write instead."""

import ipaddress
import re
from typing import Annotated

from pydantic import Field

from autoglm_operator.api import quantities
from autoglm_operator.api.base import Check

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PORT = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_PATH = r"[^\x00-\x20\x7f?#]"


def _matches(pattern: str, message: str, *, unless: str | None = None) -> Check:
    """Text that matches all of `pattern` and not all of `unless` (syntax common to Python and RE2)."""
    cel = f"self.matches(r'^({pattern})$')"
    if unless is not None:
        cel += f" && !self.matches(r'^({unless})$')"

    def check(text: str) -> bool:
        return bool(re.fullmatch(pattern, text)) and not (unless is not None and re.fullmatch(unless, text))

    return Check(cel, check, message, f"^({pattern})$")


def _duration(minimum: str, maximum: str) -> Check:
    """A duration within bounds. CEL's `duration` reads the same units."""
    pattern = quantities.DURATION
    low, high = quantities.seconds(minimum), quantities.seconds(maximum)

    def check(text: str) -> bool:
        return bool(re.fullmatch(pattern, text)) and low <= quantities.seconds(text) <= high

    return Check(
        f"self.matches(r'^{pattern}$') && duration(self) >= duration('{minimum}')"
        f" && duration(self) <= duration('{maximum}')",
        check,
        f'must be a duration between {minimum} and {maximum}, such as "500ms", "2s", "5m" or "1h"',
        f"^{pattern}$",
    )


def _http_address() -> Check:
    """Scheme, host and port, such that every URL library reads it. An IPv6 address stands in brackets."""
    host = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?|\[[0-9a-fA-F:]{2,39}\]"
    pattern = rf"https?://({host}):({_PORT})"

    def check(text: str) -> bool:
        return bool(re.fullmatch(pattern, text)) and (
            "[" not in text or _is_ipv6(text[text.index("[") + 1 : text.index("]")])
        )

    return Check(
        f"self.matches(r'^{pattern}$')"
        " && (!self.contains('[') || isIP(self.substring(self.indexOf('[') + 1, self.indexOf(']'))))",
        check,
        'must be http://HOST:PORT or https://HOST:PORT, with the port and without a path, such as "http://10.0.0.5:8265"',
        f"^{pattern}$",
    )


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _cpus() -> Check:
    """CPU cores above zero, as an integer or as text. The bound of the integer is that of the text."""
    text, zero, most = quantities.CPUS, r"[0.]+m?", 9999

    def check(value: int | str) -> bool:
        if isinstance(value, int):
            return 0 < value <= most
        return bool(re.fullmatch(text, value)) and not re.fullmatch(zero, value)

    return Check(
        f"type(self) == string ? self.matches(r'^({text})$') && !self.matches(r'^{zero}$') : self > 0 && self <= {most}",
        check,
        'must be CPU cores from 1m to 9999, such as 2, "1.5" or "500m"',
        f"^({text})$",
    )


DnsLabel = Annotated[
    str,
    Field(max_length=63),
    _matches(_LABEL, 'must be a DNS label: at most 63 of a-z, 0-9 and "-", with a letter or digit at both ends'),
]
ModelName = Annotated[
    str,
    Field(max_length=128),
    _matches(
        r"[A-Za-z0-9]([A-Za-z0-9._/:-]{0,126}[A-Za-z0-9])?",
        'must be a model id such as "autoglm-phone-9b": at most 128 of A-Z, a-z, 0-9 and "._/:-",'
        " with a letter or digit at both ends",
    ),
]
ModelUri = Annotated[
    str,
    Field(max_length=1024),
    _matches(
        rf"builtin://autoglm-tiny(-grounded)?|file:///{_PATH}+|hf://[A-Za-z0-9._-]{{1,96}}/[A-Za-z0-9._-]{{1,96}}",
        "must be builtin://autoglm-tiny, builtin://autoglm-tiny-grounded, file:///absolute/path"
        " or hf://organisation/model",
    ),
]
HttpAddress = Annotated[str, Field(max_length=253), _http_address()]
ResourceName = Annotated[
    str,
    Field(max_length=128),
    _matches(
        r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?",
        'must be a resource name such as "GPU", "NPU" or "accelerator_type/H100"',
    ),
]
SecretKey = Annotated[
    str,
    Field(max_length=253),
    _matches(r"[A-Za-z0-9._-]{1,253}", 'must be a key of a Secret: letters, digits and "._-"'),
]
OptionName = Annotated[str, Field(max_length=64)]
Bandwidth = Annotated[
    str,
    Field(max_length=16),
    _matches(
        quantities.BANDWIDTH,
        'must be a bandwidth above zero, such as "800kbit", "100Mbit" or "1Gbit"',
        unless=r"[0.]+[kMG]bit",
    ),
]
Cpus = Annotated[int | str, _cpus()]
Memory = Annotated[
    str,
    Field(max_length=16),
    _matches(quantities.MEMORY, 'must be an amount of memory in Mi, Gi or Ti, such as "512Mi" or "16Gi"'),
]
LabelValue = Annotated[str, Field(max_length=63)]
LatencyTarget = Annotated[str, Field(max_length=16), _duration("1ms", "10m")]
EncoderWait = Annotated[str, Field(max_length=16), _duration("10ms", "10m")]
RoundTrip = Annotated[str, Field(max_length=16), _duration("0s", "10s")]
RequestTimeout = Annotated[str, Field(max_length=16), _duration("1s", "1h")]
ScalingWindow = Annotated[str, Field(max_length=16), _duration("10s", "1h")]
Deadline = Annotated[str, Field(max_length=16), _duration("0s", "24h")]
