"""Placement through the real operator and a real API server: replicas at two Ray clusters, their moves, a site that is full."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.fake_ray import FakeRay
from support.operator import GROUP, World

CORES = 6.0
REPLICAS = 4


class Pair:
    """Two sites with room for six replicas each: the test's own Ray cluster is the first one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rays = {f"{world.site}-a": world.ray, f"{world.site}-b": FakeRay()}
        self.a, self.b = self.rays
        self.asked: list[dict[str, int]] = []
        """Replicas that were asked for by site, after each write."""
        self.fewest = REPLICAS
        """The fewest replicas that ran at any moment since `begin`."""
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def open(self) -> None:
        """Both clusters listen, and are sites."""
        for name, ray in self.rays.items():
            ray.cores = CORES
            ray.after_put = self._note
            if ray is not self.world.ray:
                ray.start()
            self.world.apply_site(name, ray)
        self._watch.start()

    def close(self) -> None:
        """The watching ends, and the second cluster."""
        self._stopped.set()
        self._watch.join()
        self.rays[self.b].close()

    def begin(self) -> None:
        """Forgets what was before."""
        self.asked, self.fewest = [self.replicas()], REPLICAS

    def price(self, site: str, price: float) -> None:
        """What an hour at a site costs from now on."""
        found = self.world.installation.request("PATCH", f"{GROUP}/autoglmsites/{site}", {"spec": {"price": price}})
        assert found is not None

    def replicas(self) -> dict[str, int]:
        """Replicas that each cluster was asked for."""
        name = self.world.application()
        configs = {site: ray.config(name) for site, ray in self.rays.items()}
        return {site: each["deployments"][0]["num_replicas"] for site, each in configs.items() if each is not None}

    def running(self) -> int:
        """Replicas that run at both."""
        found = (ray.applications.get(self.world.application()) for ray in self.rays.values())
        return sum(one.running for one in found if one is not None)

    def placement(self) -> dict[str, Any]:
        """What the status says of the placement."""
        return dict(((self.world.deployment() or {}).get("status") or {}).get("placement") or {})

    def told(self) -> dict[str, int]:
        """Replicas by site, as the status has them."""
        return {row["name"]: row["replicas"] for row in self.placement().get("sites") or () if row["replicas"]}

    def ready(self) -> dict[str, int]:
        """Ready replicas by site, as the status has them."""
        rows = ((self.world.deployment() or {}).get("status") or {}).get("sites") or ()
        return {row["name"]: row["ready"] for row in rows if row.get("ready")}

    def routes(self) -> set[str]:
        """Sites that the gateway sends requests to."""
        table, name = self.world.gateway.table, f"{self.world.namespace}/phones"
        routes = table.routes if table is not None else ()
        return {end.site for route in routes if route.deployment == name for end in route.endpoints}

    def is_at(self, **replicas: int) -> bool:
        """Whether clusters, status and gateway agree that so many replicas are at a and at b, and they run."""
        wanted = {{"a": self.a, "b": self.b}[name]: count for name, count in replicas.items()}
        found = (self.replicas(), self.told(), self.ready(), self.routes(), self.running())
        return found == (wanted, wanted, wanted, set(wanted), sum(wanted.values())) and self.world.is_ready()

    def _note(self) -> None:
        now = self.replicas()
        if not self.asked or self.asked[-1] != now:
            self.asked.append(now)

    def _look(self) -> None:
        while not self._stopped.wait(0.01):
            self.fewest = min(self.fewest, self.running())


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    """Two sites; the first one is the cheaper one."""
    pair = Pair(world)
    pair.open()
    try:
        pair.price(pair.a, 1.0)
        pair.price(pair.b, 2.0)
        yield pair
    finally:
        pair.close()


def place(pair: Pair) -> None:
    """A deployment whose replicas are placed over both."""
    pair.world.apply_deployment(
        replicas=REPLICAS, sites={"names": [pair.a, pair.b]}, placement={"maxMoves": 1, "settle": "1s"}
    )


def test_replicas_go_where_they_cost_least_move_one_by_one_and_leave_a_site_that_is_full(pair: Pair) -> None:
    world = pair.world
    place(pair)
    world.wait(lambda: pair.is_at(a=4), "all are at the cheaper site")
    assert pair.placement()["price"] == REPLICAS

    pair.begin()
    pair.price(pair.a, 5.0)
    world.wait(lambda: pair.is_at(b=4), "all are at the other site, which is the cheaper one now")
    at_b = [one.get(pair.b, 0) for one in pair.asked]
    assert max(after - before for before, after in itertools.pairwise(at_b)) == 1, "maxMoves"
    assert at_b == sorted(at_b), "none is taken back on the way"
    assert pair.fewest == REPLICAS, "the next one runs before the last one goes"
    assert max(sum(one.values()) for one in pair.asked) == REPLICAS + 1

    pair.begin()
    pair.rays[pair.b].cores = 2.0
    world.wait(lambda: pair.is_at(a=2, b=2), "two are where there is room for them")
    assert all(one[pair.b] >= 2 for one in pair.asked), "what runs stays"
    assert pair.fewest == 2
    why = {row["name"]: row["why"] for row in pair.placement()["sites"]}
    assert why[pair.b].startswith("2 of 2 that fit"), "though a replica is dearer at the other site"

    asked = len(pair.asked)
    looks = pair.rays[pair.b].count("GET")
    world.wait(lambda: pair.rays[pair.b].count("GET") >= looks + 4, "the operator looked again and again")
    assert len(pair.asked) == asked, "the full site is not tried again"
    assert pair.is_at(a=2, b=2)
