"""What deployments have to do, by site: what the operator scales replicas by. Pure; `now` is in monotonic seconds.

Requests under way are a mean over time, from every beginning and end: a glance every now and then would see chance. What
waits at a site is under way as well, since nobody but the site knows which of its requests run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from autoglm_serving.measurements import LoadReport, SiteLoadReport, Sketch, bucket

SLOT_S = 5.0
"""Figures are kept in slots of so long, which are dropped whole."""

MEAN_SLOTS = 4
"""Requests under way are the mean of the last 15 to 20 s: of three whole slots and the present one."""

SLOTS = 12
"""Everything else is about the last minute."""


@dataclass
class _Slot:
    area: float = 0.0
    """Requests under way, times seconds."""
    arrivals: int = 0
    completions: int = 0
    first_bytes: Counter[int] = field(default_factory=Counter)


class _Place:
    """One deployment at one site; or, for its requests wherever they go, without one."""

    def __init__(self, now: float) -> None:
        self.under_way = 0
        self._told = now
        self._slots: dict[int, _Slot] = {}

    def slot(self, now: float) -> _Slot:
        """The present slot, after all that went on until now was put into those before it."""
        start = max(self._told, now - SLOTS * SLOT_S)
        while self.under_way and start < now:
            end = min((start // SLOT_S + 1) * SLOT_S, now)
            self._at(start).area += self.under_way * (end - start)
            start = end
        self._told = now
        oldest = int(now // SLOT_S) - SLOTS + 1
        self._slots = {number: slot for number, slot in self._slots.items() if number >= oldest}
        return self._at(now)

    def _at(self, moment: float) -> _Slot:
        return self._slots.setdefault(int(moment // SLOT_S), _Slot())

    def is_idle(self, now: float) -> bool:
        """Whether there is nothing to tell any more."""
        self.slot(now)
        return self.under_way == 0 and not any(
            slot.area or slot.arrivals or slot.completions for slot in self._slots.values()
        )

    def mean(self, now: float, begun: float) -> float:
        """Requests under way, as a mean over the last slots."""
        self.slot(now)
        oldest = int(now // SLOT_S) - MEAN_SLOTS + 1
        return sum(slot.area for number, slot in self._slots.items() if number >= oldest) / _span(
            now, begun, MEAN_SLOTS
        )

    def arrivals(self, now: float, begun: float) -> float:
        """Requests a second that came in the last minute."""
        return sum(slot.arrivals for slot in self._slots.values()) / _span(now, begun, SLOTS)

    def completions(self, now: float, begun: float) -> float:
        """Requests a second that were answered in the last minute."""
        return sum(slot.completions for slot in self._slots.values()) / _span(now, begun, SLOTS)

    def sketch(self) -> Sketch:
        """How long answers took to begin in the last minute."""
        return Sketch(counts=dict(sum((slot.first_bytes for slot in self._slots.values()), Counter[int]())))


class Loads:
    """The load of each deployment. A gateway that began less than a minute ago tells about the time since then."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Place] = {}
        self._asked: dict[str, float] = {}
        self._begun: float | None = None
        """Since when anybody counts."""

    def asked(self, deployment: str, now: float) -> None:
        """A client sent a request for a deployment, whether or not anybody can serve it."""
        self._asked[deployment] = now
        self._place(deployment, "", now).slot(now).arrivals += 1

    def began(self, deployment: str, site: str, now: float) -> None:
        """A request is on its way to a site."""
        place = self._place(deployment, site, now)
        place.slot(now).arrivals += 1
        place.under_way += 1

    def first_byte(self, deployment: str, site: str, seconds: float, now: float) -> None:
        """An answer began so many seconds after its request was read."""
        self._place(deployment, site, now).slot(now).first_bytes[bucket(seconds)] += 1

    def ended(self, deployment: str, site: str, now: float, *, answered: bool) -> None:
        """A request is not at a site any more."""
        place = self._place(deployment, site, now)
        place.slot(now).completions += answered
        place.under_way -= 1

    def reports(self, deployments: Iterable[str], now: float) -> tuple[LoadReport, ...]:
        """What these deployments have to do; the others are forgotten. One that nobody ever asked for is left out."""
        known = frozenset(deployments)
        self._asked = {name: at for name, at in self._asked.items() if name in known}
        self._places = {
            key: place
            for key, place in self._places.items()
            if place.under_way or (key[0] in known and not place.is_idle(now))
        }
        by_deployment: dict[str, dict[str, _Place]] = {}
        for (deployment, site), place in sorted(self._places.items()):
            by_deployment.setdefault(deployment, {})[site] = place
        begun = self._since(now)
        names = sorted(known & (self._asked.keys() | by_deployment.keys()))
        return tuple(self._report(name, by_deployment.get(name, {}), now, begun) for name in names)

    def _report(self, deployment: str, places: Mapping[str, _Place], now: float, begun: float) -> LoadReport:
        asked, at = places.get(""), self._asked.get(deployment)
        return LoadReport(
            deployment=deployment,
            rate=0.0 if asked is None else asked.arrivals(now, begun),
            asked_s=None if at is None else max(now - at, 0.0),
            sites=tuple(
                SiteLoadReport(
                    site=site,
                    in_flight=place.mean(now, begun),
                    arrivals=place.arrivals(now, begun),
                    completions=place.completions(now, begun),
                    ttft=place.sketch(),
                )
                for site, place in places.items()
                if site
            ),
        )

    def _since(self, now: float) -> float:
        if self._begun is None:
            self._begun = now
        return self._begun

    def _place(self, deployment: str, site: str, now: float) -> _Place:
        self._since(now)
        place = self._places.get((deployment, site))
        if place is None:
            place = self._places[deployment, site] = _Place(now)
        return place


def _span(now: float, begun: float, slots: int) -> float:
    """Seconds that the last slots are about: fewer where counting has only begun, but never less than one slot."""
    return max(now - max((int(now // SLOT_S) - slots + 1) * SLOT_S, begun), SLOT_S)
