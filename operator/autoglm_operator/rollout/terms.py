"""What a rollout is told, remembers and decides, as data: the words of its state machine."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from autoglm_operator.api import RolloutGate
from autoglm_operator.rollout.gates import Check, Figures

Phase = Literal["Stable", "Progressing", "Paused", "RolledBack", "Blocked"]
Action = Literal["Started", "Advanced", "StepsChanged", "Promoted", "RolledBack", "Superseded", "Cancelled", "Replaced"]
Level = Literal["unknown", "none", "some", "enough"]

EVERYTHING = 100


@dataclass(frozen=True)
class Step:
    """One step: the candidate's share of the sessions in percent, and what ends the step."""

    weight: int
    hold: timedelta = timedelta(0)
    approval: bool = False


@dataclass(frozen=True)
class Policy:
    """What the spec and the annotations say. Words of annotations are empty where they are absent."""

    steps: tuple[Step, ...] = ()
    gates: tuple[RolloutGate, ...] = ()
    deadline: timedelta = timedelta(minutes=15)
    """How long a candidate may take to become ready for a step. Each loss of its replicas leaves less of it."""
    paused: bool = False
    promote: str = ""
    """`REVISION/ATTEMPT` that shall skip what is left of its steps, holds and gates."""
    abort: str = ""
    """`REVISION/ATTEMPT` that shall be taken back."""
    approve: str = ""
    """`REVISION/ATTEMPT/STEP`: the step that may end."""
    retry: str = ""
    """Another word than the remembered one lets a rejected revision try again."""


@dataclass(frozen=True)
class Rejection:
    """A revision that was taken back, why and when."""

    revision: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class Memory:
    """What is remembered from one decision to the next. `weight` is what gateways were last told."""

    stable: str
    candidate: str | None = None
    weight: int = 0
    step: int = 0
    steps: tuple[Step, ...] = ()
    """The steps of the spec as the candidate goes through them; others in the spec are an edit."""
    attempt: int = 0
    entered_at: datetime | None = None
    """Since when the step is prepared: since it began, or since replicas were lost."""
    step_since: datetime | None = None
    losses: int = 0
    """How often the candidate was ready in this step, and then was not, though no more replicas were asked for."""
    need: int = 0
    """Replicas that the step took at all sites when it was last ready; 0 where that is not known."""
    rejected: Rejection | None = None
    retried: str = ""
    proven: bool = False
    """Whether the stable revision ever answered a real request."""

    @property
    def name(self) -> str:
        """Names the attempt, as annotations do."""
        return f"{self.candidate}/{self.attempt}"

    @property
    def goal(self) -> int:
        """The weight of the present step; all there is after the last one."""
        return self.steps[self.step].weight if self.step < len(self.steps) else EVERYTHING

    @property
    def window(self) -> str:
        """Names the measurement: a step at its own weight. What came before the weight was told is another one."""
        return f"{self.name}/{self.step + 1}/{self.weight}"


@dataclass(frozen=True)
class Situation:
    """What was observed.

    `target` is the revision that the spec describes. `level` says how far the candidate is: enough replicas for its step,
    admitted by every gateway; some; none; or unknown, because nobody could look. `waiting` says what is missing. `failed` is
    set when the candidate cannot become ready. `need` counts the replicas that the step takes at all sites. `applied` is the
    candidate's share that every gateway reports, None while they differ or do not tell. `blocked` says why no rollout can
    start here.
    """

    target: str
    level: Level = "unknown"
    waiting: str = ""
    failed: str = ""
    need: int = 0
    applied: int | None = None
    figures: Figures = field(default_factory=Figures)
    blocked: str = ""


@dataclass(frozen=True)
class Taken:
    """One decision that was taken just now, and why."""

    revision: str
    action: Action
    reason: str


@dataclass(frozen=True)
class Decision:
    """What to remember and what to say. The weight to tell gateways is in the memory."""

    memory: Memory
    phase: Phase
    message: str
    checks: tuple[Check, ...] = ()
    taken: tuple[Taken, ...] = ()
