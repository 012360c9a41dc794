"""The chart as Helm renders and installs it. Helm comes from PATH or the cache, else it is built once (minutes)."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kubernetes import ROOT, binary

CHART = ROOT / "charts/autoglm"
OFF = "AUTOGLM_NO_HELM"
Json = dict[str, Any]

# Values that use every part of the chart.
EVERYTHING: Json = {
    "commonLabels": {"team": "phones"},
    "imagePullSecrets": [{"name": "registry"}],
    "operator": {
        "watchNamespaces": ["phones", "kiosks"],
        "siteSecrets": [{"namespace": "sites", "names": ["berlin", "jena"]}],
        "kubeRay": {"namespaces": ["ray"]},
        "gateways": ["http://10.0.0.7:9901", "http://10.0.0.8:9901"],
        "serviceAccount": {"annotations": {"cloud/identity": "autoglm"}},
        "pods": {
            "labels": {"pod": "label"},
            "annotations": {"pod": "annotation"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "infra", "operator": "Exists"}],
            "priorityClassName": "system-cluster-critical",
            "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        },
    },
    "gateway": {
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"cloud/lb": "internal"}},
        "pods": {"env": [{"name": "OTEL_TRACES_EXPORTER", "value": "otlp"}], "affinity": {"nodeAffinity": {}}},
    },
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"use": "autoglm"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "extraEgress": [{"ports": [{"port": 4318}]}],
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
}


class HelmFailed(RuntimeError):
    """helm ended with an error; the message is what it wrote."""


class Helm:
    """Helm with files of its own. `chart` is the chart without its dependency, which comes from the network."""

    def __init__(self, directory: Path) -> None:
        """Skips the test where AUTOGLM_NO_HELM says so."""
        if os.environ.get(OFF):
            pytest.skip(f"{OFF} is set: the chart is not tested here")
        self._program = binary("helm")
        self._directory = directory
        self.chart = directory / "autoglm"
        subprocess.run([ROOT / "scripts/chart-without-kuberay.sh", self.chart], check=True, capture_output=True)

    def with_dependency(self) -> Path:
        """The chart with a stand-in for KubeRay's, which is not fetched in tests."""
        whole = self._directory / "whole/autoglm"
        shutil.copytree(CHART, whole)
        stand_in = whole / "charts/kuberay-operator"
        (stand_in / "templates").mkdir(parents=True)
        version = next(entry["version"] for entry in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"])
        (stand_in / "Chart.yaml").write_text(f"apiVersion: v2\nname: kuberay-operator\nversion: {version}\n")
        (stand_in / "templates/map.yaml").write_text(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kuberay\ndata:\n  told: {{ .Values.told | quote }}\n"
        )
        return whole

    def run(
        self,
        *arguments: str | Path,
        kubeconfig: Path | None = None,
        values: Mapping[str, Any] | None = None,
        timeout: float = 300.0,
    ) -> str:
        """What helm prints. Raises HelmFailed. `timeout` is longer than what helm itself is told to wait."""
        given: Sequence[str] = () if values is None else ("--values", "-")
        done = subprocess.run(
            [self._program, *arguments, *given],
            input=None if values is None else json.dumps(values),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**self._environment(), "KUBECONFIG": str(kubeconfig or "/dev/null")},
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {arguments[0]}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        folders = {f"HELM_{name}_HOME": str(self._directory / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        return {**os.environ, **folders}

    def render(
        self, values: Mapping[str, Any] | None = None, *, chart: Path | None = None, release: str = "autoglm"
    ) -> list[Json]:
        """Every object of the chart, as `helm template` makes them for the namespace autoglm-system."""
        text = self.run("template", release, chart or self.chart, "--namespace", "autoglm-system", values=values or {})
        return [document for document in yaml.safe_load_all(text) if document]


def one(objects: Sequence[Json], kind: str, name: str) -> Json:
    """The only object of a kind and name."""
    (found,) = [entry for entry in objects if (entry["kind"], entry["metadata"]["name"]) == (kind, name)]
    return found


def named(objects: Sequence[Json]) -> set[str]:
    """Objects as "Kind/name"."""
    return {f"{entry['kind']}/{entry['metadata']['name']}" for entry in objects}
