"""Whether a Ray cluster may be replaced, and how: in the open, within the budget of the rollout. Pure.

Image, accelerators, resources and the pods' other properties cannot change under a running Ray cluster: it takes other pods.
A second cluster beside the first needs its accelerators twice, and is started only where `maxSurge` has room for all of it.
Taking the first away before is downtime, and is done only where `maxUnavailable` covers it or nothing answers anyway.
"""

from dataclasses import dataclass
from typing import Literal

from autoglm_operator.api import AcceleratorType

Way = Literal["Surge", "Staged", "Refused"]


@dataclass(frozen=True)
class Need:
    """What one cluster takes: `replicas` worker pods with `accelerators` each."""

    replicas: int
    accelerators: int
    kind: AcceleratorType

    def __str__(self) -> str:
        """In words, such as "4 GPUs"."""
        if self.kind == "cpu":
            return f"{self.replicas} worker pod{'s' if self.replicas != 1 else ''}"
        count = self.replicas * self.accelerators
        return f"{count} {self.kind.upper()}{'s' if count != 1 else ''}"


@dataclass(frozen=True)
class Budget:
    """What a rollout may take on each site: replicas beyond the wanted number, and missing ones."""

    max_surge: int
    max_unavailable: int


@dataclass(frozen=True)
class Change:
    """How a cluster is replaced, and why so."""

    way: Way
    message: str


def plan(need: Need, budget: Budget, serving: int) -> Change:
    """Decide how a cluster is replaced. `serving` replicas answer now; 0 means that nothing is lost by taking it away."""
    pods = f"the pods have to change, and that takes another Ray cluster with {need}"
    if budget.max_surge >= need.replicas:
        return Change("Surge", f"{pods}: it is started beside the first (spec.rollout.maxSurge {budget.max_surge})")
    if serving == 0:
        return Change("Staged", f"{pods}: the first one, in which nothing answers, is taken away before")
    if budget.max_unavailable >= need.replicas:
        return Change(
            "Staged",
            f"{pods}: the first one is taken away before (spec.rollout.maxUnavailable {budget.max_unavailable})",
        )
    return Change(
        "Refused",
        f"{pods}, which neither spec.rollout.maxSurge {budget.max_surge} nor maxUnavailable {budget.max_unavailable}"
        f" allows: raise one of them to {need.replicas}, or take the change back",
    )
