"""The schema and the code generated from it say the same, and carry what the machines say."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from lateack.protos import lateack_pb2

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["lateack_pb2.py", "lateack_pb2.pyi"])
def test_the_generated_code_is_fresh(tmp_path: Path, name: str) -> None:
    """`make protos` would change nothing."""
    schema = "src/lateack/protos/lateack.proto"
    protoc = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        "src",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
    ]

    subprocess.run([*protoc, schema], cwd=ROOT, check=True)

    assert (tmp_path / "lateack" / "protos" / name).read_text() == (ROOT / "protos" / name).read_text()


def test_a_batch_comes_back_as_it_left() -> None:
    """Frames and notes keep their bytes and order, and clocks their 63 bits, through the wire form."""
    batch = lateack_pb2.Batch(
        hlc_wall_ns=2**63 - 1,
        hlc_logical=7,
        source="netback-a",
        epoch=3,
        target="network",
        sent_at_ns=5 * 10**9,
        frames=[b"\x00" * 60, b"", b"\xff" * 1514],
        notes=[b"\x81\xa6target\xa6server"],
    )

    back = lateack_pb2.Batch.FromString(batch.SerializeToString())

    assert back == batch
    assert list(back.frames) == [b"\x00" * 60, b"", b"\xff" * 1514]


def test_an_empty_batch_is_a_heartbeat_without_a_byte() -> None:
    """A batch of nothing is valid and takes no bytes of its own."""
    heartbeat = lateack_pb2.Batch()

    assert heartbeat.SerializeToString() == b""
    assert lateack_pb2.Batch.FromString(b"") == heartbeat


def test_every_integer_is_an_int64() -> None:
    """No count of nanoseconds can outgrow its field."""
    messages = lateack_pb2.DESCRIPTOR.message_types_by_name.values()
    others = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}

    numbers = [field for message in messages for field in message.fields if field.type not in others]

    assert {field.name for field in numbers} == {"hlc_wall_ns", "hlc_logical", "epoch", "sent_at_ns", "run_epoch"}
    assert {field.type for field in numbers} == {FieldDescriptor.TYPE_INT64}


def test_the_link_is_a_stream_of_batches_in_both_directions() -> None:
    """The path that both ends name, /lateack.v1.Link/Exchange, is the schema's own."""
    link = lateack_pb2.DESCRIPTOR.services_by_name["Link"]

    (exchange,) = link.methods

    assert (link.full_name, exchange.name) == ("lateack.v1.Link", "Exchange")
    assert exchange.input_type.name == exchange.output_type.name == "Batch"
    assert exchange.client_streaming
    assert exchange.server_streaming
