"""From what runs to what shall run: repair what has to be repaired, move little and only when it clearly pays.

Why nothing flaps: a move by choice is made only if the part of the placement that it touches costs less than (1 - gain) of
what it cost. Prices that are wrong by a share a, up or down, then still leave the true cost lower after every move, as
long as gain >= 2a / (1 + a). A cost that only falls never comes back to where it was. With the usual gain of 10 % that
holds for prices that jitter by 5 %.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from autoglm_operator.placing import heuristic, optimum
from autoglm_operator.placing.problem import Allocation, Problem, cost, violations

EPSILON = 1e-9
HEURISTIC = "heuristic"

REMEMBERED = 128
"""Answers that are kept, of as many deployments."""

Solver = Callable[[Problem], dict[str, int] | None]
"""Finds the best placement, or says that it cannot."""


@dataclass(frozen=True)
class Habits:
    """How eagerly replicas move. `gain` is the share that a move has to save, `moves` the replicas of one pass."""

    moves: int = 1
    gain: float = 0.1


@dataclass(frozen=True)
class Standing:
    """What is there: replicas that shall run at each site by the last decision, and those that are ready.

    `goal` is where that decision led, None if it is not known. `calm` says that nothing is under way and that the last move was
    long enough ago, so that a move by choice may be made.
    """

    wanted: Allocation
    ready: Allocation
    goal: Allocation | None = None
    calm: bool = True


@dataclass(frozen=True)
class Decision:
    """`goal` is where this pass leads; `now` is what shall run meanwhile: nothing shrinks before its replacement is ready.

    `best_cost` is that of the best placement known, whether or not it pays to go there. `moved` says that replicas move by
    choice. `solver` is "HiGHS" or "heuristic", or empty when nobody had to look for the best; then `best_cost` is None.
    """

    goal: dict[str, int]
    now: dict[str, int]
    solver: str
    goal_cost: float
    best_cost: float | None
    moved: bool
    reason: str

    @property
    def under_way(self) -> bool:
        """Whether replicas are still being moved."""
        return self.now != self.goal


def decide(problem: Problem, standing: Standing, habits: Habits, solver: Solver = optimum.optimum) -> Decision:
    """The placement to aim at and to ask for now. Pure; the same input gives the same decision."""
    wanted = {site: count for site, count in standing.wanted.items() if count > 0}
    course = _course(problem, wanted, standing, habits, solver)
    reason = f"{course.reason}; {problem.shortfall}" if problem.shortfall else course.reason
    return Decision(
        goal=course.goal,
        now=_bridge(problem, wanted, standing.ready, course.goal),
        solver=course.solver,
        goal_cost=cost(problem, course.goal),
        best_cost=course.best_cost,
        moved=course.moved,
        reason=f"{reason} ({course.solver})" if course.solver else reason,
    )


@dataclass(frozen=True)
class _Course:
    """Where to go and why. Without a solver nobody looked for the best."""

    goal: dict[str, int]
    reason: str
    solver: str = ""
    best_cost: float | None = None
    moved: bool = False


def _course(problem: Problem, wanted: dict[str, int], standing: Standing, habits: Habits, solver: Solver) -> _Course:
    """Finish what was begun; else repair; else begin, or move if it pays."""
    if standing.goal is not None and _is_on_the_way(problem, wanted, standing.goal):
        return _Course({site: count for site, count in sorted(standing.goal.items()) if count}, "a move is under way")
    kept = heuristic.fill(problem, wanted)
    if wanted and kept != wanted:
        return _Course(kept, _why_changed(problem, wanted, kept))
    best, name = _best(problem, kept, solver)
    least, now = cost(problem, best), cost(problem, kept)
    if not wanted:
        return _Course(best, "first placement", name, least)
    if now - least <= EPSILON:
        return _Course(kept, "stays: nothing is cheaper", name, least)
    step = _step(problem, kept, best, habits) if standing.calm else None
    if step is not None:
        return _Course(step, f"moves to save {_percent(now - cost(problem, step), now)}", name, least, moved=True)
    why = f"no move saves {habits.gain:.0%} of what it touches" if standing.calm else "a change is under way"
    return _Course(kept, f"stays although {_percent(now - least, now)} dearer than the best: {why}", name, least)


def _is_on_the_way(problem: Problem, wanted: Mapping[str, int], goal: Allocation) -> bool:
    """Whether an earlier goal is not reached yet and is still allowed: then it stays, so that no move is undone halfway."""
    return wanted != {site: count for site, count in goal.items() if count} and not violations(problem, goal)


def _best(problem: Problem, kept: Allocation, solver: Solver) -> tuple[dict[str, int], str]:
    """The best placement known, and who found it. What is kept is a candidate, so that equals stay where they are."""
    found, name = _search(problem, tuple(sorted(kept.items())), solver)
    return dict(found), name


@lru_cache(maxsize=REMEMBERED)
def _search(problem: Problem, placed: tuple[tuple[str, int], ...], solver: Solver) -> tuple[dict[str, int], str]:
    """The same facts give the same answer: while nothing changes, every further pass has it at once."""
    kept = dict(placed)
    exact = solver(problem)
    found = exact if exact is not None else heuristic.improved(problem, heuristic.fill(problem))
    candidates = [heuristic.improved(problem, kept), found]
    return min(
        candidates, key=lambda one: round(cost(problem, one), 6)
    ), optimum.HIGHS if exact is not None else HEURISTIC


def _why_changed(problem: Problem, wanted: Mapping[str, int], kept: Mapping[str, int]) -> str:
    """Why replicas are added, taken away or moved although nothing was to be gained."""
    lost = sorted(site for site, count in wanted.items() if problem.room.get(site, 0) < count)
    if lost:
        return f"moves away from {', '.join(lost)}, where the replicas cannot stay"
    more = sum(kept.values()) - sum(wanted.values())
    if more:
        return f"{'adds' if more > 0 else 'removes'} {abs(more)}"
    return "moves to keep the limits of spec.placement.spread"


def _step(problem: Problem, kept: dict[str, int], best: Mapping[str, int], habits: Habits) -> dict[str, int] | None:
    """The best step of a few moves towards `best`, if one pays; every prefix of the moves is looked at."""
    at, found = dict(kept), None
    for _ in range(habits.moves):
        options = list(_single_moves(problem, at, best))
        if not options:
            break
        at = min(options, key=lambda one: (round(cost(problem, one), 9), sorted(one.items())))
        if _pays(problem, kept, at, habits.gain) and (found is None or cost(problem, at) < cost(problem, found)):
            found = at
    return found


def _single_moves(problem: Problem, at: dict[str, int], best: Mapping[str, int]) -> "list[dict[str, int]]":
    """Every allowed move of one replica from where there are more than in `best` to where there are fewer."""
    givers = [site for site, count in at.items() if count > best.get(site, 0)]
    takers = [site for site, count in best.items() if count > at.get(site, 0)]
    found = []
    for giver in givers:
        smaller = {site: count - (site == giver) for site, count in at.items() if count - (site == giver) > 0}
        for taker in takers:
            domain = problem.by_site[taker].domain
            if problem.domain_room(smaller, domain) <= 0 or smaller.get(taker, 0) >= problem.room[taker]:
                continue
            changed = {**smaller, taker: smaller.get(taker, 0) + 1}
            if len(changed) >= problem.sites_needed:
                found.append(changed)
    return found


def _pays(problem: Problem, before: Mapping[str, int], after: Mapping[str, int], gain: float) -> bool:
    """Whether the replicas that differ, with the sites that open or close for them, cost clearly less than before."""
    old, new = _touched(problem, before, after), _touched(problem, after, before)
    return new < (1 - gain) * old - EPSILON


def _touched(problem: Problem, one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """What the part of `one` costs that is not in `other`."""
    total = 0.0
    for site, count in one.items():
        offer, more = problem.by_site[site], count - other.get(site, 0)
        total += offer.price * max(more, 0) + (offer.opening if site not in other else 0.0)
    return total


def _bridge(problem: Problem, wanted: Mapping[str, int], ready: Allocation, goal: Mapping[str, int]) -> dict[str, int]:
    """What shall run until `goal` is reached: sites grow at once, and shrink by no more than is ready beyond the demand."""
    now = {site: max(wanted.get(site, 0), goal.get(site, 0)) for site in {*wanted, *goal}}
    spare = sum(min(ready.get(site, 0), count) for site, count in now.items()) - sum(goal.values())
    dearest = sorted(now, key=lambda site: (-_price(problem, site), site))
    for site in dearest:
        over = now[site] - goal.get(site, 0)
        idle = max(now[site] - ready.get(site, 0), 0)
        taken = min(over, idle + max(spare, 0))
        now[site] -= taken
        spare -= max(taken - idle, 0)
    return {site: count for site, count in sorted(now.items()) if count > 0}


def _price(problem: Problem, site: str) -> float:
    """A site that is not offered any more goes first."""
    offer = problem.by_site.get(site)
    return offer.price if offer else float("inf")


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > EPSILON else "nothing"
