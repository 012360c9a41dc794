"""What the operator tells about itself: one JSON object a line, spans without what an exception says."""

import json
import logging
import subprocess
import sys

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
