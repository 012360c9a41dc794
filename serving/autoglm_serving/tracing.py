"""Spans of requests. Attributes are names and numbers, never content: no prompt, no image, no answer, no header of a client.

Spans are made only when the environment asks for an exporter, as OpenTelemetry names it:

- `OTEL_TRACES_EXPORTER=console` writes them to standard error;
- `OTEL_TRACES_EXPORTER=otlp` or `OTEL_EXPORTER_OTLP_ENDPOINT=URL` sends them over OTLP/HTTP. It needs the package
  `opentelemetry-exporter-otlp-proto-http`; without it the process runs on and says so.
"""

import logging
import os
import sys
from collections.abc import Mapping

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, Status, StatusCode

_log = logging.getLogger(__name__)

Attribute = str | int | float | bool


class Tracing:
    """Where one process's spans go. Use `Tracing.from_environment`."""

    def __init__(self, service: str, exporter: SpanExporter | None) -> None:
        self._provider: TracerProvider | None = None
        if exporter is not None:
            self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
            self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @classmethod
    def from_environment(cls, service: str) -> "Tracing":
        """Tracing as the OTEL_* variables ask for; off without them."""
        return cls(service, _exporter())

    @property
    def enabled(self) -> bool:
        return self._provider is not None

    def record(
        self, name: str, start_ns: int, end_ns: int, attributes: Mapping[str, Attribute], error: str = ""
    ) -> None:
        """Write one finished span. Times in nanoseconds since the epoch; empty attributes are left out."""
        if self._provider is None:
            return
        span: Span = self._provider.get_tracer("autoglm").start_span(
            name, start_time=start_ns, attributes={key: value for key, value in attributes.items() if value != ""}
        )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left, at most a few seconds."""
        if self._provider is not None:
            self._provider.force_flush(3000)
            self._provider.shutdown()


def _exporter() -> SpanExporter | None:
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if wanted == "none" or not (wanted or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return None
    if wanted == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        _log.warning("spans are asked for, but the OTLP exporter cannot be loaded, so none are sent: %s", error)
        return None
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
