"""What each revision did since its window began: counted here, reported to the operator, gone when its route has no canary."""

from collections import Counter
from dataclasses import dataclass, field

from autoglm_serving import sharing
from autoglm_serving.gateway.fleet import Fleet, Member
from autoglm_serving.measurements import RevisionReport, Role, Sketch, bucket
from autoglm_serving.routing_table import Canary, Route


@dataclass
class Tally:
    """The figures of one revision in one window."""

    window: str
    requests: int = 0
    mirrored: int = 0
    errors: int = 0
    skipped: int = 0
    compared: int = 0
    agreed: int = 0
    ttft: Counter[int] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)

    def ended(self, *, mirrored: bool, failed: bool, ttft_s: float | None, total_s: float) -> None:
        """A request or a copy of one came to its end. Failed ones count as errors and have no duration."""
        if mirrored:
            self.mirrored += 1
        else:
            self.requests += 1
        if failed:
            self.errors += 1
            return
        if ttft_s is not None:
            self.ttft[bucket(ttft_s)] += 1
        self.latency[bucket(total_s)] += 1

    def compare(self, *, same: bool) -> None:
        """Two answers to one request were compared."""
        self.compared += 1
        self.agreed += same


class Tallies:
    """The tallies of all routes with a canary."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tallies: dict[tuple[str, str], Tally] = {}

    def of(self, route: Route, revision: str) -> Tally | None:
        """The tally of one revision in the present window; None for a route without a canary, or for a third revision."""
        current = self._current(route)
        canary = current.canary if current is not None else None
        if current is None or canary is None or revision not in (current.revision, canary.revision):
            return None
        return self._open(current.deployment, revision, canary.window)

    def reports(self) -> tuple[RevisionReport, ...]:
        """Both revisions of each route with a canary. What belongs to no such route is forgotten."""
        routes = [
            route for route in (self._fleet.table.routes if self._fleet.table else ()) if route.canary is not None
        ]
        kept = {
            (route.deployment, name)
            for route in routes
            if route.canary
            for name in (route.revision, route.canary.revision)
        }
        self._tallies = {key: tally for key, tally in self._tallies.items() if key in kept}
        return tuple(report for route in routes if route.canary for report in self._both(route, route.canary))

    def _current(self, route: Route) -> Route | None:
        """The same route in the table of now: a request may outlive the table that it came with."""
        routes = self._fleet.table.routes if self._fleet.table else ()
        return next((other for other in routes if other.deployment == route.deployment), None)

    def _open(self, deployment: str, revision: str, window: str) -> Tally:
        tally = self._tallies.get((deployment, revision))
        if tally is None or tally.window != window:
            tally = self._tallies[deployment, revision] = Tally(window)
        return tally

    def _both(self, route: Route, canary: Canary) -> tuple[RevisionReport, RevisionReport]:
        weight = sharing.applied(
            canary.weight,
            stable_answers=any(self.answers(member) for member in self._fleet.of(route)),
            canary_admitted=any(self.admitted(member) for member in self._fleet.of(route, canary)),
        )
        return (
            self._report(route, route.revision, "stable", 100 - weight),
            self._report(route, canary.revision, "canary", weight),
        )

    def answers(self, member: Member) -> bool:
        """Whether clients' requests can go to a member, whatever revision it answers with."""
        return member.health.answers and member.address in self._fleet.usable

    def admitted(self, member: Member) -> bool:
        """Whether clients' requests can go to a member, and the revision that the table wants answers there."""
        return member.health.state == "Admitted" and self.answers(member)

    def _report(self, route: Route, revision: str, role: Role, weight: int) -> RevisionReport:
        canary = route.canary
        tally = self._open(route.deployment, revision, canary.window if canary else "")
        return RevisionReport(
            deployment=route.deployment,
            revision=revision,
            role=role,
            window=tally.window,
            weight=weight,
            requests=tally.requests,
            mirrored=tally.mirrored,
            errors=tally.errors,
            skipped=tally.skipped,
            compared=tally.compared,
            agreed=tally.agreed,
            ttft=Sketch(counts=dict(tally.ttft)),
            latency=Sketch(counts=dict(tally.latency)),
        )
