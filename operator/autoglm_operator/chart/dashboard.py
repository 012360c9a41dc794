"""The Grafana dashboard of the chart: one row for what clients see, one for the sites, one for the operator."""

from typing import Any, NamedTuple

Json = dict[str, Any]

COLUMNS = 24
HEIGHT = 8


class Panel(NamedTuple):
    """One graph: PromQL expressions with their legends."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str


PANELS = (
    Panel(
        "Requests",
        "reqps",
        (("sum by (deployment, code) (rate(autoglm_gateway_requests_total[5m]))", "{{deployment}} {{code}}"),),
        "Answers by deployment and status.",
    ),
    Panel(
        "Failed requests",
        "percentunit",
        (
            (
                (
                    'sum by (deployment) (rate(autoglm_gateway_requests_total{code=~"5.."}[5m]))'
                    " / sum by (deployment) (rate(autoglm_gateway_requests_total[5m]))"
                ),
                "{{deployment}}",
            ),
        ),
        "Share of answers with 5xx.",
    ),
    Panel(
        "Time to the first byte, 95th percentile",
        "s",
        (
            (
                (
                    "histogram_quantile(0.95, sum by (le, deployment)"
                    " (rate(autoglm_gateway_first_byte_seconds_bucket[5m])))"
                ),
                "{{deployment}}",
            ),
        ),
        "From the gateway's decision to the first byte of the answer.",
    ),
    Panel(
        "Requests under way",
        "short",
        (("sum by (site, deployment) (autoglm_gateway_in_flight)", "{{site}} {{deployment}}"),),
        "By site and deployment.",
    ),
    Panel(
        "Picks by site",
        "reqps",
        (("sum by (site, reason) (rate(autoglm_gateway_picks_total[5m]))", "{{site}} {{reason}}"),),
        "Where requests are sent, and why.",
    ),
    Panel(
        "Admitted endpoints",
        "short",
        (("min by (deployment, site) (autoglm_gateway_admitted)", "{{deployment}} {{site}}"),),
        "1 where every gateway has admitted the endpoint by a real generation.",
    ),
    Panel(
        "Sites that do not answer",
        "short",
        (('max by (site, phase) (autoglm_operator_site_phase{phase!="Connected"})', "{{site}} {{phase}}"),),
        "1 while a site is Stale or Unreachable.",
    ),
    Panel(
        "Gateways without the present routing table",
        "short",
        (("max by (gateway) (autoglm_operator_gateway_table_behind)", "{{gateway}}"),),
        "1 while the operator has not seen its table there.",
    ),
    Panel(
        "Time to decide on a request, 99th percentile",
        "s",
        (("histogram_quantile(0.99, sum by (le) (rate(autoglm_gateway_pick_seconds_bucket[5m])))", "pick"),),
        "From the whole body to the decision.",
    ),
    Panel(
        "Leaders",
        "short",
        (("sum(autoglm_operator_leader)", "leaders"),),
        "1 when all is well; 0 while a new leader is chosen.",
    ),
    Panel(
        "Reconciles",
        "ops",
        (("sum by (kind, outcome) (rate(autoglm_operator_reconcile_seconds_count[5m]))", "{{kind}} {{outcome}}"),),
        "Passes over objects by outcome.",
    ),
    Panel(
        "Calls of the API server that failed",
        "reqps",
        (
            (
                'sum by (method, outcome) (rate(autoglm_operator_kubernetes_request_seconds_count{outcome!~"2.."}[5m]))',
                "{{method}} {{outcome}}",
            ),
        ),
        "By method and status.",
    ),
)


def dashboard() -> Json:
    """The dashboard as Grafana imports it."""
    return {
        "title": "AutoGLM",
        "uid": "autoglm",
        "tags": ["autoglm"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> Json:
    width = COLUMNS // 3
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.text,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"x": number % 3 * width, "y": number // 3 * HEIGHT, "w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }
