"""What measurements say about a new revision. Too few samples say nothing, neither good nor bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoglm_operator.api import RolloutGate
from autoglm_serving.measurements import RevisionReport, Sketch

P95 = 0.95

State = Literal["Passed", "Failed", "Waiting"]


@dataclass(frozen=True)
class Figures:
    """What all gateways together measured in one window; None where one did not report."""

    stable: RevisionReport | None = None
    candidate: RevisionReport | None = None


@dataclass(frozen=True)
class Check:
    """The outcome of one gate."""

    gate: RolloutGate
    state: State
    message: str


def check_all(gates: Sequence[RolloutGate], figures: Figures) -> tuple[Check, ...]:
    """The outcome of each gate, in the order of the spec."""
    return tuple(check(gate, figures) for gate in gates)


def check(gate: RolloutGate, figures: Figures) -> Check:
    """The outcome of one gate."""
    candidate = figures.candidate
    if candidate is None:
        return Check(gate, "Waiting", f"{gate.metric}: no figures yet")
    match gate.metric:
        case "agreement":
            return _share(gate, candidate.agreed, candidate.compared, "mirrored requests had the same action")
        case "errors":
            return _share(gate, candidate.errors, candidate.asked, "requests failed")
        case "ttft":
            stable = figures.stable.ttft if figures.stable else Sketch()
            return _duration(gate, candidate.ttft, stable)
        case "latency":
            stable = figures.stable.latency if figures.stable else Sketch()
            return _duration(gate, candidate.latency, stable)


def _share(gate: RolloutGate, part: int, whole: int, words: str) -> Check:
    if whole < gate.min_samples:
        return _too_few(gate, whole)
    share = part / whole
    low = gate.minimum is not None and share < gate.minimum
    high = gate.maximum is not None and share > gate.maximum
    bound = f"at least {gate.minimum:.1%}" if gate.minimum is not None else f"at most {gate.maximum:.1%}"
    text = f"{gate.metric}: {share:.1%} of {whole} {words}; {bound} passes"
    return Check(gate, "Failed" if low or high else "Passed", text)


def _duration(gate: RolloutGate, candidate: Sketch, stable: Sketch) -> Check:
    value = candidate.quantile(P95)
    if value is None or candidate.total < gate.min_samples:
        return _too_few(gate, candidate.total)
    text = f"{gate.metric}: p95 of {candidate.total} is {value:.3g} s"
    if gate.maximum is not None and value > gate.maximum:
        return Check(gate, "Failed", f"{text}; at most {gate.maximum:.3g} s passes")
    if gate.maximum_ratio is None:
        return Check(gate, "Passed", f"{text}; at most {gate.maximum:.3g} s passes")
    reference = stable.quantile(P95)
    if reference is None or stable.total < gate.min_samples:
        return Check(
            gate, "Waiting", f"{gate.metric}: {stable.total} of {gate.min_samples} samples of the stable revision"
        )
    bound = gate.maximum_ratio * reference
    text += f", the stable revision's of {stable.total} {reference:.3g} s; at most {gate.maximum_ratio:g} times passes"
    return Check(gate, "Failed" if value > bound else "Passed", text)


def _too_few(gate: RolloutGate, samples: int) -> Check:
    return Check(gate, "Waiting", f"{gate.metric}: {samples} of {gate.min_samples} samples")
