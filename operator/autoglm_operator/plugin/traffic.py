"""What gateways are doing now, from two readings of their metrics. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from autoglm_operator.local.show import NONE, table

Labels = frozenset[tuple[str, str]]
Reading = Mapping[tuple[str, Labels], float]
"""One gateway's metrics: (name, labels) -> value."""

COLUMNS = ("DEPLOYMENT", "REQ/S", "FAILED", "TTFB P50", "TTFB P95", "UNDER WAY", "QUEUED", "SITES", "ADMITTED")
_LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """Two readings of one gateway."""

    before: Reading
    after: Reading


def parse(text: str) -> Reading:
    """Prometheus' text format; what is not a sample is passed over."""
    found: dict[tuple[str, Labels], float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        found[(match["name"], frozenset(_LABEL.findall(match["labels"] or "")))] = value
    return found


def top(samples: Sequence[Sample], seconds: float) -> str:
    """One line for each deployment, all gateways together, busiest first."""
    names = {name for sample in samples for name in _values(sample.after, "autoglm_gateway_admitted", "deployment")}
    names |= {
        name for sample in samples for name in _values(sample.after, "autoglm_gateway_requests_total", "deployment")
    }
    rows = sorted((_row(name, samples, seconds) for name in names if name), key=lambda row: (-float(row[1]), row[0]))
    return table(COLUMNS, rows) if rows else "the gateways know no deployment"


def _row(name: str, samples: Sequence[Sample], seconds: float) -> tuple[str, ...]:
    by_code = _grown(samples, "autoglm_gateway_requests_total", name, "code")
    requests = sum(by_code.values())
    failed = sum(count for code, count in by_code.items() if code.startswith("5"))
    buckets = _grown(samples, "autoglm_gateway_first_byte_seconds_bucket", name, "le")
    admitted = [part for sample in samples for part in _of(sample.after, "autoglm_gateway_admitted", name)]
    return (
        name,
        f"{requests / seconds:.1f}",
        f"{failed / requests:.1%}" if requests else NONE,
        _quantile(buckets, 0.5),
        _quantile(buckets, 0.95),
        f"{_now(samples, 'autoglm_gateway_in_flight', name):g}",
        f"{_now(samples, 'autoglm_gateway_queued_work_seconds', name):.1f}s",
        str(len({labels.get("site") for labels, _ in admitted})),
        f"{sum(value for _, value in admitted):g}/{len(admitted)}",
    )


def _values(reading: Reading, metric: str, label: str) -> set[str]:
    return {value for (name, labels), _ in reading.items() if name == metric for key, value in labels if key == label}


def _of(reading: Reading, metric: str, deployment: str) -> list[tuple[dict[str, str], float]]:
    found = [(dict(labels), value) for (name, labels), value in reading.items() if name == metric]
    return [(labels, value) for labels, value in found if labels.get("deployment") == deployment]


def _now(samples: Iterable[Sample], metric: str, deployment: str) -> float:
    return sum(value for sample in samples for _, value in _of(sample.after, metric, deployment))


def _grown(samples: Iterable[Sample], metric: str, deployment: str, label: str) -> dict[str, float]:
    """How much a counter grew, by one label. A gateway that was started anew counts from nothing."""
    grown: dict[str, float] = {}
    for before, after in samples:
        old = {labels.get(label, ""): value for labels, value in _of(before, metric, deployment)}
        for labels, value in _of(after, metric, deployment):
            key = labels.get(label, "")
            more = value - old.get(key, 0.0)
            grown[key] = grown.get(key, 0.0) + (more if more >= 0 else value)
    return grown


def _quantile(buckets: Mapping[str, float], share: float) -> str:
    """The upper bound of the bucket that holds the quantile: the figure is at most this."""
    ordered = sorted(((float(bound), count) for bound, count in buckets.items()), key=lambda bucket: bucket[0])
    if not ordered or ordered[-1][1] <= 0:
        return NONE
    wanted = share * ordered[-1][1]
    bound = next(bound for bound, count in ordered if count >= wanted)
    return f"<={bound:g}s" if bound != float("inf") else f">{ordered[-2][0]:g}s" if len(ordered) > 1 else NONE
