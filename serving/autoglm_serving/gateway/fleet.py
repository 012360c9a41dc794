"""All endpoints of the routing table with their health, load and measured speed: the gateway's only mutable state.

Everything here runs on one event loop. In-flight work is counted by `Flight` objects that the owner closes in a `finally`, so
a count cannot outlive its request, and a restarted gateway starts at zero.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from autoglm_serving.config import BASE
from autoglm_serving.gateway import health as transitions
from autoglm_serving.gateway.health import Health
from autoglm_serving.links import Figures, Link
from autoglm_serving.routing import EndpointState, Weights, trusted, typical
from autoglm_serving.routing_table import Admission, AdmissionState, Canary, Endpoint, LinkReport, Route, RoutingTable

_BEST_FIRST: tuple[AdmissionState, ...] = ("Admitted", "Probing", "ProbeFailed")


@dataclass(frozen=True)
class Location:
    """The parts of an endpoint's URL."""

    host: str
    port: int
    path: str


def locate(url: str) -> Location | str:
    """Read an endpoint's URL; a string says what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return f"{url!r} is not a URL"
    if parts.scheme != "http" or not parts.hostname:
        return f"{url!r} cannot be used: expected http://HOST:PORT/NAMESPACE.NAME"
    if parts.username or parts.query or parts.fragment:
        return f"{url!r} cannot be used: no user, query or fragment is allowed"
    return Location(parts.hostname, port, parts.path.rstrip("/"))


@dataclass
class Member:
    """One endpoint of one deployment."""

    deployment: str
    endpoint: Endpoint
    wanted: str
    health: Health
    address: str | None = None
    """`ip:port` once the host name is resolved."""
    weights: Weights = field(default_factory=Weights)
    samples: int = 0
    learned_at: float = 0.0
    """When `weights` were last moved, on the caller's monotonic clock."""
    short_side: int | None = None
    """The last resolution chosen here, for smoothing."""
    flights: dict[int, float] = field(default_factory=dict)
    """Predicted seconds of work of each request under way."""

    @property
    def key(self) -> tuple[str, str]:
        return (self.deployment, self.endpoint.url)

    @property
    def path(self) -> str:
        location = locate(self.endpoint.url)
        return "" if isinstance(location, str) else location.path


class Flight:
    """One request's claim on the work of one endpoint at a time. Closing twice is harmless."""

    def __init__(self, member: Member, work_s: float) -> None:
        self._work_s = work_s
        self._member: Member | None = None
        self.move(member)

    @property
    def member(self) -> Member | None:
        return self._member

    def move(self, member: Member) -> None:
        """The request went on to another endpoint (a retry)."""
        self.close()
        self._member = member
        member.flights[id(self)] = self._work_s

    def close(self) -> None:
        if self._member is not None:
            self._member.flights.pop(id(self), None)
            self._member = None


class Fleet:
    """The members of the current table."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], Member] = {}
        self._links: dict[str, Link] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when addresses may have changed."""
        self.table: RoutingTable | None = None
        self.usable: frozenset[str] = frozenset()
        """Addresses that Envoy has confirmed: no request may go to another one."""

    def apply(self, table: RoutingTable, at: datetime) -> None:
        """Take over a table. Endpoints that stay keep their health, load and weights."""
        kept: dict[tuple[str, str], Member] = {}
        for route in table.routes:
            for revision, endpoint in _wanted(route):
                member = self._kept_or_new(route.deployment, revision, endpoint, at)
                kept.setdefault(member.key, member)
        self._members = kept
        self._links = {site: self._links[site] for site in self._links.keys() & self.sites}
        self.table = table
        self.changed()

    def _kept_or_new(self, deployment: str, wanted: str, endpoint: Endpoint, at: datetime) -> Member:
        member = self._members.get((deployment, endpoint.url))
        if member is None:
            return Member(deployment, endpoint, wanted, Health(observed_at=at))
        member.endpoint = endpoint
        member.wanted = wanted
        member.health = transitions.wanted_changed(member.health, wanted)
        return member

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    def is_current(self, member: Member) -> bool:
        """Whether the member is still part of the table."""
        return self._members.get(member.key) is member

    def of(self, route: Route, part: Route | Canary | None = None) -> list[Member]:
        """The members of a route (or of its canary) that have an address, one for each address."""
        by_address: dict[str, Member] = {}
        for endpoint in (part or route).endpoints:
            member = self._members.get((route.deployment, endpoint.url))
            if member is not None and member.address is not None:
                by_address.setdefault(member.address, member)
        return list(by_address.values())

    def set_address(self, member: Member, address: str | None) -> None:
        if member.address != address:
            member.address = address
            self.changed()

    def addresses(self) -> frozenset[str]:
        """All addresses that Envoy must know."""
        return frozenset(member.address for member in self.members if member.address is not None)

    @property
    def sites(self) -> frozenset[str]:
        """The sites of the current table."""
        return frozenset(member.endpoint.site for member in self.members)

    def link(self, site: str) -> Link:
        """What was measured of the network to a site."""
        return self._links.get(site, Link())

    def set_link(self, site: str, link: Link) -> None:
        """Take over a measurement, unless the site has left the table meanwhile."""
        if site in self.sites:
            self._links[site] = link

    def figures(self, endpoint: Endpoint, now: float) -> Figures:
        """The network to an endpoint: what was measured, within what the table declares."""
        return self.link(endpoint.site).figures(now).within(endpoint.rtt_s, endpoint.bandwidth_bps)

    def links(self, now: float, at: datetime) -> tuple[LinkReport, ...]:
        """What is known of the network to each site. `at` is the time of day at `now`."""
        known = ((site, link, link.figures(now)) for site, link in sorted(self._links.items()))
        return tuple(
            LinkReport(
                site=site,
                rtt_s=figures.rtt_s,
                bandwidth_bps=figures.bandwidth_bps,
                observed_at=at - timedelta(seconds=now - link.answered_at),
            )
            for site, link, figures in known
            if figures.rtt_s is not None
        )

    def states(self, members: Sequence[Member], now: float) -> list[EndpointState]:
        """The members of one route as the routing core sees them."""
        peers = typical([member.weights for member in members if member.samples])
        return [self.state(member, peers, now) for member in members]

    def state(self, member: Member, peers: Weights, now: float) -> EndpointState:
        """One member as the routing core sees it; `peers` are the weights to expect without measurements."""
        endpoint, figures = member.endpoint, self.figures(member.endpoint, now)
        return EndpointState(
            name=member.address or "",
            site=endpoint.site,
            path=member.path,
            answers=member.health.answers and member.address in self.usable,
            wanted_revision=member.health.state == "Admitted",
            breaker_open_until=member.health.breaker_open_until,
            in_flight=len(member.flights),
            queued_work_s=sum(member.flights.values()),
            bandwidth_bps=figures.bandwidth_bps,
            rtt_s=figures.rtt_s,
            price=endpoint.price,
            variant=member.health.variant or BASE,
            weights=trusted(member.weights, peers, member.samples, now - member.learned_at),
        )

    def admissions(self) -> tuple[Admission, ...]:
        """One admission for each deployment, site and wanted revision: a site with several paths counts as its best one."""
        sites: dict[tuple[str, str, str], Member] = {}
        for member in self.members:
            place = (member.deployment, member.endpoint.site, member.wanted)
            best = sites.get(place)
            if best is None or _rank(member) < _rank(best):
                sites[place] = member
        return tuple(_admission(member) for member in sites.values())


def join(host: str, port: int) -> str:
    """`host:port` as Envoy writes addresses; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """The inverse of `join`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def best_ip(candidates: Iterable[str]) -> str | None:
    """IPv4 before IPv6, then the smallest: the same host name gives the same address every time."""
    parsed = [ipaddress.ip_address(candidate) for candidate in candidates]
    if not parsed:
        return None
    return str(min(parsed, key=lambda ip: (ip.version, int(ip))))


def _wanted(route: Route) -> Iterable[tuple[str, Endpoint]]:
    """Each endpoint of a route with the revision that it must answer with."""
    yield from ((endpoint.wanted or route.revision, endpoint) for endpoint in route.endpoints)
    if route.canary is not None:
        yield from ((route.canary.revision, endpoint) for endpoint in route.canary.endpoints)


def _rank(member: Member) -> int:
    return _BEST_FIRST.index(member.health.state)


def _admission(member: Member) -> Admission:
    health = member.health
    return Admission(
        deployment=member.deployment,
        site=member.endpoint.site,
        revision=health.revision,
        state=health.state,
        message=health.message,
        observed_at=health.observed_at,
        ttft_s=health.ttft_s,
        wanted=member.wanted,
    )
