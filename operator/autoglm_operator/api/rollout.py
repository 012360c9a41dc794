"""How a new revision takes over step by step, and what is told about it."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from autoglm_operator.api.base import Model, Reported, Rule, Unique
from autoglm_operator.api.text import Deadline

RevisionName = Annotated[str, Field(max_length=64)]
Metric = Literal["ttft", "latency", "errors", "agreement"]
Percent = Annotated[int, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]


class RolloutStep(Model):
    """One step of a rollout."""

    weight: Annotated[int, Field(ge=0, le=99)]
    """Percent of the sessions that the new revision serves in this step. After the last step it serves all."""
    hold: Deadline = "0s"
    """How long the step lasts at least, from the moment at which every gateway has applied its weight."""
    approval: bool = False
    """true ends the step only after the annotation serving.autoglm.dev/rollout-approve names the revision, the attempt and the
    step."""


class RolloutGate(Model):
    """A measurement that the new revision has to pass in each step."""

    metric: Metric
    """ttft: time to the first byte of an answer. latency: time to its last byte. Both at the 95th percentile. errors: share of
    requests answered with 5xx. agreement: share of mirrored requests to which both revisions answered with the same action."""
    maximum: Annotated[float, Field(ge=0)] | None = None
    """Highest value that passes: seconds for ttft and latency, a share from 0 to 1 for errors."""
    maximum_ratio: Annotated[float, Field(ge=0.1, le=100)] | None = None
    """Highest value that passes, as a multiple of what the stable revision does in the same time; for ttft and latency."""
    minimum: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lowest share that passes; for agreement."""
    min_samples: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Fewest samples, in one step, of each revision that is measured. With fewer the gate neither passes nor fails."""

    rules = (
        Rule(
            "self.metric == 'agreement' ? has(self.minimum) : !has(self.minimum)",
            lambda gate: (gate.metric == "agreement") == (gate.minimum is not None),
            "must be set with metric agreement, and only there",
            "minimum",
        ),
        Rule(
            "self.metric == 'agreement' ? !has(self.maximum) : (has(self.maximum) || has(self.maximumRatio))",
            lambda gate: (
                gate.maximum is None
                if gate.metric == "agreement"
                else gate.maximum is not None or gate.maximum_ratio is not None
            ),
            "must be set with metric errors, must be absent with metric agreement, and may give way to maximumRatio otherwise",
            "maximum",
        ),
        Rule(
            "!has(self.maximumRatio) || self.metric == 'ttft' || self.metric == 'latency'",
            lambda gate: gate.maximum_ratio is None or gate.metric in ("ttft", "latency"),
            "can be set with metric ttft and latency only",
            "maximumRatio",
        ),
    )


class RolloutMirror(Model):
    """Copies of clients' requests that the new revision answers too. Its answers are compared and dropped."""

    percent: Percent
    """Share of the stable revision's requests that is copied."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Most copies under way at one time at each gateway; further ones are not made."""
    tolerance: Annotated[int, Field(ge=0, le=999)] = 20
    """Farthest distance of two places that count as the same, on AutoGLM's scale of 0 to 999."""


class Rejected(Reported):
    """The revision that was last taken back, or stopped before it was promoted."""

    revision: RevisionName
    """Its name. It is not tried again until the spec describes another one or a retry is asked for."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why, in a sentence."""
    at: AwareDatetime
    """When it was taken back."""


class KnownRevision(Reported):
    """A revision of this deployment, with all that is needed to run it again."""

    revision: RevisionName
    """The name of the revision."""
    state: Literal["Stable", "Candidate", "Rejected", "Superseded", "Retired"]
    """Stable serves, Candidate is on its way, Rejected was taken back, Superseded gave way before it was proven, Retired was
    stable and is kept to be gone back to."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why it is Rejected or Superseded, in a sentence."""
    since: AwareDatetime
    """Since when it is in this state."""
    template: dict[str, Any] = Field(default={})
    """The arguments of its application."""
    worker: dict[str, Any] | None = None
    """spec.worker while the spec described it: what its pods are made from at sites with the back end kubeRay."""


class RevisionShare(Reported):
    """What one revision got at one gateway."""

    revision: RevisionName
    """The revision."""
    percent: Percent
    """Share of the sessions that the gateway sends there, as it applied it."""
    requests: Count = 0
    """Requests of clients in the present step."""
    mirrored: Count = 0
    """Copies of requests in the present step."""
    errors: Count = 0
    """How many of both were answered with 5xx or not at all."""


class GatewayTraffic(Reported):
    """What one gateway does with the traffic."""

    gateway: Annotated[str, Field(max_length=253)]
    """The gateway's admin address."""
    shares: Annotated[tuple[RevisionShare, ...], Field(max_length=2)] = ()
    """One entry for each revision that the gateway knows."""
    observed_at: AwareDatetime | None = None
    """When the gateway said so."""


class GateStatus(Reported):
    """What a gate says in the present step."""

    metric: Metric
    """What is measured."""
    state: Literal["Passed", "Failed", "Waiting"]
    """Waiting: too few samples, so that nothing can be said."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """The figures in a sentence."""


class RolloutDecision(Reported):
    """Something that was decided."""

    at: AwareDatetime
    """When it was decided."""
    revision: RevisionName
    """The new revision that it was about."""
    action: Literal[
        "Started", "Advanced", "StepsChanged", "Promoted", "RolledBack", "Superseded", "Cancelled", "Replaced"
    ]
    """What was decided."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, in a sentence."""


class RolloutStatus(Reported):
    """Where a rollout stands."""

    phase: Literal["Stable", "Progressing", "Paused", "RolledBack", "Blocked"]
    """Stable: nothing to roll out. RolledBack: the spec describes a revision that was taken back. Blocked: it cannot start."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What is waited for, in a sentence."""
    stable: RevisionName
    """The revision that serves whoever the new one does not: the one that was last good."""
    application: Annotated[str, Field(max_length=253)]
    """The Serve application of the stable revision."""
    proven: bool = False
    """Whether the stable revision ever answered a real request. Until then a new one replaces it without steps."""
    candidate: RevisionName | None = None
    """The revision that is being rolled out."""
    weight: Percent = 0
    """Percent of the sessions that the candidate shall get now; what gateways do is in traffic."""
    step: Count = 0
    """The present step, from 1; one more than there are steps means that the candidate takes over."""
    steps: Annotated[tuple[RolloutStep, ...], Field(max_length=16)] = ()
    """The steps as the candidate goes through them; none if it takes over without. Where the spec's are edited, it goes on
    in the first one that was not passed as it stands there now."""
    attempt: Count = 0
    """How often a rollout was started. Annotations name it: rollout-promote and rollout-abort as CANDIDATE/ATTEMPT."""
    entered_at: AwareDatetime | None = None
    """Since when the present step is prepared: since it began, or since the candidate lost replicas in it."""
    step_since: AwareDatetime | None = None
    """When every gateway had applied the step's weight. The hold counts from here."""
    losses: Count = 0
    """How often the candidate was ready in the present step, and then was not, though no more replicas were asked for. Each
    time takes a tenth off the deadline."""
    need: Count = 0
    """Replicas that the present step took at all sites when the candidate was last ready for it."""
    rejected: Rejected | None = None
    """The revision that was last taken back."""
    retried: Annotated[str, Field(max_length=253)] = ""
    """The last value of the annotation serving.autoglm.dev/rollout-retry that was acted on."""
    revisions: Annotated[tuple[KnownRevision, ...], Field(max_length=32), Unique("revision")] = ()
    """The history: what can be rolled back to. The newest is last."""
    traffic: Annotated[tuple[GatewayTraffic, ...], Field(max_length=32), Unique("gateway")] = ()
    """Which revision gets which share at each gateway."""
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=8), Unique("metric")] = ()
    """What the gates say in the present step."""
    decisions: Annotated[tuple[RolloutDecision, ...], Field(max_length=16)] = ()
    """The last decisions, with reasons. The newest is last."""
