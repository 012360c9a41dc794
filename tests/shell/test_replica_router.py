"""The replica router as Serve calls it, over replicas that only exist as their reports."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from autoglm_serving.app import replica_router
from autoglm_serving.app.calls import Call
from autoglm_serving.app.replica_router import ReplicaRouter
from autoglm_serving.replica_routing.choice import STALE_S
from autoglm_serving.replica_routing.footprint import Footprint, ImagePiece, TextPiece, footprint
from autoglm_serving.replica_routing.ledger import CacheSizes, Ledger

APP = DeploymentID("Engine", "app")
BIG = CacheSizes(100_000, 100_000)


@dataclass
class Replica:
    """What the router uses of Serve's RunningReplica."""

    name: str
    ledger: Ledger = field(default_factory=lambda: Ledger(BIG))
    routing_stats: dict[str, Any] = field(default_factory=dict)
    max_ongoing_requests: int = 4
    node_id: str = "node"
    availability_zone: str | None = None
    multiplexed_model_ids: tuple[str, ...] = ()

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, APP)

    def report(self) -> None:
        self.routing_stats = self.ledger.report().as_dict()

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replica_router, "time", clock)
    return clock


def make_router(*replicas: Replica) -> ReplicaRouter:
    router = ReplicaRouter(
        deployment_id=APP, handle_source=DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True
    )
    router.initialize_state()
    for replica in replicas:
        replica.report()
    router.update_replicas(list(replicas))
    return router


def request(call: Footprint, name: str = "r") -> PendingRequest:
    metadata = RequestMetadata(request_id=name, internal_request_id=name)
    arguments = Call(name, (), 10, 0.0, 1.0, 0.0, (), None, None, call)
    return PendingRequest(args=[arguments], kwargs={}, metadata=metadata)


async def order(router: ReplicaRouter, pending: PendingRequest) -> list[str]:
    ranks = await router.choose_replicas(list(router.curr_replicas.values()), pending)
    return [replica.replica_id.unique_id for rank in ranks for replica in rank]


SCREEN = footprint([TextPiece("system", "x" * 9000), ImagePiece("user", "screen", 1200)], 10)


async def test_a_call_goes_where_the_report_says_that_its_prompt_is_cached(clock: Clock) -> None:
    second = Replica("b")
    replicas = [Replica("a"), second, Replica("c")]
    handle = second.ledger.begin(SCREEN, 0.0)
    second.ledger.answered(handle, 1, 1.0)
    second.ledger.end(handle, True, 1.0)
    router = make_router(*replicas)
    assert (await order(router, request(SCREEN)))[0] == "b"
    assert len(await order(router, request(SCREEN))) == 3


async def test_a_router_remembers_what_it_sent_until_a_report_could_say_so(clock: Clock) -> None:
    router = make_router(Replica("a"), Replica("b"))
    pending = request(SCREEN)
    router.on_request_routed(pending, ReplicaID("b", APP), None)
    router.on_request_completed(ReplicaID("b", APP), "r")
    for number in range(8):
        assert (await order(router, request(SCREEN, f"s{number}")))[0] == "b"
    clock.now += replica_router.REMEMBER_S + 1
    firsts = {(await order(router, request(SCREEN, f"t{number}")))[0] for number in range(40)}
    assert firsts == {"a", "b"}


async def test_a_call_that_lost_its_replica_goes_to_another_although_the_lost_one_has_its_prompt(clock: Clock) -> None:
    """Its engine is dead, its process is not yet: a second attempt there would be the last one."""
    router = make_router(Replica("a"), Replica("b"))
    router.on_request_routed(request(SCREEN, "lost"), ReplicaID("b", APP), None)
    router.on_request_completed(ReplicaID("b", APP), "lost")
    assert await order(router, request(SCREEN, "lost")) == ["a"]
    router.on_request_routed(request(SCREEN, "lost"), ReplicaID("a", APP), None)
    assert sorted(await order(router, request(SCREEN, "lost"))) == ["a", "b"], "better than none"
    assert (await order(router, request(SCREEN, "another")))[0] in ("a", "b")
    clock.now += 2 * replica_router.REPORT_TIMEOUT_S
    router.on_request_routed(request(SCREEN, "late"), ReplicaID("b", APP), None)
    assert await order(router, request(SCREEN, "late")) == ["a"], "without fresh reports too"


async def test_each_call_that_was_sent_is_counted_once_by_why_it_went_there(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = make_router(Replica("a"), Replica("b"))
    counted: list[str] = []
    monkeypatch.setattr(router._metrics, "sent", counted.append)
    first, again = request(SCREEN, "first"), request(SCREEN, "again")
    await order(router, first)
    await order(router, first)  # as when it has to wait for a free replica
    router.on_request_routed(first, ReplicaID("a", APP), None)
    router.on_request_completed(ReplicaID("a", APP), "first")
    await order(router, again)
    router.on_request_routed(again, ReplicaID("a", APP), None)
    clock.now += STALE_S + 1
    late = request(SCREEN, "late")
    await order(router, late)
    router.on_request_routed(late, ReplicaID("b", APP), None)
    router.on_request_routed(request(SCREEN, "never chosen"), ReplicaID("b", APP), None)
    assert counted == ["least-work", "cached-prefix", "stale-reports"]


async def test_work_that_was_sent_counts_until_it_has_ended(clock: Clock) -> None:
    router = make_router(Replica("a"), Replica("b"))
    other = footprint([ImagePiece("user", "another", 6000)], 10)
    router.on_request_routed(request(other, "big"), ReplicaID("a", APP), None)
    assert {(await order(router, request(SCREEN, f"s{number}")))[0] for number in range(20)} == {"b"}
    router.on_request_completed(ReplicaID("a", APP), "big")
    assert {(await order(router, request(SCREEN, f"s{number}")))[0] for number in range(40)} == {"a", "b"}


async def test_without_fresh_reports_two_replicas_are_chosen_as_serve_does(clock: Clock) -> None:
    router = make_router(*(Replica(name) for name in "abcd"))
    clock.now += STALE_S + 1
    ranks = await router.choose_replicas(list(router.curr_replicas.values()), request(SCREEN))
    assert [len(rank) for rank in ranks] == [2]


async def test_a_report_that_was_seen_before_does_not_become_younger(clock: Clock) -> None:
    replicas = [Replica("a"), Replica("b"), Replica("c")]
    router = make_router(*replicas)
    clock.now += STALE_S + 1
    router.update_replicas(replicas)
    assert [len(rank) for rank in await router.choose_replicas(replicas, request(SCREEN))] == [2]
    for replica in replicas:
        replica.report()
    router.update_replicas(replicas)
    assert [len(rank) for rank in await router.choose_replicas(replicas, request(SCREEN))] == [1, 1, 1]


async def test_requests_without_a_footprint_are_routed_as_serve_does(clock: Clock) -> None:
    router = make_router(Replica("a"), Replica("b"))
    check = PendingRequest(args=[], kwargs={}, metadata=RequestMetadata(request_id="c", internal_request_id="c"))
    assert sorted(await order(router, check)) == ["a", "b"]
    router.on_request_routed(check, ReplicaID("a", APP), None)
    assert sorted(await order(router, request(SCREEN))) == ["a", "b"]


async def test_what_a_dead_replica_had_is_forgotten(clock: Clock) -> None:
    replicas = [Replica("a"), Replica("b")]
    router = make_router(*replicas)
    router.on_request_routed(request(SCREEN, "x"), ReplicaID("b", APP), None)
    router.on_replica_actor_died(ReplicaID("b", APP))
    assert await order(router, request(SCREEN)) == ["a"]
    router.update_replicas(replicas)
    await asyncio.sleep(0)
    assert {(await order(router, request(SCREEN, f"t{number}")))[0] for number in range(40)} == {"a", "b"}
