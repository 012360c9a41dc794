"""The gateway's Envoy messages in Python are those of the file that they are made from."""

import re
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from autoglm_serving.gateway import envoy_messages_pb2 as envoy

SOURCE = Path(envoy.__file__).with_name("envoy_messages.proto").read_text()
FIELD = re.compile(r"^ +((?:repeated )?(?:map<.*>|[\w.]+)) ([a-z_]+) = (\d+);$", re.MULTILINE)
MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
ENUM = re.compile(r"^  enum (\w+) \{\n(.*?)^  \}", re.MULTILINE | re.DOTALL)
ONEOF = re.compile(r"^  oneof (\w+) \{\n(.*?)^  \}", re.MULTILINE | re.DOTALL)
VALUE = re.compile(r"^ +([A-Z_]+) = (\d+);$", re.MULTILINE)

SCALARS: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}

Field = tuple[str, int, str]
"""A field's type with its label, its number, and the oneof that it is in; "" where it is in none."""


def written() -> dict[str, dict[str, Field]]:
    """Message, field, and what the file says of it. Values of enums are no fields: they have no type."""
    found: dict[str, dict[str, Field]] = {}
    for name, body in MESSAGE.findall(SOURCE):
        inside = {field: one for one, part in ONEOF.findall(body) for _, field, _ in FIELD.findall(part)}
        found[name] = {field: (kind, int(number), inside.get(field, "")) for kind, field, number in FIELD.findall(body)}
    return found


def made(message: Descriptor) -> dict[str, Field]:
    return {each.name: (_kind(each), each.number, _oneof(each)) for each in message.fields}


def _kind(field: FieldDescriptor) -> str:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return f"map<{_type(entry.fields_by_name['key'])}, {_type(entry.fields_by_name['value'])}>"
    return f"repeated {_type(field)}" if field.is_repeated else _type(field)


def _type(field: FieldDescriptor) -> str:
    """As the file names it: messages and enums of its own by their last name, those of others in full."""
    named = field.message_type or field.enum_type
    if named is None:
        return SCALARS[field.type]
    own = named.file.name == envoy.DESCRIPTOR.name
    return str(named.name if own else named.full_name)


def _oneof(field: FieldDescriptor) -> str:
    return str(field.containing_oneof.name) if field.containing_oneof is not None else ""


def test_each_message_has_its_fields_with_their_types_labels_and_numbers() -> None:
    messages = {name: made(message) for name, message in envoy.DESCRIPTOR.message_types_by_name.items()}
    assert messages == written(), "run `make messages` and commit what it writes"
    assert sum(map(len, messages.values())) > 40
    kinds = {kind for fields in messages.values() for kind, *_ in fields.values()}
    assert {"string", "bytes", "repeated HeaderValue", "map<string, google.protobuf.Struct>", "bool"} <= kinds


def test_each_enum_has_its_values() -> None:
    found = {
        f"{message}.{name}": {value.name: value.number for value in kind.values}
        for message, descriptor in envoy.DESCRIPTOR.message_types_by_name.items()
        for name, kind in descriptor.enum_types_by_name.items()
    }
    assert found == {
        f"{message}.{name}": {value: int(number) for value, number in VALUE.findall(values)}
        for message, body in MESSAGE.findall(SOURCE)
        for name, values in ENUM.findall(body)
    }
    assert found["HeaderValueOption.HeaderAppendAction"]["OVERWRITE_IF_EXISTS_OR_ADD"] == 2


def test_a_field_that_is_not_known_here_is_skipped_and_kept() -> None:
    newer = envoy.HttpBody(body=b"{}").SerializeToString() + b"\x18\x01"  # field 3, of a newer Envoy
    assert envoy.HttpBody.FromString(newer).body == b"{}"
    assert envoy.HttpBody.FromString(newer).SerializeToString() == newer
