"""Entries of the maps that count SYNs and queries, and say how many pass and of whom; addresses are as
`layout.address_key` has them.

Part of `layout`, which has the rest of bpf/include/ztun_types.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MEMBERS = 16384
"""Places for addresses that have proven themselves; each has two of them."""


@dataclass(frozen=True, slots=True)
class CaptureCount:
    """Value of `captures`: SYNs of a pod that were handed to the proxy, those sent again too."""

    FORMAT = struct.Struct("=QQ")

    outbound: int = 0
    inbound: int = 0

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.outbound, self.inbound)

    @classmethod
    def decode(cls, raw: bytes) -> CaptureCount:
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class PodRates:
    """Value of `rates`: until when a pod's SYNs, by direction, and its DNS over UDP have used up their rate (ns of the
    monotonic clock)."""

    FORMAT = struct.Struct("=QQQ")

    outbound_due_ns: int = 0
    inbound_due_ns: int = 0
    dns_due_ns: int = 0

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.outbound_due_ns, self.inbound_due_ns, self.dns_due_ns)

    @classmethod
    def decode(cls, raw: bytes) -> PodRates:
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class Stranger:
    """Key of `strangers`: an address that opens connections to the tunnel port of the pod behind a host veth."""

    FORMAT = struct.Struct("=16sI4x")

    address: bytes
    ifindex: int

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.address, self.ifindex)

    @classmethod
    def decode(cls, raw: bytes) -> Stranger:
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class Member:
    """Value of `members`: an address that has proven itself, until when that counts (ns of the monotonic clock)."""

    FORMAT = struct.Struct("=16sQ")

    address: bytes
    until_ns: int

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.address, self.until_ns)

    @classmethod
    def decode(cls, raw: bytes) -> Member:
        return cls(*cls.FORMAT.unpack(raw))
