"""From stored JSON to models, or to the list of what is wrong with it. Nothing else ever comes out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import override

from autoglm_operator.api.deployment import AutoGLMDeployment
from autoglm_operator.api.deployment_status import DeploymentStatus
from autoglm_operator.api.metadata import ObjectMeta
from autoglm_operator.api.site import AutoGLMSite, SiteStatus

T = TypeVar("T", bound=BaseModel)


class Problem(NamedTuple):
    """One thing that is wrong: the field as a user writes it, and what to do, in the API server's words."""

    field: str
    message: str

    @override
    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InvalidResource(ValueError):
    """An object that cannot be used, with every problem found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def parse_deployment(obj: Mapping[str, Any]) -> AutoGLMDeployment:
    """Read an AutoGLMDeployment. Raises InvalidResource. A status that cannot be read counts as absent."""
    return _parse(AutoGLMDeployment, _without_bad_status(obj, DeploymentStatus))


def parse_site(obj: Mapping[str, Any]) -> AutoGLMSite:
    """Read an AutoGLMSite. Raises InvalidResource. A status that cannot be read counts as absent."""
    return _parse(AutoGLMSite, _without_bad_status(obj, SiteStatus))


def parse_metadata(obj: Mapping[str, Any]) -> ObjectMeta:
    """Read the metadata of an object whose spec may be invalid. Raises InvalidResource."""
    try:
        return _parse(ObjectMeta, _part(obj, "metadata"))
    except InvalidResource as invalid:
        problems = [
            Problem(".".join(filter(None, ["metadata", field])), message) for field, message in invalid.problems
        ]
        raise InvalidResource(problems) from None


def parse_deployment_status(obj: Mapping[str, Any]) -> DeploymentStatus | None:
    """Read the status of an object whose spec may be invalid; None if there is none that can be read."""
    return _status(obj, DeploymentStatus)


def parse_site_status(obj: Mapping[str, Any]) -> SiteStatus | None:
    """Read the status of an object whose spec may be invalid; None if there is none that can be read."""
    return _status(obj, SiteStatus)


def _parse(model: type[T], obj: object) -> T:
    """Read as the API server does: nulls are absent fields, types are exact, names are camelCase."""
    try:
        plain = _without_nulls(obj)
        text = json.dumps(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidResource([Problem("", f"is not JSON: {error}")]) from None
    try:
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidResource(tuple(_problems(error, plain))) from None


def _status(obj: Mapping[str, Any], model: type[T]) -> T | None:
    try:
        return _parse(model, _part(obj, "status"))
    except InvalidResource:
        return None


def _part(obj: object, name: str) -> object:
    return obj.get(name) if isinstance(obj, Mapping) else None


def _without_bad_status(obj: object, model: type[BaseModel]) -> object:
    if not isinstance(obj, Mapping) or "status" not in obj or _status(obj, model) is not None:
        return obj
    return {name: value for name, value in obj.items() if name != "status"}


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(entry) for entry in value]
    return value


def _problems(error: ValidationError, obj: object) -> Iterator[Problem]:
    """Each problem once: a union tells the same one for each member."""
    seen = set()
    for details in error.errors(include_url=False):
        for problem in _translated(details, obj):
            if problem not in seen:
                seen.add(problem)
                yield problem


def _translated(details: ErrorDetails, obj: object) -> Iterator[Problem]:
    path, rest = _path(details["loc"], obj, missing=details["type"] == "missing")
    context = details.get("ctx", {})
    match details["type"]:
        case "rules":
            for field, message in context["broken"]:
                yield Problem(".".join(filter(None, [path, field])), message)
        case "not_supported":
            yield Problem(path, f"{path} is not supported yet: {context['remedy']}")
        case kind if rest and kind == ("int_type" if isinstance(details["input"], str) else "string_type"):
            return  # "integer or string": only one of the two is said, as the API server does
        case "duplicate":
            yield Problem(f"{path}[{context['index']}]", f"Duplicate value: {context['shown']}")
        case "too_short" if len(details["input"]) >= context["min_length"]:
            return  # pydantic counts valid entries only; what is wrong with the others is told
        case "extra_forbidden":
            yield Problem(path, f'unknown field "{path}"')
        case kind:
            yield Problem(path, _message(kind, context, details))


def _message(kind: str, context: Mapping[str, Any], details: ErrorDetails) -> str:
    """The API server's words for what its own schema checks."""
    match kind:
        case "missing":
            return "Required value"
        case "literal_error":
            values = ", ".join(f'"{value}"' for value in re.findall(r"'([^']*)'", context["expected"]))
            return f"Unsupported value: {json.dumps(details['input'])}: supported values: {values}"
        case "greater_than_equal":
            return f"should be greater than or equal to {_number(context['ge'])}"
        case "less_than_equal":
            return f"should be less than or equal to {_number(context['le'])}"
        case "string_too_long":
            return f"Too long: may not be more than {context['max_length']} bytes"
        case "too_long":
            return f"Too many: {context['actual_length']}: must have at most {context['max_length']} items"
        case "too_short":
            return f"should have at least {context['min_length']} items"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return "must be of type integer"
        case "string_type" | "bool_type" | "float_type" | "dict_type" | "tuple_type" | "model_type":
            return f"must be of type {_TYPES[kind]}"
        case _:
            return details["msg"]


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


_TYPES = {
    "string_type": "string",
    "bool_type": "boolean",
    "float_type": "number",
    "dict_type": "object",
    "model_type": "object",
    "tuple_type": "array",
}


def _path(loc: tuple[int | str, ...], obj: object, *, missing: bool) -> tuple[str, tuple[int | str, ...]]:
    """The path as kubectl prints it, and what pydantic adds at its end: names of union members."""
    path, value = "", obj
    for position, part in enumerate(loc):
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}" if path else str(part), value[part]
        elif missing and position == len(loc) - 1:
            path = f"{path}.{part}" if path else str(part)
        else:
            return path, loc[position:]
    return path, ()
