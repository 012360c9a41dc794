"""A placement while it is being made: counts that change, with what is left in sites and domains kept up to date."""

import heapq
from collections.abc import Iterable, Sequence

from autoglm_operator.placing.problem import BEYOND_ALL, Allocation, Problem

Change = tuple[str, int]
"""Replicas more (or fewer) at one site."""


class Draft:
    """Counts by site within the limits of a problem. Belongs to one caller; `allocation` is what comes out."""

    def __init__(self, problem: Problem, placed: Allocation) -> None:
        """`placed` is within the limits."""
        self.problem = problem
        self.counts: dict[str, int] = {}
        self.total = 0
        self._domains: dict[str, int] = {}
        self._dearest: list[str] | None = None
        self.apply([(site, count) for site, count in placed.items() if count])

    def allocation(self) -> dict[str, int]:
        """The placement, in the order of the names."""
        return dict(sorted(self.counts.items()))

    def left(self, site: str) -> int:
        """How many more replicas the site may take, by itself and by its domain."""
        return min(
            self.problem.room[site] - self.counts.get(site, 0), self.domain_left(self.problem.by_site[site].domain)
        )

    def domain_left(self, domain: str) -> int:
        """How many more replicas the domain may take."""
        most = self.problem.limits.max_per_domain
        return BEYOND_ALL if most is None or not domain else most - self._domains.get(domain, 0)

    def apply(self, changes: Iterable[Change]) -> None:
        """Makes the changes."""
        self._dearest = None
        for site, more in changes:
            count = self.counts.get(site, 0) + more
            if count:
                self.counts[site] = count
            else:
                self.counts.pop(site, None)
            domain = self.problem.by_site[site].domain
            self._domains[domain] = self._domains.get(domain, 0) + more
            self.total += more

    def saves(self, changes: Sequence[Change]) -> float:
        """What the changes would save; each site is named once. Minus infinity for what would use too few sites."""
        saved, opened = 0.0, 0
        for site, more in changes:
            offer, count = self.problem.by_site[site], self.counts.get(site, 0)
            opens = int(not count and more > 0) - int(bool(count) and not count + more)
            opened += opens
            saved -= offer.price * more + offer.opening * opens
        return saved if len(self.counts) + opened >= self.problem.sites_needed else float("-inf")

    def saving(self, site: str) -> float:
        """What one replica less saves: a part of the opening too, since a site that empties closes in the end."""
        offer = self.problem.by_site[site]
        return offer.price + offer.opening / self.counts[site]

    def dearest(self, most: int) -> list[str]:
        """The sites of which one replica less saves most, found once for each state of the draft. `most` is always the same."""
        if self._dearest is None:
            found = heapq.nsmallest(most, [(-self.saving(site), site) for site in self.counts])
            self._dearest = [site for _, site in found]
        return self._dearest
