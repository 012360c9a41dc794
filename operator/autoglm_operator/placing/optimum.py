"""The cheapest placement, by mixed-integer programming: scipy's HiGHS, where scipy is installed.

minimise    sum over sites of  price * x + opening * y          x: replicas (whole), y: used (0 or 1)
such that   y <= x <= room * y                                  for each site
            sum x = placeable,   sum y >= sites needed
            sum x over a domain <= its limit
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from autoglm_operator.placing.problem import Problem

HIGHS = "HiGHS"

NODES = 5_000
"""Branches at most. A bound in nodes and not in seconds, so that the same problem always gives the same placement."""

GAP = 1e-6


@cache
def _solver() -> tuple[Callable[..., Any], Any, Any, Any] | None:
    """scipy's solver and what it is fed with; None where scipy is not installed."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError:
        return None
    return milp, Bounds, LinearConstraint, csr_array


def available() -> bool:
    """Whether the optimum can be found here."""
    return _solver() is not None


def optimum(problem: Problem) -> dict[str, int] | None:
    """The cheapest placement, or None where it cannot be found: no solver, or none found within the bound on branches."""
    found = _solver()
    if found is None:
        return None
    sites = [site for site in problem.by_site if problem.room[site] > 0]
    if not sites or not problem.placeable:
        return {}
    milp, bounds, linear, matrix = found
    rows, lower, upper = _constraints(problem, sites)
    size = len(sites)
    data = [value for row in rows for _, value in row]
    columns = [column for row in rows for column, _ in row]
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    result = milp(
        [problem.by_site[site].price for site in sites] + [problem.by_site[site].opening for site in sites],
        integrality=[1] * (2 * size),
        bounds=bounds([0] * (2 * size), [min(problem.room[site], problem.placeable) for site in sites] + [1] * size),
        constraints=linear(matrix((data, columns, starts), shape=(len(rows), 2 * size)), lower, upper),
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    counts = {site: round(result.x[number]) for number, site in enumerate(sites)}
    return {site: count for site, count in counts.items() if count}


Row = list[tuple[int, float]]


def _constraints(problem: Problem, sites: list[str]) -> tuple[list[Row], list[float], list[float]]:
    """The rows of the matrix as (column, value), with their bounds. Columns: x of each site, then y of each site."""
    size, infinite = len(sites), float("inf")
    rows: list[Row] = [[(number, 1.0) for number in range(size)], [(size + number, 1.0) for number in range(size)]]
    lower: list[float] = [problem.placeable, problem.sites_needed]
    upper: list[float] = [problem.placeable, infinite]
    for number, site in enumerate(sites):
        room = min(problem.room[site], problem.placeable)
        rows += [[(number, 1.0), (size + number, -1.0)], [(number, 1.0), (size + number, -float(room))]]
        lower += [0.0, -infinite]
        upper += [infinite, 0.0]
    if problem.limits.max_per_domain is not None:
        for domain in sorted({problem.by_site[site].domain for site in sites} - {""}):
            inside = [number for number, site in enumerate(sites) if problem.by_site[site].domain == domain]
            rows.append([(number, 1.0) for number in inside])
            lower.append(0.0)
            upper.append(problem.limits.max_per_domain)
    return rows, lower, upper
