"""Copies of SYNs: what is read of them, and what is sent for them. Checksums are added up as a receiver does."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.address import SocketAddress
from agent.wire import held_syn
from agent.wire.held_syn import FROM_POD, RECORD, TO_POD, VNET_HEADER, HeldSyn
from tests.support import packets as pk
from tests.support.packets import TCP

OPTIONS = bytes.fromhex("020405b40402080a000000000000000001030307")
MAC = bytes.fromhex("02bb00000001")
A_TO_B = ("10.0.0.1", 1, "10.0.0.2", 2)
ENDS = {"v4": ("10.77.1.11", "10.96.77.10"), "v6": ("fd77:1::11", "fd77:96::10")}


def record(frame: bytes, l4_offset: int, size: int | None = None, hook: int = FROM_POD) -> bytes:
    """As from_pod writes it; `size`: how much of the frame is headers."""
    size = len(frame) if size is None else size
    return RECORD.pack(7, 3, hook, l4_offset, size, frame[:size])


def syn_record(ends: str, data: bytes = b"", options: bytes = OPTIONS, hook: int = FROM_POD) -> bytes:
    source, destination = ENDS[ends]
    frame = pk.ip(source, destination, TCP, pk.tcp(40000, 80, data=data, options=options))
    return record(frame, 34 if ends == "v4" else 54, len(frame) - len(data), hook)


def summed(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def finished(sent: bytes) -> bytes:
    """The frame as the device makes it: with the checksum that the header in front asks for."""
    flags, gso, header_bytes, gso_size, start, offset = VNET_HEADER.unpack_from(sent)
    assert (flags, gso, header_bytes, gso_size) == (1, 0, 0, 0)
    frame = sent[VNET_HEADER.size :]
    checksum = summed(frame[start:]) ^ 0xFFFF
    at = start + offset
    return frame[:at] + checksum.to_bytes(2, "big") + frame[at + 2 :]


def is_valid(frame: bytes) -> bool:
    """Lengths and checksums, as a receiver looks at them."""
    if frame[12:14] == b"\x08\x00":
        words = frame[14] & 15
        at = 14 + words * 4
        source, destination = frame[26:30], frame[30:34]
        if summed(frame[14:at]) != 0xFFFF or int.from_bytes(frame[16:18], "big") != len(frame) - 14:
            return False
    else:
        at, following = 54, frame[20]
        source, destination = frame[22:38], frame[38:54]
        while following != TCP:
            following, at = frame[at], at + 8 * (frame[at + 1] + 1)
        if int.from_bytes(frame[18:20], "big") != len(frame) - 54:
            return False
    pseudo = source + destination + struct.pack("!II", TCP, len(frame) - at)
    return summed(pseudo + frame[at:]) == 0xFFFF


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("hook", (FROM_POD, TO_POD))
def test_a_copy_says_who_dials_whom(ends: str, hook: int) -> None:
    syn = held_syn.read(syn_record(ends, b"early", hook=hook))
    source, destination = ENDS[ends]
    bracket = "[{}]" if ends == "v6" else "{}"
    peer, local = (
        SocketAddress.parse(f"{bracket.format(ip)}:{port}")
        for ip, port in ((source, 40000), (destination, 80))
    )
    assert (syn.key, syn.hook, syn.sequence, syn.payload_bytes, syn.at_ns) == ((peer, local), hook, 1, 5, 7)
    assert syn.pod == (peer.ip if hook == FROM_POD else local.ip)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("data", (b"", b"hello, early"))
def test_the_syn_again_is_whole_but_for_its_data(ends: str, data: bytes) -> None:
    raw = syn_record(ends, data)
    frame = finished(held_syn.again(held_syn.read(raw), MAC))
    assert frame[:12] == MAC + held_syn.MARKER_MAC
    assert is_valid(frame)
    assert frame.endswith(OPTIONS)
    before = RECORD.unpack(raw)[5]
    at = 34 if ends == "v4" else 54
    assert frame[at : at + 16] == before[at : at + 16]


@pytest.mark.parametrize("checksum", (b"\0\0", b"\xff\xff", b"\x12\x34"))
def test_the_sum_of_the_copy_is_not_believed(checksum: bytes) -> None:
    """It holds the pseudo-header's or a whole one, by what the pod's device can do."""
    raw = bytearray(syn_record("v4"))
    raw[16 + 34 + 16 : 16 + 34 + 18] = checksum
    assert is_valid(finished(held_syn.again(held_syn.read(bytes(raw)), MAC)))


def test_options_of_ip_stay() -> None:
    packet = pk.ip4(*ENDS["v4"], TCP, pk.tcp(1, 2, options=OPTIONS), options=b"\x01" * 8)
    frame = finished(held_syn.again(held_syn.read(record(pk.framed(packet), 42)), MAC))
    assert is_valid(frame) and frame[34:42] == b"\x01" * 8
    hidden = pk.framed(pk.ip6(*ENDS["v6"], pk.DEST_OPTIONS, pk.extension(TCP, pk.tcp(1, 2), 1)))
    frame = finished(held_syn.again(held_syn.read(record(hidden, 70)), MAC))
    assert is_valid(frame) and frame[54:70] == hidden[54:70]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("data", (b"", b"hello, early"))
def test_a_reset_answers_the_syn_and_what_it_carried(ends: str, data: bytes) -> None:
    frame = finished(held_syn.reset(held_syn.read(syn_record(ends, data)), MAC * 2))
    assert is_valid(frame)
    at = 34 if ends == "v4" else 54
    fields = struct.unpack_from("!HHIIBBHHH", frame, at)
    sport, dport, sequence, acknowledged, words, flags, window, _, urgent = fields
    assert (sport, dport, words, flags, window, urgent) == (80, 40000, 0x50, 0x14, 0, 0)
    assert (sequence, acknowledged) == (0, 2 + len(data))
    back = held_syn.read(record(frame, at))
    asked = held_syn.read(syn_record(ends))
    assert back.key == (asked.local, asked.peer)


def test_the_acknowledgement_wraps() -> None:
    syn = held_syn.read(syn_record("v4"))
    syn.sequence = 0xFFFFFFFF
    frame = finished(held_syn.reset(syn, MAC * 2))
    assert frame[42:46] == bytes(4)


def test_a_mapped_address_is_the_one_that_accept_names() -> None:
    frame = pk.ip("fd77:1::11", "::ffff:10.0.0.1", TCP, pk.tcp(1, 2))
    assert str(held_syn.read(record(frame, 54)).local) == "10.0.0.1:2"


@pytest.mark.parametrize(
    "raw",
    (
        b"",
        bytes(RECORD.size - 1),
        bytes(RECORD.size),
        record(pk.arp("10.0.0.1", "10.0.0.2"), 34, 60),
        record(pk.segment(*A_TO_B), 20),
        record(pk.segment(*A_TO_B), 34, 50),
        record(pk.segment(*A_TO_B), 34, hook=2),
    ),
)
def test_what_no_program_writes_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        held_syn.read(raw)


@given(st.binary(min_size=RECORD.size, max_size=RECORD.size + 8))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        syn = held_syn.read(raw)
    except ValueError:
        return
    assert isinstance(syn, HeldSyn)
    assert len(held_syn.again(syn, MAC)) == VNET_HEADER.size + len(syn.headers)
    assert held_syn.reset(syn, MAC * 2)
