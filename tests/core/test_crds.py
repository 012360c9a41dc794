"""The generated CRDs, JSON schemas and reference pages say what the models say."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from autoglm_operator import crds, reference
from autoglm_operator.api import REASONS, parse_deployment, parse_site
from support.manifests import ACCEPTED, REFUSED, Accepted, Refused, deployment, manifest

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]
APPLY_LIMIT = 262_144  # bytes of annotations; plain `kubectl apply` stores the whole object in one
RULES = "x-kubernetes-validations"
DEFINITIONS = crds.definitions()
SCHEMAS: dict[str, Json] = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in DEFINITIONS
}
# What a JSON schema does not say: rules between fields, names of map entries, sizes in a text, a newline at its end.
BETWEEN_FIELDS = {
    "scaling upside down",
    "two owners of replicas",
    "replicas that go at once",
    "a quality floor without measurements",
    "more right than asked",
    "steps without room",
    "steps that fall",
    "gates without steps",
    "a pause without steps",
    "agreement without a mirror",
    "agreement without a minimum",
    "errors without a maximum",
    "a ratio of errors",
    "a gate twice",
    "both back ends",
    "a remote cluster without addresses",
    "a toleration of nothing",
    "two places for the head's state",
    "a password without a Redis",
    "a model name with a newline",
    "three shards",
    "shards of a variant",
    "a variant that is the model itself",
    "a variant called base",
    "a variant twice",
    "a quantization of the other engine",
    "shards of a named variant",
    "a variant by option and by name",
    "a quantization by option and by name",
    "variants in steps",
    "a quality without variants",
    "a floor without variants",
    "a share of nothing",
    "a share of a model that solves nothing",
    "a floor of a variant that nobody measured",
    "more tasks right than asked",
    "a variant for names and a selector",
    "shards on one device",
    "three shards with vllm",
    "an option that is a flag",
    "accelerators of a cpu",
    "a resource of a cpu",
    "more accelerators than shards",
    "shards on a resource of the user's own",
    "no CPU",
    "too many CPUs",
    "no CPU as text",
    "names and a selector",
    "a site twice",
    "crossed bounds",
    "a timeout that is too long",
    "a target of zero",
    "an empty backend",
    "a broken IPv6 address",
    "no token",
    "TLS without https",
    "no bandwidth",
    "a round trip of a minute",
}


def nodes(node: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Every schema node below a node, with its path."""
    for name, value in node.get("properties", {}).items():
        yield f"{path}.{name}", value
        yield from nodes(value, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(node.get(key), dict):
            yield path + mark, node[key]
            yield from nodes(node[key], path + mark)


ALL_NODES = [(f"{kind}{path}", node) for kind, schema in SCHEMAS.items() for path, node in nodes(schema, "")]


def test_the_files_are_those_that_the_models_make() -> None:
    made = crds.generate() | reference.generate(DEFINITIONS)
    stale = [name for name, text in made.items() if not (ROOT / name).is_file() or (ROOT / name).read_text() != text]
    assert not stale, "run `make crds` and commit what it writes"
    folders = {str(Path(name).parent) for name in made}
    assert folders == {"crds", "schemas", "docs/reference"}
    on_disk = {str(path.relative_to(ROOT)) for folder in ("crds", "schemas") for path in (ROOT / folder).iterdir()}
    assert on_disk <= set(made), "a file that nothing makes any more"


def test_the_yaml_holds_the_definition_and_no_anchor() -> None:
    for crd in DEFINITIONS:
        text = crds.generate()[f"crds/{crd['metadata']['name']}.yaml"]
        assert yaml.safe_load(text) == crd
        assert "&id" not in text


def test_a_definition_is_small_enough_for_a_plain_kubectl_apply() -> None:
    for crd in DEFINITIONS:
        assert len(json.dumps(crd, separators=(",", ":")).encode()) < APPLY_LIMIT


def test_every_field_has_a_sentence() -> None:
    fields = [
        (path, node) for path, node in ALL_NODES if not path.endswith(("[]", "{}", ".metadata", ".metadata.name"))
    ]
    assert len(fields) > 100
    poor = [path for path, node in fields if not re.match(r".{9,}[.)]$", node.get("description", ""), re.DOTALL)]
    assert not poor


@pytest.mark.parametrize(("path", "node"), ALL_NODES, ids=[path for path, _ in ALL_NODES])
def test_a_node_is_structural_and_bounded(path: str, node: Json) -> None:
    assert not {"$ref", "$defs", "anyOf", "allOf", "oneOf", "const", "title", "pattern", "prefixItems"} & node.keys()
    assert node.get("additionalProperties") is not False
    assert node.get("default", "") is not None
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    free_text = node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time"
    if free_text and not path.endswith((".apiVersion", ".kind")):
        assert "maxLength" in node
    if node.get("type") == "array":
        assert "maxItems" in node
    if isinstance(node.get("additionalProperties"), dict):
        assert "maxProperties" in node


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_lists_of_conditions_and_sites_merge_by_key(kind: str) -> None:
    status = SCHEMAS[kind]["properties"]["status"]["properties"]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert set(status["conditions"]["items"]["properties"]["reason"]["enum"]) == set(REASONS)
    if "sites" in status:
        assert status["sites"]["x-kubernetes-list-map-keys"] == ["name"]


def defaulted(value: Any, schema: Json) -> Any:
    """What the API server stores: absent fields take the schema's defaults, from the outside in."""
    if isinstance(value, dict) and "properties" in schema:
        made = dict(value)
        for name, node in schema["properties"].items():
            if name not in made and "default" in node:
                made[name] = copy.deepcopy(node["default"])
            if name in made:
                made[name] = defaulted(made[name], node)
        return made
    if isinstance(value, list) and "items" in schema:
        return [defaulted(entry, schema["items"]) for entry in value]
    return value


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: f"{case.kind}: {case.name}")
def test_defaults_of_the_schema_are_those_of_the_models(case: Accepted) -> None:
    obj = manifest(case)
    read = parse_deployment(obj) if case.kind == "deployment" else parse_site(obj)
    stored = defaulted(obj["spec"], SCHEMAS[obj["kind"]]["properties"]["spec"])
    assert read.spec.model_dump(mode="json", exclude_none=True) == stored


def test_every_column_shows_a_field_that_exists() -> None:
    for crd in DEFINITIONS:
        version = crd["spec"]["versions"][0]
        kind = crd["spec"]["names"]["kind"]
        known = {path for path, _ in nodes(SCHEMAS[kind], "")} | {".metadata.creationTimestamp"}
        for column in version["additionalPrinterColumns"]:
            assert re.sub(r"\[\?\(.*?\)\]", "[]", column["jsonPath"]) in known
        for path in version["subresources"].get("scale", {}).values():
            assert path in known


def test_names_shown_by_kubectl() -> None:
    deployments, sites = DEFINITIONS
    assert (deployments["spec"]["names"]["shortNames"], deployments["spec"]["scope"]) == (["agd"], "Namespaced")
    assert (sites["spec"]["names"]["shortNames"], sites["spec"]["scope"]) == (["ags"], "Cluster")
    columns = deployments["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Ready",
        "Replicas",
        "Sites",
        "Model",
        "Age",
    ]


def test_a_field_without_effect_asks_for_nothing_but_its_removal() -> None:
    refused = [path for path, node in ALL_NODES if node.get("description", "").startswith("Not supported yet.")]
    assert len(refused) >= 5
    for path, node in ALL_NODES:
        if any(path.startswith(outer) for outer in refused):
            assert not {RULES, "required"} & node.keys()


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: f"{case.kind}: {case.name}")
def test_the_json_schema_takes_good_manifests(case: Accepted) -> None:
    obj = manifest(case)
    jsonschema.Draft202012Validator(crds.json_schemas()[obj["kind"].lower()]).validate(obj)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.kind}: {case.name}")
def test_the_json_schema_refuses_what_one_field_shows(case: Refused) -> None:
    obj = manifest(case)
    validator = jsonschema.Draft202012Validator(crds.json_schemas()[obj["kind"].lower()])
    assert validator.is_valid(obj) == (case.name in BETWEEN_FIELDS)


def test_json_schemas_are_schemas() -> None:
    schemas = crds.json_schemas()
    assert set(schemas) == {"autoglmdeployment", "autoglmsite", "appconfig"}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert "x-kubernetes" not in json.dumps(schema)


def test_the_json_schema_of_the_application_takes_its_arguments() -> None:
    validator = jsonschema.Draft202012Validator(crds.json_schemas()["appconfig"])
    model = {"name": "autoglm-phone-9b", "uri": "builtin://autoglm-tiny"}
    good = {"deployment": "lab/phones", "uid": "7", "revision": "abc", "model": model}
    assert validator.is_valid(good)
    assert not validator.is_valid(good | {"replica": 2})


@pytest.mark.parametrize("crd", DEFINITIONS, ids=lambda crd: str(crd["spec"]["names"]["kind"]))
def test_the_reference_page_has_a_row_for_every_field(crd: Json) -> None:
    page = reference.page(crd)
    for part in ("spec", "status"):
        for path, node in nodes(SCHEMAS[crd["spec"]["names"]["kind"]]["properties"][part], part):
            if not path.endswith(("[]", "{}")):
                assert f"| `{path.rsplit('.', 1)[1]}`" in page
                assert node["description"] in page.replace("\\|", "|")
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.count("|") - line.count("\\|") in (3, 5), line


def test_the_page_of_reasons_explains_each_of_them() -> None:
    page = reference.reasons()
    for reason, meaning in REASONS.items():
        assert f"| `{reason}` | {meaning}" in page
        assert meaning.endswith(".")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: str(path.name))
def test_examples_are_valid(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    kinds = [obj["kind"] for obj in objects]
    assert set(kinds) & {"AutoGLMDeployment", "AutoGLMSite"}
    for obj in objects:
        if obj["kind"] == "AutoGLMDeployment":
            parse_deployment(obj)
        if obj["kind"] == "AutoGLMSite":
            parse_site(obj)


def test_manifests_in_python_are_not_changed_by_reading_them() -> None:
    obj = deployment()
    parse_deployment(obj)
    assert obj == deployment()
