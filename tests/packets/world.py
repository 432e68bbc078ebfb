"""What a packet meets and what must come of it: the vocabulary of the tables of rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from redirect.layout import HOOK_FROM_POD, HOOK_TO_POD, NO_MAC, SLOTS, Flag, FlowKey, Neighbour, parse_ip
from tests.support.packets import TCP

NEXT, SHOT, REDIRECT = -1, 2, 7
POD_MAC, BRIDGE_MAC = bytes.fromhex("02bb00000009"), bytes.fromhex("02bb0000000b")
BRIDGE = 4343
ENROLLED, DRAIN, PLAIN, QUEUED = Flag.ENROLLED, Flag.DRAIN, Flag(0), Flag.QUEUED
HONEST = Flag.ENROLLED | Flag.HONEST
BYPASS = Flag.ENROLLED | Flag.BYPASS
DNS = Flag.ENROLLED | Flag.DNS
LEARN = Flag.LEARN
GUARDED = Flag.ENROLLED | Flag.GUARDED
FORWARDED = 4242
"""`ingress_ifindex` of a packet that came in by some device; 0 is what this host made."""
POD_SIDE, NET_SIDE = 4243, 4244
"""By the device that leads into a private namespace; `Rig.play` puts in its number."""
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Family:
    """One address of each role."""

    name: str
    pod: str
    peer: str
    host: str
    router: str
    hop_mac: bytes

    def flow(self, source: Address, destination: Address, hook: int) -> FlowKey:
        return FlowKey(parse_ip(source[0]), parse_ip(destination[0]), source[1], destination[1], TCP, hook)

    def both_ways(self, pod_port: int, peer: Address) -> tuple[FlowKey, FlowKey]:
        """The two entries of a connection of the pod: as it leaves, as its answers come."""
        here = (self.pod, pod_port)
        return self.flow(here, peer, HOOK_FROM_POD), self.flow(peer, here, HOOK_TO_POD)


V4 = Family("v4", "10.77.0.9", "10.88.0.7", "10.77.0.1", "10.66.0.1", bytes.fromhex("02bb00000004"))
V6 = Family("v6", "fd77::9", "fd88::7", "fd77::1", "fd66::1", bytes.fromhex("02bb00000006"))
FAMILIES = (V4, V6)


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket of TCP or UDP that is open meanwhile, on a side of the proxy or on the host ("pod", "net", "host")."""

    side: str
    local: Address
    far: Address | None = None
    state: str = "established"
    """established, syn_recv, time_wait or listening; datagrams: of UDP, connected where there is a far end"""


@dataclass(frozen=True, slots=True)
class Other:
    """Another captured pod, on the same bridge or not."""

    address: str
    mac: bytes
    is_on_bridge: bool = True


@dataclass(frozen=True, slots=True)
class Bridge:
    """That the pod is a port of a bridge, and what is known of its link: by default nothing but the prefixes.

    `gateways`: those that are other machines. `has_hop`: whether there is a next hop for the rest.
    """

    bits: tuple[int, int] = (24, 64)
    gateways: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, Neighbour], ...] = ()
    others: tuple[Other, ...] = ()
    has_hop: bool = True


@dataclass(frozen=True, slots=True)
class Denied:
    """An entry of the pod's set, for both families: the peers' addresses, or so many bits of them."""

    port: int
    is_denied: bool = True
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The maps and sockets. Unless said otherwise: one enrolled pod, all listeners there, nothing else."""

    flags: Flag = ENROLLED
    addr4: str = V4.pod
    addr6: str = V6.pod
    mac: bytes = NO_MAC
    """Of the pod, as `ifaces` has it; by default not known there."""
    learnt_until_s: int = (1 << 32) - 1
    """With LEARN: when its time is over."""
    passthru: tuple[FlowKey, ...] = ()
    kept_until_ns: int = 0
    """Those of `passthru`; 0: until they end."""
    hostflows: tuple[FlowKey, ...] = ()
    is_by_other: bool = False
    """What is in `hostflows` left by another interface than the pod's."""
    bypassed: tuple[FlowKey, ...] = ()
    """What is in `hostflows` besides: connections that went past the proxy on their way in."""
    opening: str = ""
    """Somebody broke the glass: of the "pod", the "node", the "former" pod of this number, of both but it is "over"."""
    opened: tuple[FlowKey, ...] = ()
    """What is in `hostflows` besides: connections past the proxy that began while the pod was open."""
    began_before: bool = False
    """They did so in an earlier opening."""
    hostips: tuple[str, ...] = ()
    sockets: tuple[Socket, ...] = ()
    slots: frozenset[str] = frozenset(SLOTS)
    has_iface: bool = True
    has_pods: bool = True
    has_conf: bool = True
    is_dns_open: bool = False
    mtu_bytes: int = 0xFFFF
    mss_bytes: int = 0xFFFF
    """Of the pod, in both families; larger than any packet unless said otherwise."""
    bridge: Bridge | None = None
    allowed: tuple[str, ...] = ()
    """Encapsulations."""
    owners: int = 1
    """Of rings. With none no SYN is held."""
    takers: int = 1
    """Owners with listeners of their own, over which connections are spread."""
    plaintext_by_ports: bool = False
    """Plaintext connections are not spread by turns."""
    choice_key: int = 0
    host_cgroup: int = 0
    """Whose connections from the host pass; a test run's packets are of the test's own group."""
    has_ring: bool = False
    """The first owner, with room for a few SYNs."""
    stranger_limit: tuple[int, int] = (0, 0)
    """Nanoseconds between SYNs of a stranger to the tunnel port, and how many may come at once; 0: no limit."""
    budget_used: bool = False
    """The pod has used up what SYNs may be held of it, in both directions, and the peers what they may send it."""
    denied: tuple[Denied, ...] = ()
    samples_used: bool = True
    """No SYN goes to the proxy for the sake of its log."""
    is_denied_elsewhere: bool = False
    """The pod's address was behind another interface when that was written."""

    def but(self, **changes: object) -> World:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Row:
    """A packet at a program, and all that must be seen afterwards."""

    name: str
    program: str
    exit: str
    verdict: int
    packet: bytes
    world: World = field(default_factory=World)
    ingress_ifindex: int = 0
    mark: int = 0
    mark_after: int = 0
    head: str = ""
    """The MACs that the packet carries afterwards: "net side" (its destination), "out" (from the pod to its next
    hop), "into" (the reverse) or "turned" (its own the other way round); "" is its own, all bytes unchanged."""
    goes_to: bytes | None = None
    """The destination in place of that of `head`."""
    after: bytes = b""
    """The packet as it is afterwards, but for its MACs; empty: unchanged."""
    gso_size_bytes: int = 0
    """The packet is a bundle of segments that carry so much each."""
    is_end_of_kept: bool = False
    """GRANDFATHER_END is counted too, and `passthru` has nothing left of what it had."""
    begins: tuple[FlowKey, ...] = ()
    """Entries that `passthru` gains."""
    notes: tuple[FlowKey, ...] = ()
    """Entries that `hostflows` gains, all with the pod's interface."""
    notes_bypassed: tuple[FlowKey, ...] = ()
    """Entries that it gains with none."""
    is_end_of_bypassed: bool = False
    """`hostflows` has lost those that went past the proxy."""
    learns: tuple[tuple[str, Neighbour], ...] = ()
    """Entries of `neighbours` that are made or changed."""
    asks: tuple[str, ...] = ()
    """Addresses that are in `wanted`."""
    holds: bytes = b""
    """The frame that the ring has; empty: none."""

    @property
    def id(self) -> str:
        return f"{self.program}-{self.exit}-{self.name}".replace(" ", "_")
