"""Which revision serves a request while two of them share a deployment's traffic. Pure: the same session, the same answer.

A session keeps its revision as long as the weights only grow: its place on a line from 0 to 100 follows from the session
and the canary's name, and the canary serves the places below its weight.
"""

import hashlib
from typing import Literal

Side = Literal["stable", "canary"]

_STEPS = 10_000


def place(session: str, salt: str) -> float:
    """The session's place, from 0 to just below 100, spread evenly over sessions."""
    digest = hashlib.sha256(f"{salt}\n{session}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (100 * _STEPS) / _STEPS


def side(at: float, weight: int, *, stable_answers: bool, canary_admitted: bool) -> Side:
    """Who serves a session. A canary that is not admitted serves nobody, and one without weight no client, ever."""
    if weight <= 0 or not canary_admitted:
        return "stable"
    return "canary" if at < weight or not stable_answers else "stable"


def applied(weight: int, *, stable_answers: bool, canary_admitted: bool) -> int:
    """The share of sessions in percent that the canary really gets."""
    if weight <= 0 or not canary_admitted:
        return 0
    return weight if stable_answers else 100


def is_mirrored(request_id: str, percent: int) -> bool:
    """Whether a request is among the share that is copied to the canary."""
    return place(request_id, "mirror") < percent
