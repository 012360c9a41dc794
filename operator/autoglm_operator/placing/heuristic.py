"""A placement that is always found, in little time, and seldom far from the best: fill by price, spread, improve.

Everything is decided by (price, name), so the same problem always gives the same placement.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from autoglm_operator.placing.draft import Change, Draft
from autoglm_operator.placing.problem import BEYOND_ALL, Allocation, Problem

ROUNDS = 20
"""Rounds of improvement at most; few problems need more than five."""

WIDEST = 24
"""Sites that are tried as places to leave or to move to in one round: with all of them it would grow with the square."""

EPSILON = 1e-9

Neighbours = Callable[[Draft, str], Iterator[list[Change]]]
"""Changes of one kind that could be made around one site."""


def fill(problem: Problem, base: Allocation | None = None) -> dict[str, int]:
    """A placement of all that can be placed, beginning with `base`, of which as much is kept as is allowed."""
    draft = _trimmed(problem, base or {})
    _add_cheapest(draft)
    while draft.total > problem.placeable:
        _take_one(draft)
    _spread(draft)
    return draft.allocation()


def improved(problem: Problem, placed: Allocation) -> dict[str, int]:
    """The same number of replicas for less, by closing sites, swapping sites and moving replicas, until nothing helps."""
    draft = Draft(problem, placed)
    for _ in range(ROUNDS):
        if sum(_improve_once(draft, neighbours) for neighbours in (_closed, _opened, _shifted)) == 0:
            break
    return draft.allocation()


def _trimmed(problem: Problem, base: Allocation) -> Draft:
    """What of a placement is still allowed, the cheapest replicas of each domain first."""
    draft = Draft(problem, {})
    for site in problem.by_price if base else ():
        count = min(base.get(site, 0), draft.left(site))
        if count > 0:
            draft.apply([(site, count)])
    return draft


def _add_cheapest(draft: Draft) -> None:
    """Adds what is missing where the next replicas cost least, a new site's opening spread over those that it can take.

    A price in the heap can only be too low, since what is missing and what is left only shrink: then it is put back.
    """
    heap = [(_next_price(draft, site), site) for site in draft.problem.by_price if draft.left(site) > 0]
    heapq.heapify(heap)
    while draft.total < draft.problem.placeable and heap:
        price, site = heapq.heappop(heap)
        left = min(draft.problem.placeable - draft.total, draft.left(site))
        if left <= 0:
            continue
        now = _next_price(draft, site)
        if now > price:
            heapq.heappush(heap, (now, site))
        else:
            draft.apply([(site, left)])


def _next_price(draft: Draft, site: str) -> float:
    offer, left = draft.problem.by_site[site], min(draft.problem.placeable - draft.total, draft.left(site))
    return offer.price + (0.0 if site in draft.counts else offer.opening / max(left, 1))


def _take_one(draft: Draft) -> None:
    """Takes away the replica that saves most, but none that the spread needs."""
    tight = len(draft.counts) <= draft.problem.sites_needed
    candidates = [site for site, count in draft.counts.items() if count > 1 or not tight]
    draft.apply([(max(candidates, key=lambda site: (draft.saving(site), site)), -1)])


def _spread(draft: Draft) -> None:
    """Opens the cheapest further sites until enough are used, with replicas from where they cost most."""
    while len(draft.counts) < draft.problem.sites_needed:
        options = [
            (offer.price + offer.opening - draft.problem.by_site[donor].price, offer.site, donor)
            for offer in draft.problem.by_site.values()
            if draft.problem.room[offer.site] > 0 and offer.site not in draft.counts
            if (donor := _donor(draft, offer.domain)) is not None
        ]
        if not options:
            return
        _, site, donor = min(options)
        draft.apply([(donor, -1), (site, 1)])


def _donor(draft: Draft, domain: str) -> str | None:
    """The dearest site that can give a replica to a site of this domain; one of the same domain if that is full."""
    full, by_site = draft.domain_left(domain) <= 0, draft.problem.by_site
    able = [site for site, count in draft.counts.items() if count > 1 and (not full or by_site[site].domain == domain)]
    return max(able, key=lambda site: (by_site[site].price, site), default=None)


def _improve_once(draft: Draft, neighbours: Neighbours) -> bool:
    """Tries changes of one kind; those that save are made at once. Whether there was one."""
    made = False
    for site in draft.dearest(WIDEST) if neighbours is not _opened else _fresh(draft):
        options = [(draft.saves(changes), changes) for changes in neighbours(draft, site)]
        saved, changes = max(options, key=lambda option: option[0], default=(0.0, []))
        if saved > EPSILON:
            draft.apply(changes)
            made = True
    return made


def _fresh(draft: Draft) -> list[str]:
    """The cheapest sites that are not used yet, opened for as many replicas as they take."""
    return list(islice((site for site in draft.problem.by_whole_price if site not in draft.counts), WIDEST))


def _closed(draft: Draft, site: str) -> Iterator[list[Change]]:
    """The site closed: its replicas go to open sites with room, or first to one that opens for them."""
    if site not in draft.counts:
        return
    counts, room = draft.counts, draft.problem.room
    count = counts[site]
    open_ones = (other for other in draft.problem.by_price if other in counts and other != site)
    takers = [other for other in open_ones if room[other] > counts[other]]
    draft.apply([(site, -count)])
    found = [
        _given(draft, count, takers),
        *(_given(draft, count, [one, *takers]) for one in _fresh(draft) if one != site),
    ]
    draft.apply([(site, count)])
    for changes in found:
        if changes is not None:
            yield [(site, -count), *changes]


def _opened(draft: Draft, site: str) -> Iterator[list[Change]]:
    """The site opened: it takes what costs more elsewhere, a site's replicas more with each."""
    price, changes, taken = draft.problem.by_site[site].price, list[Change](), 0
    inside, domain = 0, draft.problem.by_site[site].domain
    for donor in draft.dearest(WIDEST):
        if draft.saving(donor) <= price:
            return
        same = draft.problem.by_site[donor].domain == domain
        left = min(
            draft.problem.room[site] - taken, draft.domain_left(domain) - (taken - inside) + (BEYOND_ALL if same else 0)
        )
        count = min(draft.counts[donor], left)
        if count <= 0:
            continue
        changes.append((donor, -count))
        taken += count
        inside += count if same else 0
        yield [*changes, (site, taken)]


def _shifted(draft: Draft, site: str) -> Iterator[list[Change]]:
    """As many replicas as fit moved from the site to an open and cheaper one."""
    if site not in draft.counts:
        return
    by_site, count = draft.problem.by_site, draft.counts[site]
    for taker in draft.problem.by_price:
        if by_site[taker].price >= by_site[site].price:
            return
        if draft.problem.room[taker] <= draft.counts.get(taker, BEYOND_ALL):
            continue
        same = bool(by_site[site].domain) and by_site[site].domain == by_site[taker].domain
        left = draft.problem.room[taker] - draft.counts[taker] if same else draft.left(taker)
        fitting = min(count, left)
        for number in {fitting, min(fitting, count - 1)}:
            if number > 0:
                yield [(site, -number), (taker, number)]


def _given(draft: Draft, count: int, takers: Sequence[str]) -> list[Change] | None:
    """`count` replicas for the takers, in their order; None if they do not fit."""
    changes: list[Change] = []
    for taker in takers:
        more = min(count, draft.left(taker))
        if more > 0:
            changes.append((taker, more))
            draft.apply([(taker, more)])
            count -= more
        if not count:
            break
    draft.apply([(taker, -more) for taker, more in changes])
    return changes if not count else None
