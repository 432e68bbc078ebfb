"""Packets that programs told of, as rows and lines. Pure: names come as `Names`, events from `redirect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.cli.output import one_line
from redirect.layout import IP, REASONS, Reason, address_of
from redirect.sides import PROXY_ADDRESSES
from redirect.trace_entries import ANY_ADDRESS, TraceEvent

HBONE_PORT, DNS_PORT = 15008, 53
TCP = 6
PROTOCOLS = {1: "ICMP", TCP: "TCP", 17: "UDP", 58: "ICMPv6"}
IP_TYPES = (0x0800, 0x86DD)
OTHER_TYPES = {0x0806: "ARP", 4: "802.2"}
FLAGS = "FSRPAUEC"
NEW = frozenset({"SYN_TO_PROXY", "SYN_AGAIN", "SYN_UNHELD", "SYN_RING_FULL", "HOST_SYN_TO_PROXY", "PICKED"})
"""Exits at which a new connection is given to one of the proxy's listeners."""
ENDS = {
    "DENIED": "prefilter",
    "SYN_HELD": "held",
    "SYN_BACK": "listener",
    "UDP_DNS": "dns",
    "DNS_TO_PROXY": "dns",
    "TO_POD": "pod",
    "TO_QUEUE": "pod",
    "TO_HOST": "host",
    "TO_NEIGHBOUR": "neighbour",
}
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Names:
    """What numbers and addresses are called on this node; `offset_ns`: to add to the clock of events for wall time.

    `pods`: by interface; `owners`: the interface of each pod's address.
    """

    interfaces: Mapping[int, str] = field(default_factory=dict)
    pods: Mapping[int, str] = field(default_factory=dict)
    owners: Mapping[IP, int] = field(default_factory=dict)
    offset_ns: int = 0

    def pod(self, event: TraceEvent, program: str) -> str:
        """Whose packet it is: of the interface, or where that is the proxy's, of the address that is captured there."""
        if event.ifindex in self.pods:
            return self.pods[event.ifindex]
        ends = [event.source, event.destination]
        # What the pod side sends is for the pod, and what the net side is asked for, too.
        if program in ("from_pod_side", "lookup_net_side"):
            ends.reverse()
        for end in ends:
            ifindex = self.owners.get(address_of(end)) if end != ANY_ADDRESS else None
            if ifindex is not None:
                return self.pods.get(ifindex, "")
        return ""


def is_proof(told: Row) -> bool:
    """Whether it is of the agent's own probes: nobody else has an address of the proxy, let alone both ends."""
    return told["source"] in PROXY_ADDRESSES and told["destination"] in PROXY_ADDRESSES


def went(reason: Reason, dport: int) -> str:
    """Where a packet went that left so: a listener of the proxy, a connection of it, or past it; or that it ended."""
    if reason.is_drop:
        return "drop"
    if reason.name in NEW:
        return f"listener {listener(reason.program, dport)}"
    if reason.name in ENDS:
        return ENDS[reason.name]
    return "proxy" if reason.name.endswith("TO_PROXY") else "pass"


def listener(program: str, dport: int) -> str:
    if program in ("from_pod", "lookup_pod_side"):
        return "outbound"
    return "hbone" if dport == HBONE_PORT else "plaintext"


def protocol(event: TraceEvent) -> str:
    if event.protocol:
        return PROTOCOLS.get(event.protocol, f"protocol {event.protocol}")
    if event.ethertype in IP_TYPES:
        return "unreadable"
    return OTHER_TYPES.get(event.ethertype, f"type {event.ethertype:#06x}")


def flags(value: int) -> str:
    return "".join(letter for bit, letter in enumerate(FLAGS) if value >> bit & 1)


def row(event: TraceEvent, names: Names) -> Row:
    """Every field, for programs. No address: the packet has none that can be read."""
    reason = REASONS[event.reason]
    has_ends, is_tcp = event.source != ANY_ADDRESS, event.protocol == TCP
    at_s = (event.at_ns + names.offset_ns) / 1e9
    return {
        "time": datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "program": reason.program,
        "interface": names.interfaces.get(event.ifindex, f"#{event.ifindex}") if event.ifindex else "",
        "pod": names.pod(event, reason.program),
        "protocol": protocol(event),
        "source": str(address_of(event.source)) if has_ends else "",
        "sport": event.sport,
        "destination": str(address_of(event.destination)) if has_ends else "",
        "dport": event.dport,
        "flags": flags(event.tcp_flags) if is_tcp else "",
        "bytes": event.frame_bytes,
        "reason": reason.name,
        "went": went(reason, event.dport),
    }


def line(told: Row) -> str:
    """The same for people, without the date."""
    time = str(told["time"]).partition("T")[2].removesuffix("Z")
    words = [time, told["program"], told["interface"], told["pod"] or "-", told["protocol"]]
    if told["source"]:
        words += [end(told["source"], told["sport"]), ">", end(told["destination"], told["dport"])]
    words += [
        f"[{told['flags']}]" if told["flags"] else "",
        f"{told['bytes']} {'byte' if told['bytes'] == 1 else 'bytes'}" if told["bytes"] else "",
    ]
    return one_line(" ".join(str(word) for word in words if word)) + f" {told['reason']}: {told['went']}"


def end(address: object, port: object) -> str:
    if not port:
        return str(address)
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
