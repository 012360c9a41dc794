"""One request on its way to a server: the decision, and what its answer teaches.

Made when the body is read, told about the answer's headers, closed when the exchange ends.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from autoglm_serving import headers, resolution, sharing
from autoglm_serving.config import BASE
from autoglm_serving.gateway import health
from autoglm_serving.gateway.fleet import Fleet, Flight, Member
from autoglm_serving.gateway.loads import Loads
from autoglm_serving.gateway.metrics import Metrics
from autoglm_serving.gateway.mirror import Mirror, Original
from autoglm_serving.gateway.recent import Recent
from autoglm_serving.gateway.records import Record, Records
from autoglm_serving.gateway.tallies import Tallies
from autoglm_serving.routing import NoEndpoint, Pick, Profile, RequestCost, features, learn, own_work, pick
from autoglm_serving.routing_table import Route, VariantPolicy
from autoglm_serving.tracing import Tracing
from autoglm_serving.vision.quality import interval
from autoglm_serving.wire import api_error

CHAT = "/v1/chat/completions"
MAX_TIMEOUT_SECONDS = 3600.0
LONG_WAIT_SECONDS = 10.0
"""A client that leaves after such a wait, and after the time to the first token that is aimed at, leaves because of it."""
DEFAULT_LOAD_SECONDS = 2.0
"""Queued work that counts as full load where a deployment names no target."""


@dataclass
class Context:
    """What all exchanges share."""

    fleet: Fleet
    records: Records
    metrics: Metrics
    tracing: Tracing
    turns: dict[str, int] = field(default_factory=dict)
    """Round robin's turn of each deployment."""
    recent: Recent = field(default_factory=Recent)
    loads: Loads = field(default_factory=Loads)
    tallies: Tallies = field(init=False)
    mirror: Mirror = field(init=False)

    def __post_init__(self) -> None:
        self.tallies = Tallies(self.fleet)
        self.mirror = Mirror(self.fleet, self.tallies, self.metrics)

    def next_turn(self, deployment: str) -> int:
        turn = self.turns[deployment] = self.turns.get(deployment, -1) + 1
        return turn


@dataclass(frozen=True)
class Answer:
    """The headers of an answer, as the picker sees them."""

    status: int
    values: Mapping[str, str]
    address: str
    """The endpoint that Envoy reached last; empty when it reached none."""
    from_server: bool
    """False: Envoy made the answer itself."""

    @property
    def from_application(self) -> bool:
        """Every answer of the application names its revision; a proxy in front of it does not."""
        return self.from_server and headers.REVISION in self.values

    @property
    def full(self) -> bool:
        """The server refuses requests for now: it is busy, not broken."""
        return self.from_server and "retry-after" in self.values


class Dispatch:
    """The claim of one request on one endpoint at a time. Raises ApiError `not_ready` when there is none."""

    def __init__(
        self,
        context: Context,
        route: Route,
        cost: RequestCost,
        record: Record,
        *,
        session: str = "",
        tenant: str = "",
    ) -> None:
        self._context, self._route, self._record = context, route, record
        self._tenant = tenant
        self._at = time.monotonic()
        self._streams = cost.streams
        self._ttft_s: float | None = None
        self._status: int | None = None
        self._variant = ""
        self._closed = False
        members = self._side(session)
        self._members = {member.address: member for member in members if member.address is not None}
        decision = self._decide(cost)
        self._chosen = self._members[decision.chosen.name]
        self._revision = self._chosen.wanted
        size = self._resolution(decision, resolution.kind_of(cost.images))
        self._max_pixels = resolution.pixel_limit(cost.images, size.short_side)
        self._weights = decision.chosen.weights
        self._seen = features(cost, decision.chosen.queued_work_s, self._max_pixels)
        self._link_s = decision.scores[0].upload_s + decision.scores[0].round_trip_s
        self._work_s = own_work(cost, self._weights, self._max_pixels)
        self._flight = Flight(self._chosen, self._work_s)
        self._note(cost, decision, size)
        self._site = self._chosen.endpoint.site
        context.loads.began(route.deployment, self._site, self._at)

    def close(self) -> None:
        """Release the claim, and count the request. Closing twice is harmless."""
        self._flight.close()
        if not self._closed:
            self._closed = True
            now = time.monotonic()
            answered = self._status is not None and self._status < 500
            self._context.loads.ended(self._route.deployment, self._site, now, answered=answered)
            self._count(now - self._at)

    def _count(self, total_s: float) -> None:
        """Count the request for the revision that had it, unless the step of the rollout has changed since it began.

        A client that leaves before the answer begins counts as failed by the revision after a long wait. One that leaves
        sooner counts nowhere: people stop what they started, whoever answers.
        """
        canary, status = self._route.canary, self._status
        patience_s = max(LONG_WAIT_SECONDS, self._route.ttft_target_s or 0.0)
        if canary is None or (status is None and total_s < patience_s):
            return
        tally = self._context.tallies.of(self._route, self._revision)
        if tally is not None and tally.window == canary.window:
            failed = status is None or status >= 500
            tally.ended(mirrored=False, failed=failed, ttft_s=self._ttft_s, total_s=total_s)

    def mirror(self, body: bytes) -> dict[str, str]:
        """Copy the request to the canary, if it is one of those. The headers that make Envoy show the answer."""
        original = Original(
            route=self._route,
            request_id=self._record.request_id,
            body=body,
            streams=self._streams,
            path=CHAT,
            max_pixels=None if self._max_pixels is None else str(self._max_pixels),
            work_s=self._work_s,
            tenant=self._tenant,
        )
        if self._record.side != "stable" or not self._context.mirror.offer(original):
            return {}
        self._record.mirrored = True
        return {headers.OBSERVE: "1"}

    @property
    def upstream_headers(self) -> dict[str, str]:
        """What Envoy and the application must know."""
        attempts = self._record.attempts_planned
        timeout_ms = round(min(self._route.timeout_s, MAX_TIMEOUT_SECONDS) * 1000)
        changes = {
            headers.DESTINATION: ",".join(attempts),
            ":path": self._chosen.path + CHAT,
            "x-envoy-max-retries": str(len(attempts) - 1),
            "x-envoy-upstream-rq-timeout-ms": str(max(timeout_ms, 1)),
        }
        if self._max_pixels is not None:
            changes[headers.MAX_PIXELS] = str(self._max_pixels)
        if self._tenant:
            changes[headers.TENANT] = self._tenant
        return changes

    def _side(self, session: str) -> list[Member]:
        """The endpoints of the revision that serves this session."""
        route, fleet, tallies = self._route, self._context.fleet, self._context.tallies
        stable, canary = fleet.of(route), route.canary
        if canary is None:
            return stable
        other = fleet.of(route, canary)
        self._record.side = side = sharing.side(
            sharing.place(session, canary.revision),
            canary.weight,
            stable_answers=any(tallies.answers(member) for member in stable),
            canary_admitted=any(tallies.admitted(member) for member in other),
        )
        return stable if side == "stable" else [member for member in other if tallies.admitted(member)]

    def _decide(self, cost: RequestCost) -> Pick:
        route = self._route
        profile = Profile(
            policy=route.policy,
            ttft_target_s=route.ttft_target_s,
            retries=route.retries,
            turn=self._context.next_turn(route.deployment),
            max_pixels=resolution.pixel_limit(cost.images, route.resolution.max_short_side),
            variants=route.variants,
        )
        states = self._context.fleet.states(list(self._members.values()), self._at)
        decision = pick(cost, states, profile, self._at)
        self._record.left_out = decision.left_out
        if isinstance(decision, NoEndpoint):
            raise api_error("not_ready", f"the model {route.model} is not ready: {decision.message}")
        return decision

    def _resolution(self, decision: Pick, kind: str) -> resolution.Resolution:
        route, chosen, fleet = self._route, self._chosen, self._context.fleet
        links = [fleet.figures(endpoint, self._at).at_least_bps for endpoint in route.endpoints]
        share = resolution.bandwidth_share(decision.chosen.bandwidth_bps, links)
        load = decision.chosen.queued_work_s / (route.ttft_target_s or DEFAULT_LOAD_SECONDS)
        size = resolution.choose(route.resolution, resolution.Conditions(share, load), chosen.short_side, kind)
        chosen.short_side = size.smoothed
        return size

    def _note(self, cost: RequestCost, decision: Pick, size: resolution.Resolution) -> None:
        record = self._record
        record.body_bytes, record.text_characters = cost.body_bytes, cost.text_characters
        record.images, record.streams = cost.images, cost.streams
        record.candidates, record.reason = decision.scores, decision.reason
        record.attempts_planned = tuple(endpoint.name for endpoint in decision.attempts)
        record.short_side, record.resolution_reason = size.short_side, size.reason
        record.may_enlarge = size.may_enlarge
        if size.expected is not None:
            record.expected_quality, record.expected_loss = size.expected.accuracy, size.expected.loss
            record.quality_basis = f"{size.expected.kind} {size.expected.basis}, {size.expected.samples} tasks"
        record.max_pixels = self._max_pixels
        record.site, record.endpoint = decision.chosen.site, decision.chosen.name
        if self._route.variants is not None:
            self._tell_variant(self._route.variants, decision.chosen.variant)
        self._context.metrics.picks.labels(decision.chosen.site, decision.reason, record.variant).inc()

    def _tell_variant(self, policy: VariantPolicy, name: str) -> None:
        self._record.variant, measured, share = name, policy.quality(name), policy.share(name)
        if measured is None:
            self._record.variant_quality = "nobody has measured what it solves"
            return
        sure = interval(measured.right / measured.samples, measured.samples)
        text = f"{measured.right} of {measured.samples} tasks right ({sure.low:.1%} to {sure.high:.1%})"
        told = "" if name == BASE or share is None else f", {share:.1%} of what the model itself solves"
        self._record.variant_quality = text + told

    def observe(self, answer: Answer) -> None:
        """The answer's headers are there: move the claim, the health, the weights, the record."""
        attempts = int(answer.values.get("x-envoy-attempt-count", "1"))
        served = self._members.get(answer.address, self._chosen)
        record = self._record
        record.attempts, record.endpoint, record.site = attempts, answer.address, served.endpoint.site
        record.revision = answer.values.get(headers.REVISION, "")
        self._variant = answer.values.get(headers.VARIANT, "")
        told = self._variant or BASE
        if self._route.variants is not None and answer.from_application and told != record.variant:
            self._tell_variant(self._route.variants, told)
        now = time.monotonic()
        self._ttft_s, self._status = now - self._at, answer.status
        self._revision = record.revision or served.wanted
        for name in record.attempts_planned[: attempts - 1]:
            _blame(self._members[name], now)
        if served is not self._flight.member:
            self._flight.move(served)
            self._went_on(served.endpoint.site, now)
        if answer.from_application and answer.status < 500:
            self._praise(served, now)
            if attempts == 1 and served is self._chosen and answer.status < 400:
                self._learn(served, now)
        elif not answer.full:
            _blame(served, now)
        if attempts > 1:
            self._context.metrics.retried.inc()

    def _went_on(self, site: str, now: float) -> None:
        """Another endpoint has the request, at the same site or at another one."""
        loads, deployment = self._context.loads, self._route.deployment
        if site != self._site:
            loads.ended(deployment, self._site, now, answered=False)
            loads.began(deployment, site, now)
            self._site = site

    def _praise(self, served: Member, now: float) -> None:
        seconds = now - self._at
        if self._status is not None and self._status < 400:
            self._context.recent.began(self._route.deployment, seconds, now)
            self._context.loads.first_byte(self._route.deployment, served.endpoint.site, seconds, now)
        self._context.metrics.first_byte_seconds.labels(self._route.deployment).observe(seconds)
        revision, at = self._record.revision, datetime.now(UTC)
        served.health = health.served(served.health, revision, served.wanted, seconds, at, self._variant)

    def _learn(self, served: Member, now: float) -> None:
        before = served.weights if served.samples else self._weights
        served.weights = learn(before, self._seen, max(now - self._at - self._link_s, 0.0))
        served.samples, served.learned_at = served.samples + 1, now


def _blame(member: Member, now: float) -> None:
    member.health = health.request_failed(member.health, now)
