"""What every model of the API shares: how it is read, and rules that hold in Python and in the API server alike.

A rule is written once, as a CEL expression and a Python check side by side with one message. Pydantic runs the check,
the custom resource definition carries the expression, and a test holds the two together against a real API server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import override

GROUP: Final = "serving.autoglm.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "serving.autoglm.dev/v1alpha1"

VALIDATIONS = "x-kubernetes-validations"
NOT_SUPPORTED = "x-autoglm-not-supported"
LIST_TYPE = "x-kubernetes-list-type"
LIST_MAP_KEYS = "x-kubernetes-list-map-keys"


class Rule(NamedTuple):
    """A rule between fields of one object. `field` is the path to blame, from that object, as a user writes it."""

    cel: str
    check: Callable[[Any], bool]
    message: str
    field: str = ""

    def as_schema(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = "." + self.field
        return entry


class Model(BaseModel):
    """Base of every API model: frozen, camelCase outside and snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        broken = [rule for rule in self.rules if not rule.check(self)]
        if broken:
            text = "; ".join(rule.message for rule in broken)
            context = {"text": text, "broken": [(rule.field, rule.message) for rule in broken]}
            raise PydanticCustomError("rules", "{text}", context)
        return self

    @classmethod
    @override
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        if cls.rules:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.as_schema() for rule in cls.rules]
        return schema


class Reported(Model):
    """Base of status models. A status may come from another version of the operator, so unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True)
class Check:
    """Marks one field with a rule on its own value: the CEL expression and the Python check say the same."""

    cel: str
    check: Callable[[Any], bool]
    message: str
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._keep, handler(source))

    def _keep(self, value: Any) -> Any:
        if not self.check(value):
            raise PydanticCustomError("check", "{text}", {"text": self.message})
        return value

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[VALIDATIONS] = [{"rule": self.cel, "message": self.message}]
        if self.pattern is not None:
            schema["pattern"] = self.pattern
        return schema


@dataclass(frozen=True)
class NotYet:
    """Marks a field that is part of the API but has no effect yet: setting it is refused, with what to do instead."""

    remedy: str = "remove it"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._refuse, handler(source))

    def _refuse(self, value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError("not_supported", "is not supported yet: {remedy}", {"remedy": self.remedy})
        return value

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[NOT_SUPPORTED] = self.remedy
        return schema


@dataclass(frozen=True)
class Unique:
    """Marks a list whose entries differ: by their value, or by the field named `key`."""

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._keep, handler(source))

    def _keep(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        seen = set()
        for index, value in enumerate(values):
            name = getattr(value, self.key) if self.key else value
            if name in seen:
                context = {"shown": self._shown(name), "index": index}
                raise PydanticCustomError("duplicate", "Duplicate value: {shown}", context)
            seen.add(name)
        return values

    def _shown(self, name: str) -> str:
        return f'{{"{self.key}":"{name}"}}' if self.key else f'"{name}"'

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[LIST_TYPE] = "map" if self.key else "set"
        if self.key:
            schema[LIST_MAP_KEYS] = [to_camel(self.key)]
        return schema
