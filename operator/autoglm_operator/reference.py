"""Reference pages in Markdown, made from the custom resource definitions and from the list of reasons."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autoglm_operator.api import REASONS

Json = Mapping[str, Any]

_HEADER = "<!-- Made by `make crds` from operator/autoglm_operator/api. Do not edit. -->\n\n"
_RULES = "x-kubernetes-validations"


def generate(definitions: Iterable[Json]) -> dict[str, str]:
    """Every reference page: path from the project's root -> text."""
    pages = {f"docs/reference/{crd['spec']['names']['singular']}.md": page(crd) for crd in definitions}
    return pages | {"docs/reference/reasons.md": reasons()}


def page(crd: Json) -> str:
    """The page of one kind: how to call it, its columns, then one table for each object in it."""
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    lines = [
        f"# {names['kind']}",
        "",
        schema["description"],
        "",
        f"- API version: `{crd['spec']['group']}/{version['name']}`",
        f"- Scope: {crd['spec']['scope']}",
        f"- Short name: `{names['shortNames'][0]}`, so `kubectl get {names['shortNames'][0]}` lists them",
        f"- Subresources: {', '.join(version['subresources'])}",
        "- Reasons of conditions: [reasons.md](reasons.md)",
        "",
        "Columns of `kubectl get` (those marked wide need `-o wide`):",
        "",
        *_table(("Column", "What it says"), (_column(column) for column in version["additionalPrinterColumns"])),
    ]
    for path, node in _objects(schema["properties"]["spec"], "spec"):
        lines += _section(path, node)
    for path, node in _objects(schema["properties"]["status"], "status"):
        lines += _section(path, node)
    return _HEADER + "\n".join(lines).rstrip() + "\n"


def reasons() -> str:
    """The page of all condition reasons."""
    rows = ((f"`{reason}`", meaning) for reason, meaning in REASONS.items())
    lines = [
        "# Reasons of conditions",
        "",
        "The `reason` of a condition is one of these. The list is closed: the API server refuses others.",
        "",
        *_table(("Reason", "What it means"), rows),
    ]
    return _HEADER + "\n".join(lines).rstrip() + "\n"


def _column(column: Json) -> tuple[str, str]:
    return f"{column['name']}{' (wide)' if column.get('priority') else ''}", column["description"]


def _section(path: str, node: Json) -> list[str]:
    rows = (_row(name, value, name in node.get("required", ())) for name, value in node["properties"].items())
    lines = [f"## {path}", "", node.get("description", ""), ""]
    lines += _table(("Field", "Type", "Default", "What it does"), rows)
    rules = [rule for rule in node.get(_RULES, ()) if not rule["message"].startswith(f"{path}.")]
    if rules:
        lines += ["Rules:", ""]
        lines += [f"- {_blame(path, rule)}{rule['message']}" for rule in rules]
        lines.append("")
    return lines


def _blame(path: str, rule: Json) -> str:
    return f"`{path}{rule['fieldPath']}` " if "fieldPath" in rule else ""


def _row(name: str, node: Json, required: bool) -> tuple[str, ...]:
    description = node.get("description", "")
    rules = "" if "properties" in node else "".join(f" Value {rule['message']}." for rule in node.get(_RULES, ()))
    return (
        f"`{name}`{' (required)' if required else ''}",
        _type(node),
        _default(node),
        description + rules + _bounds(node),
    )


def _type(node: Json) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    if isinstance(node.get("additionalProperties"), Mapping):
        return f"map of {_type(node['additionalProperties'])}"
    return str(node.get("type", "any"))


def _default(node: Json) -> str:
    if "default" not in node or node["default"] in ({}, [], ""):
        return ""
    value = node["default"]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _bounds(node: Json) -> str:
    """The bounds of a number or a list, as a sentence."""
    low, high, unit = node.get("minimum"), node.get("maximum"), ""
    if node.get("type") == "array":
        low, high, unit = node.get("minItems"), node.get("maxItems"), " entries"
    if low is not None and high is not None:
        return f" From {low} to {high}{unit}."
    if high is not None:
        return f" At most {high}{unit}."
    return f" At least {low}{unit}." if low is not None else ""


def _objects(node: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Every object with named fields at or below a node, with its path, from the outside in."""
    if node.get("type") == "array":
        yield from _objects(node["items"], f"{path}[]")
    if "properties" in node:
        yield path, node
        for name, value in node["properties"].items():
            yield from _objects(value, f"{path}.{name}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return [_cells(head), _cells(tuple("---" for _ in head)), *map(_cells, escaped), ""]


def _cells(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
