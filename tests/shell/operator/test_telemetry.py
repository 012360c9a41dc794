"""What the operator tells about itself: one JSON object a line, spans without what an exception says."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import cast

from prometheus_client.samples import Sample

from autoglm_operator.controller import AlwaysLeading, Controller, Parts
from autoglm_operator.store import JsonObject, Kind, Store
from autoglm_operator.telemetry import JsonLines, Metrics

SECRET = "tok-123"


def record(message: str, **fields: object) -> str:
    made = logging.LogRecord("autoglm.operator", logging.INFO, __file__, 1, message, None, None)
    made.fields = fields
    return JsonLines().format(made)


def test_a_log_line_is_one_json_object_with_its_fields() -> None:
    line = record("wrote\napplications", site="区域-1", applications=["a", "b"])
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["message"] == "wrote\napplications"
    assert entry["site"] == "区域-1"
    assert entry["level"] == "info"


def test_a_site_shows_one_phase_at_a_time_and_none_when_it_is_gone() -> None:
    metrics = Metrics()
    metrics.set_site_phase("a", "Connected")
    metrics.set_site_phase("a", "Stale")
    phases = {phase: metrics.site_phase.labels("a", phase)._value.get() for phase in ("Connected", "Stale")}
    assert phases == {"Connected": 0, "Stale": 1}
    metrics.forget_site("a")
    assert not [sample for family in metrics.site_phase.collect() for sample in family.samples]


def test_a_site_without_a_phase_can_be_forgotten() -> None:
    metrics = Metrics()
    metrics.forget_site("a")
    metrics.set_site_phase("a", "Stale")
    metrics.forget_site("a")
    metrics.forget_site("a")


class Watching:
    """A store that says what was seen meanwhile and then never answers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.asked = asyncio.Event()

    async def identity(self) -> str:
        return "here"

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        self._metrics.set_site_phase("a", "Unreachable")
        self._metrics.gateway_behind.labels("http://g").set(1)
        self._metrics.gateway_confirmed.labels("http://g").set(1.0)
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody answers")


def told(metrics: Metrics) -> list[Sample]:
    gauges = (metrics.site_phase, metrics.gateway_behind, metrics.gateway_confirmed)
    return [sample for gauge in gauges for family in gauge.collect() for sample in family.samples]


async def test_who_does_not_lead_any_more_tells_nothing_of_sites_and_gateways() -> None:
    metrics = Metrics()
    store = Watching(metrics)
    parts = Parts(
        store=cast(Store, store),
        fence=AlwaysLeading(),
        gateways=(),
        gateway_token=lambda: "",
        now=lambda: datetime.now(UTC),
        clock=time.monotonic,
        metrics=metrics,
    )
    leading = asyncio.create_task(Controller(parts).lead())
    await store.asked.wait()
    assert told(metrics)
    leading.cancel()
    await asyncio.wait({leading})
    assert not told(metrics), "an alert would never end"


def spans(environment: dict[str, str]) -> str:
    """What a process prints that marks one failed piece of work."""
    code = (
        "from autoglm_operator.telemetry import configure_tracing, span\n"
        "configure_tracing()\n"
        "try:\n"
        "    with span('reconcile', kind='AutoGLMDeployment', name='phones'):\n"
        f"        raise ValueError('{SECRET}')\n"
        "except ValueError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_spans_go_where_the_environment_says_and_hold_no_exception_text() -> None:
    told = spans({"OTEL_TRACES_EXPORTER": "console"})
    assert '"name": "reconcile"' in told
    assert '"phones"' in told
    assert "ValueError" in told
    assert SECRET not in told


def test_without_a_word_no_span_is_kept() -> None:
    assert spans({}) == ""
