"""Which endpoint serves a request: filter, score, pick. No clock, no I/O: the caller passes the time and the state.

The score is the predicted time to the first byte:

    upload bytes / bandwidth + round trip + predicted work of the server

where the server's work is linear in what the request costs (image tokens, text tokens, whether it streams) and in the work
that is queued there. The weights start from a guess and follow measured times (normalised least mean squares), so a slow
accelerator, or one that batches well, shows within a few requests.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.config import BASE
from autoglm_serving.images import ImageSize
from autoglm_serving.routing_table import Policy, VariantPolicy
from autoglm_serving.vision.sizing import image_tokens

Reason = Literal["least_work", "cheapest_on_target", "round_robin", "only_endpoint", "old_revision", "last_resort"]

CHARACTERS_PER_TOKEN = 3.0
"""Between English (4) and Chinese (1.8) as measured on AutoGLM's prompts; only the ranking depends on it."""

LEARNING_RATE = 0.2
SAMPLES_FOR_HALF_TRUST = 3
TRUST_HALF_LIFE_S = 60.0
_TIE_SECONDS = 0.001
_MAX_WEIGHT = 600.0


@dataclass(frozen=True)
class RequestCost:
    """What a request brings, read from its body without decoding any image."""

    request_id: str
    body_bytes: int
    text_characters: int = 0
    images: tuple[ImageSize, ...] = ()
    streams: bool = True

    def image_tokens(self, max_pixels: int | None) -> int:
        """Image tokens in the prompt under the pixel limit; without one, at full size."""
        return sum(image_tokens(size.width, size.height, max_pixels or size.pixels * 2) for size in self.images)


@dataclass(frozen=True)
class Weights:
    """Seconds of server work for each unit of a request's cost."""

    fixed: float = 0.05
    thousand_image_tokens: float = 0.3
    thousand_text_tokens: float = 0.1
    whole_answer: float = 1.0
    """Added when the answer is not streamed: its first byte is its last."""
    queued_second: float = 1.0
    """Waiting time for each second of queued work: near 1 where requests run one by one, less where they are batched."""


Features = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class EndpointState:
    """What the gateway knows about one endpoint at the moment of a pick."""

    name: str
    """`host:port` as Envoy knows it."""
    site: str
    path: str = ""
    """Prefix of the application; retries stay among endpoints with the same prefix."""
    answers: bool = True
    """The last probe or request was answered."""
    wanted_revision: bool = True
    breaker_open_until: float = 0.0
    in_flight: int = 0
    queued_work_s: float = 0.0
    bandwidth_bps: float | None = None
    rtt_s: float | None = None
    price: float = 0.0
    weights: Weights = Weights()
    variant: str = BASE
    """The variant of the model that answered last."""


@dataclass(frozen=True)
class Profile:
    """How to pick: a route's policy and the turn of its round robin."""

    policy: Policy = "leastWork"
    ttft_target_s: float | None = None
    retries: int = 1
    turn: int = 0
    max_pixels: int | None = None
    variants: VariantPolicy | None = None
    """What each variant of the model solves, and the floor; None for a deployment without variants."""


@dataclass(frozen=True)
class LeftOut:
    """An endpoint whose variant of the model must not serve, and why."""

    endpoint: str
    site: str
    variant: str
    why: str


@dataclass(frozen=True)
class Score:
    """Predicted seconds to the first byte at one endpoint, by part."""

    endpoint: str
    site: str
    upload_s: float
    round_trip_s: float
    queue_s: float
    work_s: float
    in_flight: int
    variant: str = BASE

    @property
    def total_s(self) -> float:
        return self.upload_s + self.round_trip_s + self.queue_s + self.work_s


@dataclass(frozen=True)
class Pick:
    """The endpoints in the order of attempts, and why."""

    attempts: tuple[EndpointState, ...]
    scores: tuple[Score, ...]
    reason: Reason
    left_out: tuple[LeftOut, ...] = ()

    @property
    def chosen(self) -> EndpointState:
        return self.attempts[0]


@dataclass(frozen=True)
class NoEndpoint:
    """No endpoint can serve the request now."""

    message: str
    left_out: tuple[LeftOut, ...] = ()


def pick(request: RequestCost, endpoints: Sequence[EndpointState], profile: Profile, now: float) -> Pick | NoEndpoint:
    """Filter, score and order the endpoints of one route. `now` is in the unit of `breaker_open_until`."""
    left_out = _left_out(endpoints, profile.variants)
    out = {one.endpoint for one in left_out}
    endpoints = [endpoint for endpoint in endpoints if endpoint.name not in out]
    candidates, fallback = _candidates(endpoints, now)
    if not candidates:
        return NoEndpoint(_why_none(endpoints, left_out), left_out)
    scores = {endpoint.name: score(request, endpoint, profile.max_pixels) for endpoint in candidates}
    ordered, reason = _order(request, candidates, scores, profile)
    # Endpoints with a closed breaker come first; the others stay in reserve for retries.
    reserve = [e for e in endpoints if e.answers and e.name not in scores]
    attempts = _attempts([*ordered, *reserve], profile.retries)
    listed = tuple(scores[endpoint.name] for endpoint in ordered)
    return Pick(attempts, listed, fallback or ("only_endpoint" if len(candidates) == 1 else reason), left_out)


def score(request: RequestCost, endpoint: EndpointState, max_pixels: int | None = None) -> Score:
    """Predict one request at one endpoint."""
    upload = request.body_bytes * 8 / endpoint.bandwidth_bps if endpoint.bandwidth_bps else 0.0
    return Score(
        endpoint=endpoint.name,
        site=endpoint.site,
        upload_s=upload,
        round_trip_s=endpoint.rtt_s or 0.0,
        queue_s=endpoint.queued_work_s * endpoint.weights.queued_second,
        work_s=own_work(request, endpoint.weights, max_pixels),
        in_flight=endpoint.in_flight,
        variant=endpoint.variant,
    )


def own_work(request: RequestCost, weights: Weights, max_pixels: int | None = None) -> float:
    """Predicted seconds of work of one request on an idle server."""
    return _dot(_vector(weights), features(request, 0.0, max_pixels))


def features(request: RequestCost, queued_work_s: float, max_pixels: int | None = None) -> Features:
    """What a measured time is explained by, in the order of Weights."""
    return (
        1.0,
        request.image_tokens(max_pixels) / 1000,
        request.text_characters / CHARACTERS_PER_TOKEN / 1000,
        0.0 if request.streams else 1.0,
        queued_work_s,
    )


def learn(weights: Weights, seen: Features, seconds: float) -> Weights:
    """Move the weights towards a measured time. Weights stay at or above zero; absurd measurements change nothing."""
    if not math.isfinite(seconds) or seconds < 0:
        return weights
    vector = _vector(weights)
    error = seconds - _dot(vector, seen)
    step = LEARNING_RATE * error / _dot(seen, seen)
    moved = [min(max(weight + step * value, 0.0), _MAX_WEIGHT) for weight, value in zip(vector, seen, strict=True)]
    return Weights(*moved)


def typical(known: Sequence[Weights]) -> Weights:
    """What to expect of an endpoint nobody has measured: the mean of its measured peers, else the first guess."""
    if not known:
        return Weights()
    columns = zip(*(_vector(weights) for weights in known), strict=True)
    return Weights(*(sum(column) / len(known) for column in columns))


def trusted(own: Weights, peers: Weights, samples: int, idle_s: float) -> Weights:
    """An endpoint's measured weights, moved towards its peers' where measurements are few or old.

    Without it an endpoint that was slow once, or was never tried, would never be tried again.
    """
    trust = samples / (samples + SAMPLES_FOR_HALF_TRUST) * 0.5 ** (max(idle_s, 0.0) / TRUST_HALF_LIFE_S)
    pairs = zip(_vector(own), _vector(peers), strict=True)
    return Weights(*(trust * mine + (1 - trust) * theirs for mine, theirs in pairs))


def _left_out(endpoints: Sequence[EndpointState], variants: VariantPolicy | None) -> tuple[LeftOut, ...]:
    """The endpoints below the floor. What answers there counts, whatever shall run there: a change may be under way."""
    if variants is None:
        return ()
    return tuple(
        LeftOut(endpoint.name, endpoint.site, endpoint.variant, why)
        for endpoint in endpoints
        if endpoint.answers and (why := variants.shortfall(endpoint.variant))
    )


def _candidates(endpoints: Sequence[EndpointState], now: float) -> tuple[list[EndpointState], Reason | None]:
    """The best non-empty group: wanted revision, else another revision that answers, else those with an open breaker."""
    answering = [endpoint for endpoint in endpoints if endpoint.answers]
    closed = [endpoint for endpoint in answering if endpoint.breaker_open_until <= now]
    wanted = [endpoint for endpoint in closed if endpoint.wanted_revision]
    if wanted:
        return wanted, None
    if closed:
        return closed, "old_revision"
    return answering, "last_resort"


def _order(
    request: RequestCost, candidates: list[EndpointState], scores: dict[str, Score], profile: Profile
) -> tuple[list[EndpointState], Reason]:
    if profile.policy == "roundRobin":
        by_name = sorted(candidates, key=lambda endpoint: endpoint.name)
        turn = profile.turn % len(by_name)
        return by_name[turn:] + by_name[:turn], "round_robin"

    def by_time(endpoint: EndpointState) -> tuple[int, int, str]:
        ticks = round(scores[endpoint.name].total_s / _TIE_SECONDS)
        return (ticks, endpoint.in_flight, _spread(request.request_id, endpoint.name))

    fastest_first = sorted(candidates, key=by_time)
    if profile.ttft_target_s is None:
        return fastest_first, "least_work"
    target = profile.ttft_target_s
    on_target = [e for e in fastest_first if scores[e.name].total_s <= target]
    if not on_target:
        return fastest_first, "least_work"
    on_target.sort(key=lambda endpoint: endpoint.price)
    late = [e for e in fastest_first if scores[e.name].total_s > target]
    return on_target + late, "cheapest_on_target"


def _attempts(ordered: list[EndpointState], retries: int) -> tuple[EndpointState, ...]:
    """One attempt at each endpoint in turn; with fewer endpoints than attempts, the first is tried again.

    A second attempt at the same endpoint covers a connection that the server closed while the request was on its way.
    """
    same_path = [endpoint for endpoint in ordered if endpoint.path == ordered[0].path]
    return tuple(same_path[attempt % len(same_path)] for attempt in range(1 + retries))


def _why_none(endpoints: Sequence[EndpointState], left_out: Sequence[LeftOut]) -> str:
    if left_out:
        why = "; ".join(f"{one.site} runs variant {one.variant}: {one.why}" for one in left_out)
        return f"no endpoint that may serve answers yet ({why})"
    if not endpoints:
        return "the deployment has no site yet"
    return f"none of the {len(endpoints)} endpoints of the deployment answers yet"


def _spread(request_id: str, name: str) -> str:
    return hashlib.sha256(f"{request_id} {name}".encode()).hexdigest()


def _vector(weights: Weights) -> Features:
    return (
        weights.fixed,
        weights.thousand_image_tokens,
        weights.thousand_text_tokens,
        weights.whole_answer,
        weights.queued_second,
    )


def _dot(left: Features, right: Features) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
