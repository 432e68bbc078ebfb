"""The structs, flags and exits of bpf/include/ztun_types.h, as user space reads and writes them.

Each struct is declared here once more, with its format; tests/packets/test_layout.py asserts size and offsets
against the C side. The exits and the listeners' slots are read from the header itself. LAYOUT_HASH covers every C
source: programs and maps of one hash belong together and lie in one directory of pins.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

import bpf
from redirect.conf import Conf
from redirect.denials import Denial, DenialKey, Prefiltered
from redirect.limits import MEMBERS, CaptureCount, Member, PodRates, Stranger
from redirect.opening import Opening
from redirect.trace_entries import TraceFilter
from redirect.waiting import MOST, RECORD_BYTES

SOURCES = Path(bpf.__file__).parent
GUARDS = ("guard_from_pod", "guard_to_pod")
PROGRAMS = (
    "from_pod",
    "to_pod",
    "from_pod_side",
    "from_net_side",
    "lookup_pod_side",
    "lookup_net_side",
    *GUARDS,
)
ENDING = {"from_pod": "from_pod_ending", "to_pod": "to_pod_ending"}
"""Of these there is a second one each, made of the first (`redirect.ending`)."""
PINNED = (*ENDING.values(), *PROGRAMS)
"""What a generation has, in the order in which it is pinned."""
MARK_PROXY = 0x1C6
HOOK_FROM_POD, HOOK_TO_POD, HOOK_OPEN = 0, 1, 2
OWNERS_MAX = 64
"""Owners of listeners and rings, over which new connections are spread."""
TURNS = 4096
"""Counters by which pairs of addresses give their connections to the owners in turn."""
NO_ADDRESS = bytes(16)
NO_MAC = bytes(6)

IP = IPv4Address | IPv6Address


class Flag(IntFlag):
    ENROLLED = 1
    DRAIN = 4
    QUEUED = 8
    HONEST = 16
    """Of an interface: new connections from and to its pod are held until their destination has answered."""
    BYPASS = 32
    """Of an interface: connections to its pod go past the proxy, but for those to the tunnel port."""
    DNS = 64
    """Of an interface: what its pod sends to port 53 goes to the proxy, which asks in its name."""
    LEARN = 128
    """Of an interface, alone: its pod is about to be captured. All passes, for a time that the programs hold against
    the clock (`IfaceEntry.learnt_until_s`); connections that begin are noted as kept."""
    GUARDED = 256
    """Of an interface: a guard there drops what our programs have not seen, once these are gone."""


TREATMENT = Flag.HONEST | Flag.BYPASS | Flag.DNS
"""Of an interface: what whoever captures it may choose for its connections."""


class MapShape(NamedTuple):
    kind: str
    key_bytes: int
    value_bytes: int
    max_entries: int


@dataclass(frozen=True, slots=True)
class Reason:
    """An exit of a program: its index in `stats` and its name."""

    index: int
    program: str
    name: str
    is_drop: bool


def address_key(ip: IP) -> bytes:
    """16 bytes in network order; IPv4 as ::ffff:a.b.c.d."""
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def mask(bits: int, version: int) -> bytes:
    """The netmask of a prefix as `address_key` has its addresses: IPv4 behind 96 bits that are the same for all."""
    bits += 96 if version == 4 else 0
    return ((1 << 128) - (1 << 128 - bits)).to_bytes(16, "big")


def prefix_bits(netmask: bytes, version: int) -> int:
    """The length of the prefix that a netmask of `mask` is for."""
    bits = int.from_bytes(netmask, "big").bit_count()
    return bits - 96 if version == 4 else bits


def address_of(raw: bytes) -> IP:
    ip = IPv6Address(raw)
    return ip.ipv4_mapped or ip


@dataclass(frozen=True, slots=True)
class PodEntry:
    """Value of `pods`: where the pod of an address is attached, and what its packets of this family are like there.

    `mtu_bytes`: the largest that leaves in its name; `mss_bytes`: the largest MSS in a SYN from or to it. MACs in
    the pod's name: from the pod to its next hop. Into the pod: the reverse.
    """

    FORMAT = struct.Struct("=IIIHHI6s6s6s2x")

    flags: Flag
    ifindex: int
    pod_mac: bytes
    hop_mac: bytes
    mtu_bytes: int
    mss_bytes: int
    bridge_ifindex: int = 0
    identity: int = 0

    def encode(self) -> bytes:
        sizes = (self.mtu_bytes, self.mss_bytes)
        macs = (self.hop_mac, self.pod_mac, self.hop_mac)
        return self.FORMAT.pack(self.flags, self.ifindex, self.identity, *sizes, self.bridge_ifindex, *macs)

    @classmethod
    def decode(cls, raw: bytes) -> PodEntry:
        flags, ifindex, identity, mtu_bytes, mss_bytes, bridge, hop_mac, pod_mac, _ = cls.FORMAT.unpack(raw)
        return cls(Flag(flags), ifindex, pod_mac, hop_mac, mtu_bytes, mss_bytes, bridge, identity)


@dataclass(frozen=True, slots=True)
class IfaceEntry:
    """Value of `ifaces`: whose a host veth is. Absent addresses are zero.

    `mac`: the pod's own. For a pod on a bridge also what it reaches without a gateway (masks of its addresses), which
    gateways are other machines than this node, and the bridge. `learnt_until_s`, with LEARN alone: then the programs
    close it, in s of CLOCK_BOOTTIME.
    """

    FORMAT = struct.Struct("=II16s16s16s16s16s16sI6s6s")

    flags: Flag
    addr4: bytes
    addr6: bytes
    mask4: bytes = NO_ADDRESS
    mask6: bytes = NO_ADDRESS
    gateway4: bytes = NO_ADDRESS
    gateway6: bytes = NO_ADDRESS
    bridge_ifindex: int = 0
    bridge_mac: bytes = NO_MAC
    mac: bytes = NO_MAC
    learnt_until_s: int = 0

    def flags_at(self, boot_s: float) -> Flag:
        """As they count then, in s of CLOCK_BOOTTIME: bpf/include/ztun_openings.h, flags_of()."""
        if self.flags & Flag.LEARN and self.learnt_until_s <= boot_s:
            return Flag.ENROLLED | Flag.GUARDED
        return self.flags

    def encode(self) -> bytes:
        link = (self.mask4, self.mask6, self.gateway4, self.gateway6, self.bridge_ifindex, self.bridge_mac)
        return self.FORMAT.pack(self.flags, self.learnt_until_s, self.addr4, self.addr6, *link, self.mac)

    @classmethod
    def decode(cls, raw: bytes) -> IfaceEntry:
        flags, until_s, addr4, addr6, mask4, mask6, gate4, gate6, bridge, its_mac, mac = cls.FORMAT.unpack(
            raw
        )
        return cls(Flag(flags), addr4, addr6, mask4, mask6, gate4, gate6, bridge, its_mac, mac, until_s)

    @property
    def addresses(self) -> tuple[IP, ...]:
        return tuple(address_of(raw) for raw in (self.addr4, self.addr6) if raw != NO_ADDRESS)

    def gateway(self, version: int) -> IP | None:
        """The one that is another machine, for packets of a family."""
        raw = self.gateway4 if version == 4 else self.gateway6
        return address_of(raw) if raw != NO_ADDRESS else None


@dataclass(frozen=True, slots=True)
class Owner:
    """Value of `owners`: a note of whoever captured an interface. No program reads it."""

    FORMAT = struct.Struct("=384s")

    text: str

    def encode(self) -> bytes:
        """Raises ValueError for a text that has no room."""
        raw = self.text.encode()
        if len(raw) > self.FORMAT.size or b"\0" in raw:
            raise ValueError(f"{self.text[:40]!r}... does not fit into {self.FORMAT.size} bytes")
        return self.FORMAT.pack(raw)

    @classmethod
    def decode(cls, raw: bytes) -> Owner:
        return cls(raw.rstrip(b"\0").decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class NeighbourKey:
    """Key of `neighbours` and `wanted`: an address on the link of the pod behind a host veth."""

    FORMAT = struct.Struct("=II16s")

    ifindex: int
    address: IP

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.ifindex, 0, address_key(self.address))

    @classmethod
    def decode(cls, raw: bytes) -> NeighbourKey:
        ifindex, _, address = cls.FORMAT.unpack(raw)
        return cls(ifindex, address_of(address))


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Value of `neighbours`. `is_permanent`: somebody set it in the pod, so the programs do not learn another MAC.

    `is_used`: a frame went there since it was written.
    """

    FORMAT = struct.Struct("=6sBB")

    mac: bytes
    is_permanent: bool = False
    is_used: bool = False

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.mac, self.is_permanent, self.is_used)

    @classmethod
    def decode(cls, raw: bytes) -> Neighbour:
        mac, is_permanent, is_used = cls.FORMAT.unpack(raw)
        return cls(mac, bool(is_permanent), bool(is_used))


@dataclass(frozen=True, slots=True)
class FlowKey:
    """Key of `hostflows`, `passthru` and `waiting`: one direction of a connection at a hook.

    Of HOOK_OPEN, in `hostflows` alone: a connection that began past the proxy while its pod was open, as it sends it.
    """

    FORMAT = struct.Struct("=16s16s2s2sBB2x")

    source: IP
    destination: IP
    sport: int
    dport: int
    protocol: int
    hook: int

    def encode(self) -> bytes:
        return self.FORMAT.pack(
            address_key(self.source),
            address_key(self.destination),
            self.sport.to_bytes(2, "big"),
            self.dport.to_bytes(2, "big"),
            self.protocol,
            self.hook,
        )

    @classmethod
    def decode(cls, raw: bytes) -> FlowKey:
        source, destination, sport, dport, protocol, hook = cls.FORMAT.unpack(raw)
        return cls(
            address_of(source),
            address_of(destination),
            int.from_bytes(sport, "big"),
            int.from_bytes(dport, "big"),
            protocol,
            hook,
        )


@dataclass(frozen=True, slots=True)
class HostFlow:
    """Value of `hostflows`: the host veth by which the node's SYN left, and when (s of the monotonic clock).

    `ifindex` 0: the SYN was somebody else's, to a pod whose inbound connections go past the proxy. Of a key of
    HOOK_OPEN it is the pod's own, and `at_s` of the clock that goes on while the machine is suspended.
    """

    FORMAT = struct.Struct("=II")

    ifindex: int
    at_s: int

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.ifindex, self.at_s)

    @classmethod
    def decode(cls, raw: bytes) -> HostFlow:
        return cls(*cls.FORMAT.unpack(raw))


def _reasons(header: str) -> tuple[Reason, ...]:
    rows = re.findall(r"X\((\w+), (\w+), ([01])\)", header)
    return tuple(
        Reason(index, program, name, drop == "1") for index, (program, name, drop) in enumerate(rows)
    )


def _slots(header: str) -> dict[str, int]:
    return {name.lower(): int(slot) for name, slot in re.findall(r"\bSLOT_(\w+) = (\d+)", header)}


def _hash(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*sources.glob("*.c"), *sources.glob("include/*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


_HEADER = (SOURCES / "include" / "ztun_types.h").read_text()
REASONS = _reasons(_HEADER)
SLOTS = _slots(_HEADER)
"""Slot of `socks` for each listener, by its name."""
LAYOUT_HASH = _hash(SOURCES)
MAPS = {
    "pods": MapShape("hash", 16, PodEntry.FORMAT.size, 16384),
    "ifaces": MapShape("hash", 4, IfaceEntry.FORMAT.size, 8192),
    "conf": MapShape("array", 4, Conf.FORMAT.size, 1),
    "hostips": MapShape("hash", 16, 4, 4096),
    "hostflows": MapShape("lru_hash", FlowKey.FORMAT.size, HostFlow.FORMAT.size, 65536),
    "passthru": MapShape("lru_hash", FlowKey.FORMAT.size, 8, 65536),
    "captures": MapShape("hash", 4, CaptureCount.FORMAT.size, 8192),
    "owners": MapShape("hash", 4, Owner.FORMAT.size, 8192),
    "neighbours": MapShape("lru_hash", NeighbourKey.FORMAT.size, Neighbour.FORMAT.size, 16384),
    "wanted": MapShape("hash", NeighbourKey.FORMAT.size, 4, 4096),
    "openings": MapShape("hash", 4, Opening.FORMAT.size, 8192),
    "open_until": MapShape("array", 4, 8, 1),
    "rates": MapShape("hash", 4, PodRates.FORMAT.size, 8192),
    "strangers": MapShape("lru_hash", Stranger.FORMAT.size, 8, 16384),
    "members": MapShape("array", 4, Member.FORMAT.size, MEMBERS),
    "prefiltered": MapShape("hash", 16, Prefiltered.FORMAT.size, 16384),
    "denials": MapShape("lpm_trie", DenialKey.FORMAT.size, Denial.FORMAT.size, 65536),
    "rings": MapShape("array_of_maps", 4, 4, OWNERS_MAX),
    "takers": MapShape("sockmap", 4, 8, len(SLOTS) * OWNERS_MAX),
    "turns": MapShape("array", 4, 4, TURNS),
    "waiting": MapShape("lru_hash", FlowKey.FORMAT.size, RECORD_BYTES, MOST),
    "drafts": MapShape("percpu_array", 4, RECORD_BYTES, 1),
    "tracing": MapShape("array", 4, TraceFilter.FORMAT.size, 1),
    "trace_ring": MapShape("array_of_maps", 4, 4, 1),
    "seen": MapShape("percpu_array", 4, 16, 1),
    "stats": MapShape("percpu_array", 4, 8, len(REASONS)),
    "socks": MapShape("sockmap", 4, 8, len(SLOTS)),
}


def parse_ip(text: str) -> IP:
    """An address in the form the maps use. Raises ValueError."""
    ip = ipaddress.ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
