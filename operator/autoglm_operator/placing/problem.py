"""The placement problem as data: what is asked for, what each site offers, what a placement costs, what it breaks.

A replica is a gang: all its accelerators on one machine. Offers are therefore counted in whole replicas.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Allocation = Mapping[str, int]
"""Replicas by site; sites with none may be absent."""

BEYOND_ALL = 1_000_000
"""Stands for "no limit" where a number is needed."""


@dataclass(frozen=True)
class Offer:
    """What one site offers. `room` counts the replicas that fit, those that run there already included.

    `price` is that of one replica for an hour; it may contain a price for the site's latency. `opening` is what the site costs
    for an hour besides, once it has a replica. Sites of one `domain` fail together; the empty domain is no domain.
    """

    site: str
    room: int
    price: float
    opening: float = 0.0
    domain: str = ""


@dataclass(frozen=True)
class Limits:
    """How replicas have to be spread. None means no limit."""

    min_sites: int = 1
    max_per_site: int | None = None
    max_per_domain: int | None = None


@dataclass(frozen=True)
class Problem:
    """Place `demand` replicas on the sites that are offered. Sites are known by their names; their order does not matter."""

    demand: int
    offers: tuple[Offer, ...]
    limits: Limits = Limits()

    @cached_property
    def by_site(self) -> dict[str, Offer]:
        """The offers by site, in the order of the names."""
        return {offer.site: offer for offer in sorted(self.offers, key=lambda offer: offer.site)}

    @cached_property
    def room(self) -> dict[str, int]:
        """The replicas that may run at each site by its own limits."""
        most = BEYOND_ALL if self.limits.max_per_site is None else self.limits.max_per_site
        return {site: max(0, min(offer.room, most)) for site, offer in self.by_site.items()}

    @cached_property
    def by_price(self) -> tuple[str, ...]:
        """The sites that can take a replica, the cheapest first."""
        usable = [offer for offer in self.by_site.values() if self.room[offer.site] > 0]
        return tuple(offer.site for offer in sorted(usable, key=lambda offer: (offer.price, offer.site)))

    @cached_property
    def by_whole_price(self) -> tuple[str, ...]:
        """The sites that can take a replica, the cheapest first where each takes as many as it can."""
        usable = [offer for offer in self.by_site.values() if self.room[offer.site] > 0]
        whole = sorted((offer.price + offer.opening / self.room[offer.site], offer.site) for offer in usable)
        return tuple(site for _, site in whole)

    @cached_property
    def placeable(self) -> int:
        """How many of the demanded replicas can be placed at all."""
        return min(self.demand, sum(self._most(domain, sum(rooms)) for domain, rooms in self._domains.items()))

    @cached_property
    def sites_needed(self) -> int:
        """The number of sites to use: the wanted one, or as many as there can be."""
        widest = sum(self._most(domain, sum(room > 0 for room in rooms)) for domain, rooms in self._domains.items())
        return min(self.limits.min_sites, widest, self.placeable)

    @cached_property
    def shortfall(self) -> str:
        """Why the demand cannot be met in full; empty when it can."""
        told = []
        if self.placeable < self.demand:
            told.append(f"room for {self.placeable} of {self.demand} replicas")
        if self.sites_needed < self.limits.min_sites:
            told.append(f"{self.sites_needed} of the {self.limits.min_sites} sites that spread asks for can be used")
        return "; ".join(told)

    def domain_room(self, placed: Allocation, domain: str) -> int:
        """How many more replicas the domain may take."""
        if not domain or self.limits.max_per_domain is None:
            return BEYOND_ALL
        return self.limits.max_per_domain - sum(
            count for site, count in placed.items() if self.by_site[site].domain == domain
        )

    @cached_property
    def _domains(self) -> dict[str, list[int]]:
        """The rooms of the sites of each domain; a site without a domain is one of its own."""
        found: dict[str, list[int]] = {}
        for site, offer in self.by_site.items():
            found.setdefault(f"domain {offer.domain}" if offer.domain else f"site {site}", []).append(self.room[site])
        return found

    def _most(self, domain: str, amount: int) -> int:
        most = self.limits.max_per_domain
        return min(amount, most) if domain.startswith("domain ") and most is not None else amount


def cost(problem: Problem, placed: Allocation) -> float:
    """The price of an hour."""
    used = ((problem.by_site[site], count) for site, count in placed.items() if count > 0)
    return sum(offer.opening + offer.price * count for offer, count in used)


def violations(problem: Problem, placed: Allocation) -> tuple[str, ...]:
    """What a placement breaks; nothing for one that does all that can be done."""
    told = [f"{site} is not offered" for site in placed if site not in problem.by_site]
    if told:
        return tuple(told)
    told += [
        f"{site} has {count} of at most {problem.room[site]}"
        for site, count in sorted(placed.items())
        if not 0 <= count <= problem.room[site]
    ]
    by_domain = Counter[str]()
    for site, count in placed.items():
        by_domain[problem.by_site[site].domain] += count
    most = problem.limits.max_per_domain
    told += [
        f"domain {name} has {count} of at most {most}"
        for name, count in sorted(by_domain.items())
        if name and most is not None and count > most
    ]
    total, sites = sum(placed.values()), sum(count > 0 for count in placed.values())
    if total != problem.placeable:
        told.append(f"{total} replicas instead of {problem.placeable}")
    if sites < problem.sites_needed:
        told.append(f"{sites} sites instead of {problem.sites_needed}")
    return tuple(told)
