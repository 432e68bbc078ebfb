"""Entries of the maps by which programs deny; addresses are as `layout.address_key` has them.

Part of `layout`, which has the rest of bpf/include/ztun_types.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

OTHER_PORTS = 0
"""In the place of a port: all that have no entries of their own in a set."""
CIDR = IPv4Network | IPv6Network
_BITS_BEFORE_ADDRESS = 96
_BITS_BEFORE_V4 = 96
_V4 = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Prefiltered:
    """Value of `prefiltered`: which set says who is denied at an address, while it is behind this host veth.

    `samples_due_ns`: until when those that go to the proxy all the same have used up their rate (ns of the monotonic
    clock).
    """

    FORMAT = struct.Struct("=IIQ")

    ifindex: int
    set: int
    samples_due_ns: int = 0

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.ifindex, self.set, self.samples_due_ns)

    @classmethod
    def decode(cls, raw: bytes) -> Prefiltered:
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class DenialKey:
    """Key of `denials`. `bits`: how many of the 128 of the address count."""

    FORMAT = struct.Struct("=II2s6x16s")

    set: int
    port: int
    address: bytes
    bits: int

    def encode(self) -> bytes:
        port_be = self.port.to_bytes(2, "big")
        return self.FORMAT.pack(_BITS_BEFORE_ADDRESS + self.bits, self.set, port_be, self.address)

    @classmethod
    def decode(cls, raw: bytes) -> DenialKey:
        bits, number, port_be, address = cls.FORMAT.unpack(raw)
        return cls(number, int.from_bytes(port_be, "big"), address, bits - _BITS_BEFORE_ADDRESS)

    @classmethod
    def of(cls, number: int, port: int, sources: CIDR) -> DenialKey:
        raw, bits = sources.network_address.packed, sources.prefixlen
        return (
            cls(number, port, raw, bits)
            if len(raw) == 16
            else cls(number, port, _V4 + raw, bits + _BITS_BEFORE_V4)
        )

    @property
    def sources(self) -> CIDR:
        if self.address.startswith(_V4) and self.bits >= _BITS_BEFORE_V4:
            return IPv4Network((self.address[12:], self.bits - _BITS_BEFORE_V4))
        return IPv6Network((self.address, self.bits))


@dataclass(frozen=True, slots=True)
class Denial:
    """Value of `denials`; `packets`: SYNs that were answered by it."""

    FORMAT = struct.Struct("=B7xQ")

    is_denied: bool
    packets: int = 0

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.is_denied, self.packets)

    @classmethod
    def decode(cls, raw: bytes) -> Denial:
        is_denied, packets = cls.FORMAT.unpack(raw)
        return cls(bool(is_denied), packets)
