"""Which image URLs may be fetched: hosts on the deployment's list, at addresses of the public internet, nothing else. Pure.

Fetching is off unless a deployment lists hosts. A host name alone protects nothing, because whoever owns the name decides
where it points: every address that is to be connected to is checked, and the connection goes to that very address.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from autoglm_serving.wire import ApiError, api_error

MAX_URL = 2048
PORTS = {"https": 443, "http": 80}
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_NOT_ROUTED = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
"""What `is_global` lets through, of some versions of Python: IETF's protocols, in which a cloud has its metadata, the old
relays of 6to4, and Azure's address for its machines, which looks like any other."""
_TEREDO = ipaddress.IPv6Network("2001::/32")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_ROUTED = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is assigned to the public internet. `is_global` also says yes to what is assigned to nobody."""


@dataclass(frozen=True)
class Target:
    """A URL that may be fetched if its host's addresses may be connected to. `host` is lower case."""

    url: str
    host: str
    port: int


def is_remote(url: str) -> bool:
    """Whether the URL names a web server."""
    return url[:8].lower().startswith(("http://", "https://"))


def check_url(url: str, hosts: Sequence[str], param: str) -> Target:
    """The target of a URL whose host is listed; raises ApiError `invalid_request`.

    `hosts` are names, `*.example.com` for every name below one, and `name:port` where the port is not the scheme's own.
    """
    if len(url) > MAX_URL:
        raise api_error("invalid_request", f"an image's URL may have at most {MAX_URL} characters", param)
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise _unreadable(param)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode().lower() if parts.hostname else ""
    except ValueError:
        raise _unreadable(param) from None
    if parts.scheme not in PORTS or not host:
        raise _unreadable(param)
    if parts.username is not None or parts.password is not None:
        raise api_error("invalid_request", "an image's URL must not contain a user name or a password", param)
    port = PORTS[parts.scheme] if port is None else port
    if not any(_listed(host, port, PORTS[parts.scheme], entry) for entry in hosts):
        raise api_error(
            "invalid_request",
            "images are not fetched from this host: send the image inside the request, as a data URL, or ask for the "
            "host to be listed in spec.limits.imageHosts",
            param,
        )
    return Target(url, host, port)


def forbidden(address: str) -> str | None:
    """Why nobody may connect to this address for a client; None when it is a public one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "it is no address"
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _embedded(parsed)
        if inner is not None:
            return forbidden(str(inner))
        if parsed in _TEREDO or parsed in _NAT64_LOCAL or parsed in _COMPATIBLE:
            return "it is a tunnel's address"
    if parsed.is_multicast:
        return "it is a multicast address"
    return None if _routed(parsed) and parsed.is_global else "it is not a public address"


def _routed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in each for each in _NOT_ROUTED)
    return address in _ROUTED


def check_type(content_type: str | None, param: str) -> None:
    """Raise ApiError `invalid_image` when a server says that what it sends is no image of ours."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in IMAGE_TYPES:
        raise api_error(
            "invalid_image", "what the URL gives is not image/png, image/jpeg, image/webp or image/gif", param
        )


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this IPv6 address would end at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def _listed(host: str, port: int, usual: int, entry: str) -> bool:
    name, colon, number = entry.lower().rpartition(":")
    if not (colon and number.isdigit()):
        name, number = entry.lower(), str(usual)
    if str(port) != number:
        return False
    return host.endswith(name[1:]) and len(host) > len(name) - 1 if name.startswith("*.") else host == name


def _unreadable(param: str) -> ApiError:
    return api_error("invalid_request", "the image's URL cannot be read: use https://host/path or a data URL", param)
