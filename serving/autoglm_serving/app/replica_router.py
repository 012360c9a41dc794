"""Serve's request router for the engine replicas: `replica_routing` decides, this class keeps what it needs to know.

Each ingress process has a router of its own. It learns from the replicas' reports, which Serve's controller brings about
once a second, and from what it sent itself in between. Without fresh reports it does what Serve's default router does.
"""

import time
from dataclasses import dataclass
from typing import Any

from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import (
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from autoglm_serving.app.calls import Call
from autoglm_serving.app.metrics import RouterMetrics
from autoglm_serving.replica_routing.choice import Reason, ReplicaState, choose, cost
from autoglm_serving.replica_routing.footprint import Footprint
from autoglm_serving.replica_routing.report import Report, read_report

REPORT_PERIOD_S = 1.0
REPORT_TIMEOUT_S = 10.0
LAG_S = 0.3
"""A report is about so old when it comes."""
REMEMBER_S = 5.0
"""For so long a router believes that what it sent is cached; after that the replica's report must say so."""

MAX_TRIED = 4096
"""Calls of which a router remembers where they were tried: far more than are on their way at once."""

MAX_SENT = 4096
"""More calls than all ingresses take at once; a bound should Serve ever not say that one has ended."""


@dataclass
class _Heard:
    """A replica's last report, and when it came."""

    report: Report
    at: float


@dataclass(frozen=True)
class _Sent:
    """A call that this router sent and that has not ended."""

    replica: ReplicaID
    prompt_s: float
    answer_s: float
    at: float


class ReplicaRouter(LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # Ray's classes have no types
    """Chooses by predicted time to the first token."""

    def initialize_state(self, **_kwargs: Any) -> None:
        """Serve calls this before the first request."""
        self._heard: dict[ReplicaID, _Heard] = {}
        self._sent: dict[str, _Sent] = {}
        self._notes: dict[ReplicaID, list[tuple[float, Footprint]]] = {}
        self._tried: dict[str, frozenset[ReplicaID]] = {}
        self._reasons: dict[str, Reason] = {}
        self._metrics = RouterMetrics()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve calls this when replicas come, go or report."""
        now = time.monotonic()
        for replica in replicas:
            report = read_report(replica.routing_stats or {})
            heard = self._heard.get(replica.replica_id)
            if report is not None and (heard is None or heard.report.sequence != report.sequence):
                self._heard[replica.replica_id] = _Heard(report, now)
        there = {replica.replica_id for replica in replicas}
        self._heard = {name: heard for name, heard in self._heard.items() if name in there}
        self._notes = {name: notes for name, notes in self._notes.items() if name in there}
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas to try, one after the other. A call that lost its replica goes elsewhere while there is another.

        Its own prompt would call it back: the replica that is just ending has it cached.
        """
        footprint = _footprint(pending_request)
        tried = self._tried.get(_call_id(pending_request), frozenset())
        candidate_replicas = [each for each in candidate_replicas if each.replica_id not in tried] or candidate_replicas
        if footprint is not None and pending_request is not None:
            states = [self._state(replica) for replica in candidate_replicas]
            name = pending_request.metadata.internal_request_id
            choice = choose(footprint, states, name)
            self._remember_reason(name, choice.reason)
            if choice.order:
                pending_request.routing_context.should_backoff = True
                by_name = {replica.replica_id.to_full_id_str(): replica for replica in candidate_replicas}
                return [[by_name[prediction.name]] for prediction in choice.order]
        fallback: list[list[RunningReplica]] = await PowerOfTwoChoicesRequestRouter.choose_replicas(
            self, candidate_replicas, pending_request
        )
        elsewhere = [[each for each in rank if each.replica_id not in tried] for rank in fallback]
        return [rank for rank in elsewhere if rank] or fallback

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, _result: Any) -> None:
        """Serve calls this when a replica has taken a request."""
        self._remember_try(_call_id(pending_request), replica_id)
        reason = self._reasons.pop(pending_request.metadata.internal_request_id, None)
        if reason is not None:
            self._metrics.sent(reason)
        footprint, replica = _footprint(pending_request), self._replicas.get(replica_id)
        if footprint is None or replica is None or replica_id not in self._heard:
            return
        now = time.monotonic()
        prompt_s, answer_s = cost(footprint, self._state(replica))
        _make_room(self._sent, MAX_SENT)
        self._sent[pending_request.metadata.internal_request_id] = _Sent(replica_id, prompt_s, answer_s, now)
        notes = self._notes.setdefault(replica_id, [])
        notes.append((now, footprint))
        while notes and now - notes[0][0] > REMEMBER_S:
            notes.pop(0)

    def _remember_reason(self, request: str, reason: Reason) -> None:
        """Until the request is sent; one that never is stays until there are too many."""
        self._reasons.pop(request, None)
        _make_room(self._reasons, MAX_SENT)
        self._reasons[request] = reason

    def _remember_try(self, call: str, replica: ReplicaID) -> None:
        if call:
            _make_room(self._tried, MAX_TRIED)
            self._tried[call] = self._tried.get(call, frozenset()) | {replica}

    def on_request_completed(self, _replica_id: ReplicaID, internal_request_id: str) -> None:
        """Serve calls this when a request has ended, however it did."""
        self._sent.pop(internal_request_id, None)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Nothing is cached there any more."""
        super().on_replica_actor_died(replica_id)
        self._heard.pop(replica_id, None)
        self._notes.pop(replica_id, None)
        self._sent = {name: sent for name, sent in self._sent.items() if sent.replica != replica_id}

    def _state(self, replica: RunningReplica) -> ReplicaState:
        now = time.monotonic()
        name = replica.replica_id
        heard = self._heard.get(name)
        since = heard.at - LAG_S if heard is not None else now
        sent = [each for each in self._sent.values() if each.replica == name and each.at >= since]
        blocks = [
            block for at, footprint in self._notes.get(name, ()) if now - at <= REMEMBER_S for block in footprint.blocks
        ]
        return ReplicaState(
            name=name.to_full_id_str(),
            report=heard.report if heard is not None else None,
            age_s=now - heard.at if heard is not None else 0.0,
            running=self._replica_queue_len_cache.get(name) or 0,
            places=replica.max_ongoing_requests,
            sent_prompt_s=sum(max(0.0, each.prompt_s - (now - each.at)) for each in sent),
            sent_answer_s=sum(each.answer_s for each in sent),
            images=frozenset(block.image for block in blocks if block.image is not None),
            keys=frozenset(block.key for block in blocks),
        )


def _make_room(held: dict[str, Any], most: int) -> None:
    """Forget the oldest until there is room for one more."""
    while len(held) >= most:
        del held[next(iter(held))]


def _call(pending: PendingRequest | None) -> Call | None:
    """The call that is sent; None for other requests, as a health check."""
    if pending is None or not pending.args or not isinstance(pending.args[0], Call):
        return None
    return pending.args[0]


def _footprint(pending: PendingRequest | None) -> Footprint | None:
    call = _call(pending)
    return call.footprint if call is not None else None


def _call_id(pending: PendingRequest | None) -> str:
    """The same for every attempt of a call; empty for other requests."""
    call = _call(pending)
    return call.request_id if call is not None else ""
