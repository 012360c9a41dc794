"""What the controller needs from whatever runs the applications of a site: the `Backend` protocol.

Two implementations exist: `ray_serve.RayServeClient` (an existing Ray cluster) and `kube.KubeRaySite` (Ray clusters that
KubeRay makes). Both tell the same and take the same, so that nothing above knows which of them it talks to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autoglm_operator.api import Reason
from autoglm_operator.state import ApplicationChange, ApplicationView, Capacity, SiteError


class SiteFailure(Exception):
    """A site could not be read or changed. Carries the error that goes into the status; no secret is in it."""

    def __init__(self, reason: Reason, message: str) -> None:
        """`reason` comes from the closed list of the API."""
        super().__init__(f"{reason}: {message}")
        self.error = SiteError(reason, message)


@dataclass(frozen=True)
class ClusterView:
    """One observation of a site. `capacity_unknown` says why there is no capacity, if the site could not tell it."""

    applications: tuple[ApplicationView, ...]
    ray_version: str | None
    capacity: Capacity | None
    capacity_unknown: str = ""


class Backend(Protocol):
    """Reads and changes the applications of one site. Every failure is a `SiteFailure`, except `NotLeading`."""

    async def observe(self) -> ClusterView:
        """The applications as they are now."""

    async def apply(self, changes: Sequence[ApplicationChange]) -> bool:
        """Makes the changes; returns whether anything had to be written. What belongs to others stays as it is."""

    async def close(self) -> None:
        """Closes the connections."""
