"""Placement over sites: how many replicas of one deployment run where, at least cost. docs/placement.md has the formulas.

`decide` is what the operator asks: it keeps what runs, repairs what has to be repaired, and moves a few replicas when that
clearly pays. The best placement comes from HiGHS (`optimum`) where scipy is installed, else from the heuristic.
"""

from autoglm_operator.placing.heuristic import fill, improved
from autoglm_operator.placing.moves import Decision, Habits, Standing, decide
from autoglm_operator.placing.optimum import HIGHS, optimum
from autoglm_operator.placing.problem import Allocation, Limits, Offer, Problem, cost, violations

__all__ = [
    "HIGHS",
    "Allocation",
    "Decision",
    "Habits",
    "Limits",
    "Offer",
    "Problem",
    "Standing",
    "cost",
    "decide",
    "fill",
    "improved",
    "optimum",
    "violations",
]
