"""The chart's made files say what the models of its values say, and its metrics are those that there are."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from autoglm_operator import chart
from autoglm_operator.chart.files import rows, values_schema, values_yaml
from autoglm_operator.telemetry import Metrics as OperatorMetrics
from autoglm_serving.gateway.fleet import Fleet
from autoglm_serving.gateway.metrics import Metrics as GatewayMetrics

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / chart.FOLDER
DEFAULTS: dict[str, Any] = yaml.safe_load(values_yaml())
_SUFFIXES = ("_bucket", "_count", "_sum", "_total")


def test_the_files_are_those_that_the_models_make() -> None:
    made = chart.generate()
    stale = [name for name, text in made.items() if not (ROOT / name).is_file() or (ROOT / name).read_text() != text]
    assert not stale, "run `make crds` and commit what it writes"
    on_disk = {str(path.relative_to(ROOT)) for path in (CHART / "templates/crds").iterdir()}
    assert on_disk <= set(made), "a definition that nothing makes any more"


def test_the_defaults_are_those_of_the_models_and_the_schema_takes_them() -> None:
    assert chart.Values.model_validate(DEFAULTS) == chart.Values()
    jsonschema.Draft7Validator.check_schema(values_schema())
    jsonschema.validate(DEFAULTS, values_schema(), cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    "wrong",
    [
        {"operater": {}},
        {"operator": {"replica": 2}},
        {"operator": {"replicas": -1}},
        {"operator": {"siteSecrets": [{"namespace": "default", "names": []}]}},
        {"operator": {"watchNamespaces": ["Not A Label"]}},
        {"gateway": {"service": {"port": 0}}},
        {"gateway": {"image": {"digest": "latest"}}},
        {"metrics": {"serviceMonitor": {"interval": "often"}}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_the_templates_would_pass_over(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, values_schema(), cls=jsonschema.Draft7Validator)


def test_the_schema_lets_the_chart_of_kuberay_have_its_own_values() -> None:
    jsonschema.validate({"kuberay-operator": {"enabled": True, "anything": 1}}, values_schema())


def test_every_value_is_used_by_a_template() -> None:
    text = "".join(path.read_text() for path in sorted((CHART / "templates").rglob("*")) if path.is_file())
    for row in rows():
        parts = row.name.split(".")
        if parts[0] == "kuberay-operator":
            continue  # read by Helm itself, as the condition of the dependency
        # A group that is passed on as a whole (resources), or read through a variable (an image, pods), or a value itself.
        whole = [".Values." + ".".join(parts[: end + 1]) for end in range(len(parts))]
        last = re.compile(rf"\.{parts[-1]}\b")
        assert whole[-1] in text or (whole[-2] in text and (last.search(text) or parts[-2] == "resources")), row.name


def test_the_versions_of_chart_project_and_kuberay_agree() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert about["appVersion"] == about["version"] == project
    assert [entry["condition"] for entry in about["dependencies"]] == ["kuberay-operator.enabled"]
    kinds = {entry["name"] for entry in yaml.safe_load(about["annotations"]["artifacthub.io/crds"])}
    assert kinds == {path.stem for path in (ROOT / "crds").glob("*.yaml")}


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    known = {family.name for family in OperatorMetrics().registry.collect()}
    exposed = GatewayMetrics(Fleet()).text().decode()
    known |= set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))
    for name in ("alerts.yaml", "dashboard.json"):
        asked = set(re.findall(r"autoglm_(?:operator|gateway)_[a-z_]+", (CHART / "files" / name).read_text()))
        assert asked, name
        for metric in asked:
            bases = {metric, *(metric.removesuffix(suffix) for suffix in _SUFFIXES)}
            assert bases & known, f"{name} asks for {metric}"


def test_every_alert_says_what_it_means_and_what_to_look_at() -> None:
    (group,) = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]
        assert len(rule["annotations"]["description"]) > 30, rule["alert"]
