"""The gateway's Envoy messages in Python are those of the file that they are made from."""

import re
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from autoglm_serving.gateway import envoy_messages_pb2 as envoy

SOURCE = Path(envoy.__file__).with_name("envoy_messages.proto").read_text()
FIELD = re.compile(r"^ +(?:repeated |map<.*> |[\w.]+ )+([a-z_]+) = (\d+);$", re.MULTILINE)
MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def written() -> dict[str, dict[str, int]]:
    """Message, field, number. Values of enums are no fields: they have no type, and capitals."""
    fields = {name: FIELD.findall(body) for name, body in MESSAGE.findall(SOURCE)}
    return {name: {field: int(number) for field, number in found} for name, found in fields.items()}


def made(message: Descriptor) -> dict[str, int]:
    return {each.name: each.number for each in message.fields}


def test_each_message_and_field_has_its_number() -> None:
    messages = {name: made(message) for name, message in envoy.DESCRIPTOR.message_types_by_name.items()}
    assert messages == written(), "run `make messages` and commit what it writes"
    assert sum(map(len, messages.values())) > 40


def test_a_field_that_is_not_known_here_is_skipped_and_kept() -> None:
    newer = envoy.HttpBody(body=b"{}").SerializeToString() + b"\x18\x01"  # field 3, of a newer Envoy
    assert envoy.HttpBody.FromString(newer).body == b"{}"
    assert envoy.HttpBody.FromString(newer).SerializeToString() == newer
