"""What the operator tells about itself: Prometheus metrics, OpenTelemetry spans, logs as JSON lines.

Names of objects and sites go out; tokens, Secrets, request bodies and exception texts of libraries do not.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor, SpanExporter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from typing_extensions import override

PHASES = ("Connected", "Stale", "Unreachable")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

log = logging.getLogger("autoglm.operator")


class Metrics:
    """All metrics of one operator, in a registry of its own."""

    def __init__(self) -> None:
        """Registers them."""
        self.registry = CollectorRegistry()
        self.reconciles = Histogram(
            "autoglm_operator_reconcile_seconds",
            "Time of one pass over one object.",
            ("kind", "outcome"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "autoglm_operator_queue_depth", "Objects that wait for a worker now.", registry=self.registry
        )
        self.site_phase = Gauge(
            "autoglm_operator_site_phase",
            "1 for the phase that the site is in.",
            ("site", "phase"),
            registry=self.registry,
        )
        self.ray_calls = Histogram(
            "autoglm_operator_ray_request_seconds",
            "Requests to Ray clusters by outcome (HTTP status or kind of error).",
            ("site", "method", "outcome"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.kube_calls = Histogram(
            "autoglm_operator_kubernetes_request_seconds",
            "Requests to the Kubernetes API server by outcome (HTTP status or kind of error).",
            ("method", "outcome"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.status_writes = Counter(
            "autoglm_operator_status_writes",
            "Statuses that changed and were written.",
            ("kind",),
            registry=self.registry,
        )
        self.gateway_confirmed = Gauge(
            "autoglm_operator_gateway_table_confirmed_timestamp_seconds",
            "When the gateway last said that it has the present routing table.",
            ("gateway",),
            registry=self.registry,
        )
        self.gateway_behind = Gauge(
            "autoglm_operator_gateway_table_behind",
            "1 while the gateway does not have the present routing table.",
            ("gateway",),
            registry=self.registry,
        )
        self.leader = Gauge("autoglm_operator_leader", "1 while this process leads.", registry=self.registry)

    def set_site_phase(self, site: str, phase: str | None) -> None:
        """One phase at a time; none when the site was not looked at yet."""
        for known in PHASES:
            self.site_phase.labels(site, known).set(1 if known == phase else 0)

    def forget_site(self, site: str) -> None:
        """A site that is gone shows no phase."""
        for known in PHASES:
            with suppress(KeyError):
                self.site_phase.remove(site, known)

    def forget_gateway(self, gateway: str) -> None:
        """A gateway that is gone is not behind."""
        for gauge in (self.gateway_behind, self.gateway_confirmed):
            with suppress(KeyError):
                gauge.remove(gateway)

    def forget_observed(self) -> None:
        """Nothing is observed from now on: a process that does not lead must not go on telling what it last saw."""
        for gauge in (self.site_phase, self.gateway_behind, self.gateway_confirmed):
            gauge.clear()


def configure_tracing(environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
    """Sends spans only where the usual OpenTelemetry variables ask for it; otherwise they cost next to nothing."""
    exporter = _exporter(environment)
    if exporter is None:
        return
    provider = TracerProvider(resource=Resource.create({"service.name": "autoglm-operator"}))
    console = isinstance(exporter, ConsoleSpanExporter)
    provider.add_span_processor(SimpleSpanProcessor(exporter) if console else BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _exporter(environment: Any) -> SpanExporter | None:
    if environment.get("OTEL_TRACES_EXPORTER") == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    if not environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("no traces: install opentelemetry-exporter-otlp-proto-http to use OTEL_EXPORTER_OTLP_ENDPOINT")
        return None
    return OTLPSpanExporter()


@contextmanager
def span(title: str, /, **attributes: str | int | bool) -> Iterator[trace.Span]:
    """A span around a piece of work. Errors are marked by their kind; their text may hold what must not go out."""
    tracer = trace.get_tracer("autoglm_operator")
    with tracer.start_as_current_span(
        title, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


class JsonLines(logging.Formatter):
    """One JSON object a line. `extra={"fields": {...}}` adds fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = record.exc_info[0].__name__
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """JSON lines on stderr for everything; libraries from WARNING on, whatever our own level is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(level.upper())
