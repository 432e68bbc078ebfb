"""ZDS packets as istio-cni sends them, byte for byte, and what of them is refused."""

from __future__ import annotations

import pytest

from agent.pb import zds_pb2
from agent.wire.zds import (
    HELLO,
    PACKET_BYTES,
    Add,
    Conversation,
    Del,
    Keep,
    Request,
    SnapshotSent,
    ZdsViolation,
    ack,
    decode,
)

UID = b"4f2a"
INFO = b"\x0a\x01a\x12\x04demo\x1a\x03web"
ADD = b"\x0a\x16\x0a\x04" + UID + b"\x12\x0e" + INFO
KEEP, DEL, SNAPSHOT = b"\x2a\x06\x0a\x04" + UID, b"\x12\x06\x12\x04" + UID, b"\x1a\x00"


@pytest.mark.parametrize(
    ("packet", "request_"),
    [
        (ADD, Add("4f2a", "demo", "a", "web")),
        (ADD[:1] + b"\x1a" + ADD[2:] + b"\x7a\x02xx", Add("4f2a", "demo", "a", "web")),
        (KEEP, Keep("4f2a")),
        (DEL, Del("4f2a")),
        (SNAPSHOT, SnapshotSent()),
    ],
    ids=["add", "with a field of later", "keep", "del", "snapshot"],
)
def test_requests_as_they_come(packet: bytes, request_: Request) -> None:
    assert decode(packet) == request_


def test_hello_and_acks_as_they_are_sent() -> None:
    assert HELLO == b"\x08\x01"
    assert ack() == b"\x0a\x00", "an empty packet would be the end of the connection"
    assert zds_pb2.WorkloadResponse.FromString(ack("no veth")).ack.error == "no veth"
    long = ack("é" * PACKET_BYTES)
    assert len(long) < 1000 and zds_pb2.WorkloadResponse.FromString(long).ack.error.startswith("ééé")


@pytest.mark.parametrize(
    ("packet", "descriptors", "reason"),
    [
        (b"", 0, "asks for nothing"),
        (b"\x32\x00", 0, "asks for nothing"),
        (b"\xff\xff", 0, "no request"),
        (ADD[:-1], 1, "no request"),
        (b"\x0a\x06\x0a\x04" + UID, 1, "workload_info"),
        (b"\x0a\x02\x12\x00", 1, "has '' for its uid"),
        (ADD.replace(b"web", b"w/b"), 1, "'w/b' for its service_account"),
        (ADD.replace(b"demo", b"de\x00o"), 1, "for its namespace"),
        (ADD, 0, "add of pod demo/a came with 0 descriptors instead of 1"),
        (ADD, 2, "came with 2 descriptors instead of 1"),
        (KEEP, 1, "came with 1 descriptors instead of 0"),
        (DEL, 1, "came with 1 descriptors"),
        (SNAPSHOT, 1, "came with 1 descriptors"),
    ],
)
def test_what_cannot_be_used_is_named(packet: bytes, descriptors: int, reason: str) -> None:
    with pytest.raises(ZdsViolation, match=reason):
        Conversation().receive(packet, descriptors)


def test_a_packet_that_is_cut_is_not_read() -> None:
    with pytest.raises(ZdsViolation, match="too large"):
        Conversation().receive(DEL, 0, is_cut=True)


@pytest.mark.parametrize("late", [KEEP, SNAPSHOT])
def test_after_the_snapshot_only_add_and_del(late: bytes) -> None:
    talk = Conversation()
    talk.receive(KEEP, 0)
    assert not talk.has_snapshot
    talk.receive(SNAPSHOT, 0)
    assert talk.has_snapshot
    with pytest.raises(ZdsViolation, match="after the snapshot"):
        talk.receive(late, 0)
    talk.receive(ADD, 1)
    talk.receive(DEL, 0)
