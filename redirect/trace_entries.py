"""The entry of `tracing`, by which programs are told what to tell of, and the events in the ring of whoever traces.

Part of `layout`, which has the rest of bpf/include/ztun_types.h. Times are ns of the clock that goes on while the
machine is suspended (CLOCK_BOOTTIME); addresses as `layout.address_key` has them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ANY_ADDRESS = bytes(16)
NOBODYS_ADDRESS = b"\xff" * 16
"""Of no packet."""


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Value of `tracing`: which packets are told of, and until when.

    One end has the address `own` or `own_too`, the other `far`, whichever of them sends; ANY_ADDRESS and port 0
    stand for any. All that crosses the interface `ifindex` is told too, where that is not 0. `is_ends_only`: only
    packets that end in a program, dropped or denied. The programs count in `lost` what they could not tell, and their
    rate in `due_ns`.
    """

    FORMAT = struct.Struct("=QQQ16s16s16s2s2sIB7x")
    UNTIL_AT, LOST_AT = 0, 16
    """Where these are, for whoever has the map's memory."""

    until_ns: int = 0
    due_ns: int = 0
    lost: int = 0
    own: bytes = ANY_ADDRESS
    own_too: bytes = ANY_ADDRESS
    far: bytes = ANY_ADDRESS
    own_port: int = 0
    far_port: int = 0
    ifindex: int = 0
    is_ends_only: bool = False

    def encode(self) -> bytes:
        ports = (self.own_port.to_bytes(2, "big"), self.far_port.to_bytes(2, "big"))
        addresses = (self.own, self.own_too, self.far)
        counted = (self.until_ns, self.due_ns, self.lost)
        return self.FORMAT.pack(*counted, *addresses, *ports, self.ifindex, self.is_ends_only)

    @classmethod
    def decode(cls, raw: bytes) -> TraceFilter:
        until, due, lost, own, own_too, far, own_port, far_port, ifindex, is_ends_only = cls.FORMAT.unpack(
            raw
        )
        ports = (int.from_bytes(own_port, "big"), int.from_bytes(far_port, "big"))
        return cls(until, due, lost, own, own_too, far, *ports, ifindex, bool(is_ends_only))


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """A packet, as it came to a program, and the exit by which it left: the index of one of `layout.REASONS`.

    `ifindex`: of the device at which the program runs, 0: it was a lookup, which knows no more of the packet than its
    ends. `ethertype` 0x0800 and 0x86dd are IP, and `protocol` is 0 where there is none or its header cannot be read.
    """

    FORMAT = struct.Struct("=QIIH2s2s2sBB6x16s16s")

    at_ns: int
    ifindex: int
    frame_bytes: int
    reason: int
    ethertype: int
    sport: int
    dport: int
    protocol: int
    tcp_flags: int
    source: bytes
    destination: bytes

    def encode(self) -> bytes:
        numbers = (each.to_bytes(2, "big") for each in (self.ethertype, self.sport, self.dport))
        what = (self.protocol, self.tcp_flags, self.source, self.destination)
        return self.FORMAT.pack(self.at_ns, self.ifindex, self.frame_bytes, self.reason, *numbers, *what)

    @classmethod
    def decode(cls, raw: bytes) -> TraceEvent:
        at_ns, ifindex, frame_bytes, reason, kind, sport, dport, protocol, flags, source, destination = (
            cls.FORMAT.unpack(raw)
        )
        ports = (int.from_bytes(sport, "big"), int.from_bytes(dport, "big"))
        ethertype = int.from_bytes(kind, "big")
        return cls(
            at_ns, ifindex, frame_bytes, reason, ethertype, *ports, protocol, flags, source, destination
        )
