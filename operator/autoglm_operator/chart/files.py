"""The files of the chart that are made: values.yaml, values.schema.json, README.md, the CRDs and the dashboard."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from autoglm_operator import crds
from autoglm_operator.chart import dashboard, readme
from autoglm_operator.chart.values import Group, Values

Json = dict[str, Any]

FOLDER = "charts/autoglm"
_HEADER = "# Made by `make crds` from operator/autoglm_operator/chart. Do not edit.\n"
# Two spaces and the values of `metadata` that the chart adds; the definition itself is the one of crds/.
_METADATA = """\
metadata:
  labels:
    {{- include "autoglm.labels" $ | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
  name: """


def generate() -> dict[str, str]:
    """Every generated file of the chart: path from the project's root -> text."""
    files = {
        "values.yaml": values_yaml(),
        "values.schema.json": json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n",
        "README.md": readme.page(rows()),
        "files/dashboard.json": json.dumps(dashboard.dashboard(), indent=1) + "\n",
    }
    for crd in crds.definitions():
        files[f"templates/crds/{crd['metadata']['name']}.yaml"] = _crd_template(crd)
    return {f"{FOLDER}/{name}": text for name, text in files.items()}


def rows() -> tuple[readme.Row, ...]:
    """All values that are no groups: name, default and what it is for."""
    return tuple(_rows(Values(), ""))


def _rows(group: Group, path: str) -> Iterator[readme.Row]:
    for name, value, text in _fields(group):
        if name == "global":
            continue
        if isinstance(value, Group):
            yield from _rows(value, f"{path}{name}.")
        else:
            yield readme.Row(f"{path}{name}", _short(value), text)


def values_yaml() -> str:
    """All values with their defaults, each below the sentence that says what it is for."""
    lines = [_HEADER + "# One value a line, below what it is for; README.md has the same as a table."]
    lines += _yaml_lines(Values(), "")
    return "\n".join(lines) + "\n"


def _yaml_lines(group: Group, indent: str) -> Iterator[str]:
    for name, value, text in _fields(group):
        if name == "global":
            continue
        if indent == "":
            yield ""
        yield f"{indent}# {text}"
        if isinstance(value, Group):
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_short(value)}"


def values_schema() -> Json:
    """The JSON schema (draft 7, which every Helm 3 reads) of the values."""
    schema: Json = _plain(Values.model_json_schema())
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart autoglm", **schema}


def _plain(value: Any) -> Any:
    """Without titles, defaults and Kubernetes' own words. Draft 7 passes over what stands beside a reference."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: _plain(entry)
        for key, entry in value.items()
        if not (key == "title" and isinstance(entry, str)) and not key.startswith("x-") and key != "default"
    }
    if isinstance(kept.get("description"), str):
        kept["description"] = _sentence(kept["description"])
    return kept


def _fields(group: BaseModel) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        plain = value if isinstance(value, Group) else _dump(value)
        yield field.alias or name, plain, _sentence(str(field.description))


def _dump(value: Any) -> Any:
    if isinstance(value, list):
        return [_dump(entry) for entry in value]
    return value.model_dump(by_alias=True) if isinstance(value, BaseModel) else value


def _short(value: Any) -> str:
    """JSON, which is YAML as well."""
    return json.dumps(value, ensure_ascii=False)


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _crd_template(crd: Mapping[str, Any]) -> str:
    """A definition as a template: so that `helm upgrade` upgrades it, which it never does for the folder crds/."""
    name = crd["metadata"]["name"]
    text = crds.as_yaml({key: value for key, value in crd.items() if key != "metadata"})
    head = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
    assert text.startswith(head), "metadata goes after the kind"
    assert "{{" not in text, "the definition holds nothing that Helm would read as a template"
    body = text.removeprefix(head)
    return f"{_HEADER}{{{{- if .Values.crds.install }}}}\n{head}{_METADATA}{name}\n{body}{{{{- end }}}}\n"
