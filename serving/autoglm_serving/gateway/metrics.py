"""Prometheus metrics of the gateway."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from autoglm_serving.gateway.fleet import Fleet

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """Counters that the gateway's parts move, and gauges read from the fleet when scraped."""

    def __init__(self, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        register = self._registry
        self.requests = Counter(
            "autoglm_gateway_requests", "Requests by deployment and status.", ["deployment", "code"], registry=register
        )
        self.retried = Counter(
            "autoglm_gateway_retried_requests", "Requests that took more than one attempt.", registry=register
        )
        self.picks = Counter(
            "autoglm_gateway_picks",
            "Picks by site, reason and variant of the model (empty where there are none).",
            ["site", "reason", "variant"],
            registry=register,
        )
        self.pick_seconds = Histogram(
            "autoglm_gateway_pick_seconds",
            "Time from the whole body to the decision.",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5),
            registry=register,
        )
        self.first_byte_seconds = Histogram(
            "autoglm_gateway_first_byte_seconds",
            "Time from the decision to the first byte of the answer.",
            ["deployment"],
            buckets=_SECONDS,
            registry=register,
        )
        self.mirrored = Counter(
            "autoglm_gateway_mirrored_requests",
            "Copies of requests to a canary by result: same, other-..., failed, skipped, no-answer-to-compare.",
            ["deployment", "result"],
            registry=register,
        )
        self.under_way = Gauge("autoglm_gateway_requests_under_way", "Requests in the picker now.", registry=register)
        self.probes = Counter("autoglm_gateway_probes", "Probes by result.", ["site", "result"], registry=register)
        self.tables = Counter("autoglm_gateway_tables", "Routing tables by result.", ["result"], registry=register)
        self.envoy_up = Gauge("autoglm_gateway_envoy_up", "1 while Envoy runs.", registry=register)
        self.envoy_starts = Counter("autoglm_gateway_envoy_starts", "Starts of Envoy.", registry=register)
        register.register(_FleetCollector(fleet))

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)


class _FleetCollector(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @override
    def collect(self) -> Iterable[GaugeMetricFamily]:
        labels = ["deployment", "site", "endpoint"]
        in_flight = GaugeMetricFamily("autoglm_gateway_in_flight", "Requests under way.", labels=labels)
        queued = GaugeMetricFamily("autoglm_gateway_queued_work_seconds", "Predicted work under way.", labels=labels)
        admitted = GaugeMetricFamily("autoglm_gateway_admitted", "1 when the endpoint is admitted.", labels=labels)
        for member in self._fleet.members:
            values = [member.deployment, member.endpoint.site, member.address or member.endpoint.url]
            in_flight.add_metric(values, len(member.flights))
            queued.add_metric(values, sum(member.flights.values()))
            admitted.add_metric(values, 1.0 if member.health.state == "Admitted" else 0.0)
        yield from (in_flight, queued, admitted)
        yield from self._links()
        table = self._fleet.table
        if table is not None:
            yield GaugeMetricFamily("autoglm_gateway_table_epoch", "Epoch of the routing table.", value=table.epoch)
            yield GaugeMetricFamily(
                "autoglm_gateway_table_version", "Version of the routing table.", value=table.version
            )
            yield GaugeMetricFamily(
                "autoglm_gateway_table_written_timestamp_seconds",
                "When the operator wrote the routing table.",
                value=table.written_at.timestamp(),
            )

    def _links(self) -> Iterable[GaugeMetricFamily]:
        rtt = GaugeMetricFamily("autoglm_gateway_link_rtt_seconds", "Round trip to a site.", labels=["site"])
        bandwidth = GaugeMetricFamily(
            "autoglm_gateway_link_bandwidth_bits_per_second",
            "What an upload to a site reaches; 50 Mbit/s is that or more.",
            labels=["site"],
        )
        for site in sorted(self._fleet.sites):
            figures = self._fleet.link(site).figures(time.monotonic())
            for family, value in ((rtt, figures.rtt_s), (bandwidth, figures.at_least_bps)):
                if value is not None:
                    family.add_metric([site], value)
        yield from (rtt, bandwidth)
