"""Which replica answers a call: the one whose first token is predicted to come first. Pure.

time = prompts that wait there + what of this prompt is not cached there + a share of the answers that run there
       + the wait for a free place when there is none
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.replica_routing.footprint import Footprint
from autoglm_serving.replica_routing.ledger import uncached
from autoglm_serving.replica_routing.report import Report

STALE_S = 10.0
"""An older report says nothing about now."""
DECODE_SHARE = 0.1
"""Each second of answers still to be made on a replica delays a new prompt there by so much: they take turns."""

Reason = Literal["cached-prefix", "cached-image", "least-work", "stale-reports"]


@dataclass(frozen=True)
class ReplicaState:
    """One replica as one router knows it.

    `sent_prompt_s` and `sent_answer_s` is work that this router sent after the report; `images` and `keys` are names that
    it sent lately. `running` counts requests there, as far as known, and `places` is how many it takes.
    """

    name: str
    report: Report | None
    age_s: float
    running: int
    places: int
    sent_prompt_s: float = 0.0
    sent_answer_s: float = 0.0
    images: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    @property
    def fresh(self) -> bool:
        return self.report is not None and self.age_s <= STALE_S

    @property
    def full(self) -> bool:
        return self.running >= self.places


@dataclass(frozen=True)
class Prediction:
    """Seconds until the first token at one replica, part by part."""

    name: str
    waiting_s: float
    answers_s: float
    place_s: float
    own_s: float
    cached_prefix: bool
    cached_image: bool

    @property
    def total_s(self) -> float:
        return self.waiting_s + self.answers_s + self.place_s + self.own_s


@dataclass(frozen=True)
class Choice:
    """Replicas, best first, and why the first one is first. Empty: choose without knowledge."""

    order: tuple[Prediction, ...]
    reason: Reason


def choose(footprint: Footprint, replicas: Sequence[ReplicaState], request_id: str = "") -> Choice:
    """The order in which to try replicas; empty when most of them have not reported lately.

    Replicas without a fresh report are left out: they are new, or too busy to report. Equal predictions are ordered by the
    request, so that many routers do not all choose the same one.
    """
    known = [replica for replica in replicas if replica.fresh]
    if 2 * len(known) < len(replicas) or not known:
        return Choice((), "stale-reports")
    predictions = sorted(
        (predict(footprint, replica) for replica in known),
        key=lambda each: (round(each.total_s, 3), _spread(request_id, each.name)),
    )
    best = predictions[0]
    reason: Reason = "least-work"
    if best.cached_prefix:
        reason = "cached-prefix"
    elif best.cached_image:
        reason = "cached-image"
    return Choice(tuple(predictions), reason)


def predict(footprint: Footprint, replica: ReplicaState) -> Prediction:
    """What the call would take there. The report's work shrinks as it ages: the replica has been working since."""
    report = replica.report
    assert report is not None
    speeds = report.speeds
    images, keys = report.images | replica.images, report.keys | replica.keys
    encode, prefill = uncached(footprint, images, keys)
    reported_s = report.image_tokens * speeds.encode_s + report.prompt_tokens * speeds.prefill_s
    waiting_s = max(0.0, reported_s - replica.age_s) + replica.sent_prompt_s
    parallel = max(1, report.running)
    answers_s = max(0.0, report.answer_tokens * speeds.decode_s / parallel - replica.age_s) + replica.sent_answer_s
    place_s = answers_s / max(1, replica.places) if replica.full else 0.0
    return Prediction(
        name=replica.name,
        waiting_s=waiting_s,
        answers_s=DECODE_SHARE * answers_s,
        place_s=place_s,
        own_s=encode * speeds.encode_s + prefill * speeds.prefill_s,
        cached_prefix=bool(footprint.blocks) and footprint.blocks[0].key in keys,
        cached_image=any(block.image in images for block in footprint.blocks if block.image is not None),
    )


def cost(footprint: Footprint, replica: ReplicaState) -> tuple[float, float]:
    """Seconds of (prompt, answer) that a call adds to a replica."""
    assert replica.report is not None
    answer = min(replica.report.mean_answer, footprint.new_tokens) * replica.report.speeds.decode_s
    return predict(footprint, replica).own_s, answer / max(1, replica.places)


def _spread(request_id: str, name: str) -> bytes:
    return hashlib.sha256(f"{request_id}\0{name}".encode()).digest()
