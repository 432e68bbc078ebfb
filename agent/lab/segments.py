"""What packets on a link reveal: TLS records or other bytes on the HBONE port, and a marker anywhere.

Pure: takes Ethernet frames, puts each TCP direction back in order, and counts. The control sample of every claim
that traffic is encrypted: the marker is looked for in every payload of every protocol, also across segments. A
direction whose beginning was not seen is joined at the first segment that starts with a record header; until
then at most one record's worth of bytes is taken as the rest of a record, anything more counts as not TLS.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.model.counted import counted
from agent.model.listener import HBONE

HEADER_BYTES = 5
RECORD_LIMIT = 16384 + 256
CONTENT_TYPES = frozenset((20, 21, 22, 23, 24))
REORDER_LIMIT = 4096
SYN = 0x02
TCP, IPV4, IPV6 = 6, 0x0800, 0x86DD


class Segment(NamedTuple):
    """One TCP segment; `flow` names its direction."""

    flow: tuple[bytes, bytes, int, int]
    sequence: int
    is_syn: bool
    payload: bytes

    @property
    def ports(self) -> tuple[int, int]:
        return self.flow[2], self.flow[3]


def parse_frame(frame: bytes) -> tuple[Segment | None, bytes]:
    """(TCP segment or None, everything after the IP header) of an Ethernet frame; empty when not IP."""
    kind = int.from_bytes(frame[12:14], "big")
    packet = frame[14:]
    if kind == IPV4 and len(packet) >= 20:
        start, end = (packet[0] & 0x0F) * 4, int.from_bytes(packet[2:4], "big") or len(packet)
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        is_fragment = bool(int.from_bytes(packet[6:8], "big") & 0x1FFF)
    elif kind == IPV6 and len(packet) >= 40:
        start, end = 40, 40 + (int.from_bytes(packet[4:6], "big") or len(packet))
        protocol, source, destination = packet[6], packet[8:24], packet[24:40]
        is_fragment = False
    else:
        return None, b""
    body = packet[start:end]
    if protocol != TCP or is_fragment or len(body) < 20:
        return None, body
    sport, dport, sequence = struct.unpack_from("!HHI", body)
    offset, flags = (body[12] >> 4) * 4, body[13]
    return Segment((source, destination, sport, dport), sequence, bool(flags & SYN), body[offset:]), body


@dataclass(slots=True)
class Report:
    """What was seen. `other_segments` counts segments on the HBONE port that hold anything but TLS records."""

    packets: int = 0
    tls_records: int = 0
    other_segments: int = 0
    marker_seen: int = 0
    unfinished: int = 0
    """Segments that wait for a lost one, and directions of which no record header was seen yet."""
    dropped: int = 0
    """Packets the kernel could not hand over: above 0, the absence of a marker proves nothing."""

    def __str__(self) -> str:
        marker = f"marker seen {counted(self.marker_seen, 'time')}" if self.marker_seen else "marker absent"
        return f"{self.tls_records} TLS records, {self.other_segments} other, {marker}"


class Records:
    """Follows the TLS records of one direction, by their headers."""

    def __init__(self, is_from_start: bool) -> None:
        self.count = 0
        self._is_joined = is_from_start
        self._header = b""
        self._left = 0
        self._skipped = 0

    def feed(self, payload: bytes) -> bool:
        """False when the bytes are not TLS records."""
        if not self._is_joined:
            if not _is_header(payload[:HEADER_BYTES]):
                self._skipped += len(payload)
                return self._skipped <= RECORD_LIMIT
            self._is_joined = True
        at = 0
        while at < len(payload):
            if self._left:
                step = min(self._left, len(payload) - at)
                self._left -= step
                at += step
                continue
            step = min(HEADER_BYTES - len(self._header), len(payload) - at)
            self._header += payload[at : at + step]
            at += step
            if len(self._header) == HEADER_BYTES:
                if not _is_header(self._header):
                    self._header = b""
                    self._is_joined = False
                    self._skipped = RECORD_LIMIT
                    return False
                self._left = int.from_bytes(self._header[3:], "big")
                self._header = b""
                self.count += 1
        return True

    @property
    def is_waiting(self) -> bool:
        """Bytes came, but no record header yet."""
        return not self._is_joined and self._skipped > 0


@dataclass(slots=True)
class _Direction:
    """One TCP direction: what is expected next, what came early, the tail for a split marker."""

    next: int
    records: Records
    early: dict[int, bytes] = field(default_factory=dict)
    tail: bytes = b""


class Classifier:
    """Counts over all frames of a link. `marker` is what must not be readable."""

    def __init__(self, marker: bytes, port: int = HBONE.port) -> None:
        if not marker:
            raise ValueError("an empty marker is in every packet")
        self._marker = marker
        self._port = port
        self._directions: dict[tuple[bytes, bytes, int, int], _Direction] = {}
        self._report = Report()

    def frame(self, frame: bytes) -> None:
        segment, body = parse_frame(frame)
        self._report.packets += 1
        if segment is None:
            self._report.marker_seen += self._marker in body
            return
        direction = self._directions.get(segment.flow)
        if segment.is_syn:
            # SYN takes one sequence number; data in it (TCP Fast Open) follows.
            segment = segment._replace(sequence=(segment.sequence + 1) & 0xFFFFFFFF)
        if segment.is_syn or direction is None:
            direction = _Direction(segment.sequence, Records(segment.is_syn))
            self._directions[segment.flow] = direction
        if segment.payload:
            self._ordered(direction, segment)

    def report(self) -> Report:
        """The counts so far."""
        self._report.unfinished = sum(
            len(direction.early) + direction.records.is_waiting for direction in self._directions.values()
        )
        return self._report

    def _ordered(self, direction: _Direction, segment: Segment) -> None:
        """Takes the segment if it is next, keeps it if it came early, drops what was seen before."""
        ahead = (segment.sequence - direction.next) & 0xFFFFFFFF
        if ahead >= 1 << 31:
            fresh = len(segment.payload) - ((direction.next - segment.sequence) & 0xFFFFFFFF)
            if fresh <= 0:
                return
            segment = segment._replace(sequence=direction.next, payload=segment.payload[-fresh:])
        elif ahead:
            if len(direction.early) < REORDER_LIMIT:
                direction.early[segment.sequence] = segment.payload
            return
        payload: bytes | None = segment.payload
        while payload is not None:
            direction.next = (direction.next + len(payload)) & 0xFFFFFFFF
            self._payload(direction, segment.ports, payload)
            payload = direction.early.pop(direction.next, None)

    def _payload(self, direction: _Direction, ports: tuple[int, int], payload: bytes) -> None:
        text = direction.tail + payload
        self._report.marker_seen += text.count(self._marker)
        keep = len(self._marker) - 1
        direction.tail = text[-keep:] if keep else b""
        if self._port in ports:
            before = direction.records.count
            self._report.other_segments += not direction.records.feed(payload)
            self._report.tls_records += direction.records.count - before


def _is_header(header: bytes) -> bool:
    """A TLS record header (RFC 8446 5.1): known content type, version 3.x, legal length."""
    if len(header) < HEADER_BYTES:
        return False
    length = int.from_bytes(header[3:5], "big")
    return header[0] in CONTENT_TYPES and header[1] == 3 and header[2] <= 4 and 0 < length <= RECORD_LIMIT
