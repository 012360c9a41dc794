"""Custom resource definitions and JSON schemas, made from the models. `generate` gives every file as text.

Pydantic's JSON schema is not what Kubernetes takes: `structural` inlines references, folds nullable unions, turns `const`
into `enum`, drops what only JSON schema knows, and lifts each field that has no effect yet into a rule of its parent.
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import override

from autoglm_operator.api import (
    GROUP,
    VERSION,
    AutoGLMDeployment,
    AutoGLMSite,
    DeploymentSpec,
    DeploymentStatus,
    SiteSpec,
    SiteStatus,
)
from autoglm_operator.api.base import LIST_MAP_KEYS, LIST_TYPE, NOT_SUPPORTED, VALIDATIONS
from autoglm_serving.config import AppConfig

Json = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out each time: anchors read badly."""

    @override
    def ignore_aliases(self, data: Any) -> bool:
        return True


_COPIED = (
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "maxProperties",
    LIST_TYPE,
    LIST_MAP_KEYS,
    VALIDATIONS,
)
_HEADER = "# Made by `make crds` from operator/autoglm_operator/api. Do not edit.\n"
_NAME_RULE: Json = {
    "rule": "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "message": 'must be a DNS label: at most 63 of a-z, 0-9 and "-", with a letter or digit at both ends',
    "fieldPath": ".metadata.name",
}


def generate() -> dict[str, str]:
    """Every generated CRD and JSON schema: path from the project's root -> text."""
    files = {f"crds/{crd['metadata']['name']}.yaml": _HEADER + as_yaml(crd) for crd in definitions()}
    for name, schema in json_schemas().items():
        files[f"schemas/{name}.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return files


def as_yaml(value: Json) -> str:
    """YAML in the order of the keys, without anchors."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def definitions() -> tuple[Json, Json]:
    """The custom resource definitions of AutoGLMDeployment and AutoGLMSite."""
    return _deployment_definition(), _site_definition()


def json_schemas() -> dict[str, Json]:
    """JSON schemas (draft 2020-12) for editors: name -> schema."""
    return {
        "autoglmdeployment": _manifest_schema(AutoGLMDeployment),
        "autoglmsite": _manifest_schema(AutoGLMSite),
        "appconfig": _json_schema(AppConfig),
    }


def structural(model: type[BaseModel], path: str, mode: JsonSchemaMode = "validation") -> Json:
    """The structural schema of a model whose place in the object is `path`, such as "spec"."""
    schema = model.model_json_schema(mode=mode)
    return _node(schema, schema.get("$defs", {}), path)


def _deployment_definition() -> Json:
    columns = [
        _column("Ready", ".status.conditions[?(@.type=='Ready')].status", "Whether real requests are answered."),
        _column("Replicas", ".status.replicasReady", "Ready out of wanted replicas."),
        _column("Sites", ".status.sitesReady", "Ready out of selected sites."),
        _column("Model", ".spec.model.name", "Model id by which clients ask for it."),
        _column("Reason", ".status.conditions[?(@.type=='Ready')].reason", "Why it is ready or not.", wide=True),
        _column("Revision", ".status.revision", "Revision that shall run.", wide=True),
        _column("Variants", ".status.variants", "How many sites run which variant of the model.", wide=True),
        _column("TTFT p95", ".status.ttft.p95", "Time to the first byte at the 95th percentile.", wide=True),
        _column("Message", ".status.conditions[?(@.type=='Ready')].message", "Why, in a sentence.", wide=True),
        _column("Age", ".metadata.creationTimestamp", "Time since the object was made.", type_="date"),
    ]
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    version = _version(AutoGLMDeployment, DeploymentSpec, DeploymentStatus, columns, {"scale": scale})
    return _definition("AutoGLMDeployment", "agd", "Namespaced", version)


def _site_definition() -> Json:
    connected = ".status.conditions[?(@.type=='Connected')]"
    columns = [
        _column("Connected", f"{connected}.status", "Whether the site answers."),
        _column("Tier", ".spec.tier", "cloud or edge."),
        _column("Phase", ".status.phase", "Connected, Stale or Unreachable."),
        _column("Free", ".status.free", "Free out of all accelerators, by type."),
        _column("Price", ".spec.price", "Price of one replica for an hour.", type_="number"),
        _column("Applications", ".status.applications", "Applications of this operator there.", type_="integer"),
        _column("Since", ".status.since", "Since when the site answers, or does not.", type_="date"),
        _column("Reason", f"{connected}.reason", "Why it is connected or not.", wide=True),
        _column("RTT", ".status.link.rtt", "Round trip time, as gateways measure it.", wide=True),
        _column(
            "Bandwidth",
            ".status.link.bandwidth",
            "Bandwidth, as measured; empty: not known, or 50Mbit and more.",
            wide=True,
        ),
        _column(
            "Capacity seen", ".status.capacityObservedAt", "Time since free capacity was seen.", type_="date", wide=True
        ),
        _column("Ray", ".status.rayVersion", "Version of Ray.", wide=True),
        _column("Address", ".spec.backend.ray.address", "Address of the Ray dashboard.", wide=True),
        _column("Message", ".status.message", "What is wrong, in a sentence.", wide=True),
        _column("Age", ".metadata.creationTimestamp", "Time since the object was made.", type_="date"),
    ]
    return _definition("AutoGLMSite", "ags", "Cluster", _version(AutoGLMSite, SiteSpec, SiteStatus, columns, {}))


def _definition(kind: str, short: str, scope: str, version: Json) -> Json:
    plural = f"{kind.lower()}s"
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["autoglm"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/name": "autoglm"}},
        "spec": {"group": GROUP, "names": names, "scope": scope, "versions": [version]},
    }


def _version(
    root: type[BaseModel], spec: type[BaseModel], status: type[BaseModel], columns: list[Json], subresources: Json
) -> Json:
    descriptions = {name: str(field.description) for name, field in root.model_fields.items()}
    schema = {
        "type": "object",
        "description": _sentence(str(root.__doc__)),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": descriptions["api_version"]},
            "kind": {"type": "string", "description": descriptions["kind"]},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": structural(spec, "spec") | {"description": descriptions["spec"]},
            "status": structural(status, "status", "serialization") | {"description": descriptions["status"]},
        },
        VALIDATIONS: [_NAME_RULE],
    }
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, **subresources},
        "additionalPrinterColumns": columns,
    }


def _column(name: str, path: str, description: str, *, type_: str = "string", wide: bool = False) -> Json:
    column: Json = {"name": name, "type": type_, "description": description, "jsonPath": path}
    return column | {"priority": 1} if wide else column


def _node(node: Json, defs: Mapping[str, Json], path: str) -> Json:
    """One schema node and all below it, in the order that people read: type, description, default, rules, parts."""
    merged = _merge(node, defs)
    result: Json = {key: merged[key] for key in ("type", "description", "default") if merged.get(key) is not None}
    if "description" in result:
        result["description"] = _sentence(result["description"])
    result |= {key: merged[key] for key in _COPIED if key in merged and key not in result}
    if "const" in merged:
        result["enum"] = [merged["const"]]
    if merged.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["x-kubernetes-int-or-string"] = True
    if "items" in merged:
        result["items"] = _node(merged["items"], defs, f"{path}[]")
    return result | _object_parts(merged, result, defs, path)


def _object_parts(merged: Json, result: Json, defs: Mapping[str, Json], path: str) -> Json:
    """Properties of an object, the rules that refuse those without effect, and its additional properties."""
    parts: Json = {}
    if "properties" in merged:
        properties = {name: _property(value, defs, f"{path}.{name}") for name, value in merged["properties"].items()}
        if "default" in result:
            # In full, because the API server checks the rules on a default before the properties' own defaults fill it.
            parts["default"] = {name: value["default"] for name, value in properties.items() if "default" in value}
        parts["properties"] = properties
        computed = [name for name, value in merged["properties"].items() if value.get("readOnly")]
        if required := [name for name in merged.get("required", ()) if name not in computed]:
            parts["required"] = required
        if rules := [*merged.get(VALIDATIONS, ()), *_refusals(merged["properties"], path)]:
            parts[VALIDATIONS] = rules
    match merged.get("additionalProperties"):
        case True:
            parts["x-kubernetes-preserve-unknown-fields"] = True
        case dict() as value:
            parts["additionalProperties"] = _node(value, defs, f"{path}.*")
        case _:
            pass
    return parts


def _property(value: Json, defs: Mapping[str, Json], path: str) -> Json:
    """A property. Nothing is asked of one that has no effect yet, so that the refusal is the only thing said."""
    node = _node(value, defs, path)
    if NOT_SUPPORTED not in value:
        return node
    return _unasked(node) | {"description": f"Not supported yet. {node['description']}"}


def _unasked(node: Json) -> Json:
    kept = {key: value for key, value in node.items() if key not in (VALIDATIONS, "required", LIST_TYPE, LIST_MAP_KEYS)}
    if "properties" in kept:
        kept["properties"] = {name: _unasked(value) for name, value in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _unasked(kept["items"])
    return kept


def _refusals(properties: Mapping[str, Json], path: str) -> list[Json]:
    return [
        {
            "rule": f"!has(self.{name})",
            "message": f"{path}.{name} is not supported yet: {value[NOT_SUPPORTED]}",
            "fieldPath": f".{name}",
        }
        for name, value in properties.items()
        if NOT_SUPPORTED in value
    ]


def _merge(node: Json, defs: Mapping[str, Json]) -> Json:
    """A node with its reference and its union folded in. What stands beside a reference wins over what it points to."""
    merged: Json = {}
    if "$ref" in node:
        merged = _merge(defs[node["$ref"].rsplit("/", 1)[1]], defs)
    members = [_merge(member, defs) for member in node.get("anyOf", ()) if member.get("type") != "null"]
    for member in members:
        merged = merged | member
    if {member.get("type") for member in members} == {"integer", "string"}:
        merged["x-kubernetes-int-or-string"] = True
    rules = [*merged.get(VALIDATIONS, ()), *node.get(VALIDATIONS, ())]
    merged = merged | {key: value for key, value in node.items() if key not in ("$ref", "anyOf", "$defs")}
    return merged | {VALIDATIONS: [_ordered(rule) for rule in rules]} if rules else merged


def _ordered(rule: Json) -> Json:
    return {key: rule[key] for key in ("rule", "message", "fieldPath") if key in rule}


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _manifest_schema(model: type[BaseModel]) -> Json:
    """JSON schema of a manifest as a person writes it: no status, and the fields that every manifest has are required."""
    schema = _json_schema(model)
    del schema["properties"]["status"]
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema | {"$defs": _used(schema)}


def _used(schema: Json) -> Json:
    """The definitions that are still referred to."""
    defs: Json = schema["$defs"]
    wanted, found = _references({key: value for key, value in schema.items() if key != "$defs"}), set[str]()
    while missing := wanted - found:
        found |= missing
        wanted |= {name for used in missing for name in _references(defs[used])}
    return {name: defs[name] for name in defs if name in found}


def _references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rsplit("/", 1)[1]} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*(_references(entry) for entry in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(_references(entry) for entry in value))
    return set()


def _json_schema(model: type[BaseModel]) -> Json:
    schema = _for_editors(model.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _for_editors(value: Any) -> Any:
    """Without Kubernetes' own words, titles and nulls; a field that has no effect yet is never valid."""
    if isinstance(value, list):
        return [_for_editors(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if NOT_SUPPORTED in value:
        return {"description": f"Not supported yet: {value[NOT_SUPPORTED]}.", "not": {}}
    kept = {
        key: _for_editors(entry)
        for key, entry in value.items()
        if not (key == "title" and isinstance(entry, str))
        and not key.startswith("x-")
        and (key, entry) != ("default", None)
    }
    if isinstance(kept.get("description"), str):
        kept["description"] = _sentence(kept["description"])
    return _without_null(kept)


def _without_null(schema: Json) -> Json:
    members = [member for member in schema.get("anyOf", ()) if member != {"type": "null"}]
    if len(members) == 1:
        return {**members[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    return schema
