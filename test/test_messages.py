"""The generated messages module is what protoc makes of messages.proto."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from phaul import messages_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTO = "phaul/messages.proto"


@pytest.fixture
def described(tmp_path: Path) -> descriptor_pb2.FileDescriptorProto:
    """What the installed protoc, of whatever version, reads in messages.proto."""
    if not shutil.which("protoc"):
        pytest.skip("protoc is not on this machine (package protobuf-compiler)")
    result = tmp_path / "set"
    subprocess.run(["protoc", f"--descriptor_set_out={result}", PROTO], cwd=ROOT, check=True, timeout=60)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes()).file
    return file


def test_the_module_is_of_this_proto(described: descriptor_pb2.FileDescriptorProto) -> None:
    generated = descriptor_pb2.FileDescriptorProto.FromString(messages_pb2.DESCRIPTOR.serialized_pb)
    for message in described.message_type:
        for field in message.field:
            field.ClearField("json_name")  # left out of what the module carries
    assert generated == described


def test_the_stub_names_every_message_and_field(described: descriptor_pb2.FileDescriptorProto) -> None:
    stub = (ROOT / "phaul" / "messages_pb2.pyi").read_text()
    classes = dict(re.findall(r"^class (\w+)\(.*?\):\n(.*?)(?=^class |\Z)", stub, re.MULTILINE | re.DOTALL))
    assert classes.keys() == {message.name for message in described.message_type}
    for message in described.message_type:
        fields = set(re.findall(r"^    (\w+): ", classes[message.name], re.MULTILINE))
        assert {field.name for field in message.field} <= fields, message.name


def test_field_numbers_are_never_used_twice(described: descriptor_pb2.FileDescriptorProto) -> None:
    for message in described.message_type:
        numbers = [field.number for field in message.field]
        assert len(numbers) == len(set(numbers)), message.name
