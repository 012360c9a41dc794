"""What the gateway knows about one endpoint: admission by probes, and a breaker moved by traffic. Pure transitions.

An endpoint is `Admitted` when it answered a real generation with the wanted revision. While another revision answers (a
rollout in place), it is `Probing` in reports, but requests still go there: refusing them would turn an upgrade into an outage.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from autoglm_serving.routing_table import AdmissionState

FAILURES_TO_REMOVE = 3
FAILURES_TO_OPEN = 2
OPEN_SECONDS = 2.0
MAX_OPEN_SECONDS = 30.0
ADMITTED_PROBE_SECONDS = 10.0
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 5.0
RETURN_RETRY_SECONDS = 1.25
RETURN_FAILURES = 60
"""An endpoint that has answered before is looked for so often, and for so many probes: what ended is mostly back within a
minute, as Serve's proxy is after half of one. One that never answered yet may be loading a model."""


@dataclass(frozen=True)
class Health:
    """The state of one endpoint. Times named `_at` are UTC; `breaker_open_until` is on the caller's monotonic clock."""

    observed_at: datetime
    state: AdmissionState = "Probing"
    message: str = "not probed yet"
    revision: str = ""
    variant: str = ""
    """The variant of the model that answered last; empty for the model itself."""
    answers: bool = False
    probed: bool = False
    failures: int = 0
    """Probes that failed in a row."""
    ttft_s: float | None = None
    traffic_failures: int = 0
    """Requests that failed in a row."""
    unexplained: bool = False
    """A request failed, and no probe has looked since."""
    breaker_open_until: float = 0.0


def answered(
    health: Health, revision: str, wanted: str, ttft_s: float | None, at: datetime, variant: str = ""
) -> Health:
    """A probe was answered, by a revision that runs a variant of the model or the model itself."""
    admitted = revision == wanted
    return replace(
        health,
        observed_at=at,
        state="Admitted" if admitted else "Probing",
        message="answers" if admitted else _other_revision(revision, wanted),
        revision=revision,
        variant=variant,
        answers=True,
        probed=True,
        failures=0,
        ttft_s=health.ttft_s if ttft_s is None else ttft_s,
        traffic_failures=0,
        unexplained=False,
        breaker_open_until=0.0,
    )


def served(health: Health, revision: str, wanted: str, ttft_s: float, at: datetime, variant: str = "") -> Health:
    """A client's request was answered. The wanted revision counts as a probe.

    Another one does not end an admission: it may be a slow answer that a rollout has overtaken. Probes decide that.
    """
    if revision == wanted or health.state != "Admitted":
        return answered(health, revision, wanted, ttft_s, at, variant)
    return replace(health, traffic_failures=0, unexplained=False, breaker_open_until=0.0)


def probe_failed(health: Health, message: str, at: datetime, now: float) -> Health:
    """A probe failed. The third in a row takes the endpoint out; after a failed request it counts as one more of them."""
    failures = health.failures + 1
    out = failures >= FAILURES_TO_REMOVE
    return replace(
        request_failed(health, now) if health.traffic_failures else health,
        observed_at=at,
        state="ProbeFailed" if out else health.state,
        message=message if out or not health.answers else f"answers, but {failures} probes failed: {message}",
        answers=health.answers and not out,
        probed=True,
        failures=failures,
        unexplained=False,
    )


def busy(health: Health, at: datetime) -> Health:
    """A probe was refused because the server is full: alive, and no news about its revision."""
    return replace(health, observed_at=at, probed=True, failures=0, unexplained=False)


def wanted_changed(health: Health, wanted: str) -> Health:
    """The table asks for another revision than the one that answered last."""
    if health.state != "Admitted" or health.revision == wanted:
        return health
    return replace(health, state="Probing", message=_other_revision(health.revision, wanted), failures=0)


def request_failed(health: Health, now: float) -> Health:
    """A client's request failed there: 5xx without Retry-After, or a broken connection. Two in a row open the breaker."""
    failures = health.traffic_failures + 1
    if failures < FAILURES_TO_OPEN:
        return replace(health, traffic_failures=failures, unexplained=True)
    # Failed probes are counted too, for as long as an endpoint is gone: an unbounded power becomes too large for a float.
    seconds = min(OPEN_SECONDS * 2 ** min(failures - FAILURES_TO_OPEN, 8), MAX_OPEN_SECONDS)
    return replace(health, traffic_failures=failures, unexplained=True, breaker_open_until=now + seconds)


def probe_delay(health: Health) -> float:
    """Seconds from the last news to the next probe."""
    if health.state == "Admitted" and health.failures == 0 and health.traffic_failures == 0:
        return ADMITTED_PROBE_SECONDS
    if health.unexplained and health.failures == 0:
        return 0.0  # whether the endpoint is gone, or only what it had of that request
    returning = bool(health.revision) and health.failures <= RETURN_FAILURES
    most = RETURN_RETRY_SECONDS if returning else MAX_RETRY_SECONDS
    return float(min(FIRST_RETRY_SECONDS * 2 ** min(health.failures, 8), most))


def _other_revision(revision: str, wanted: str) -> str:
    shown = f"revision {revision}" if revision else "a server without a revision"
    return f"{shown} answers; waiting for revision {wanted}"
