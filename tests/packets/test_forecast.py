"""What is said of a connection's first packet is what the programs do, by the rows that they are tested with."""

from __future__ import annotations

import struct

import pytest

from redirect.conf import Conf
from redirect.forecast import Dial, arriving, leaving
from redirect.layout import NO_ADDRESS, SLOTS, IfaceEntry, address_key, address_of, parse_ip
from redirect.opening import in_s
from tests.packets import bypass_rows, from_pod_rows, glass_rows, hold_rows, prefilter_rows, to_pod_rows
from tests.packets.world import POD_SIDE, Row, World
from tests.support.packets import SYN

IPV4, IPV6, TCP = b"\x08\x00", b"\x86\xdd", 6
OF_THE_PACKET = {
    "SYN_AGAIN": "SYN_HELD",
    "SYN_UNHELD": "SYN_HELD",
    "SYN_RING_FULL": "SYN_HELD",
    "STRANGER_TOO_FAST": "SYN_TO_PROXY",
    "HOST_SYN_TO_PROXY": "HOST_SYN",
}
"""Exits that rates and sockets decide, and what is said in their place."""


def is_new_connection(row: Row) -> bool:
    """A bare SYN, whole and of nobody's mark, that no socket and no other device knows anything of."""
    packet, at = row.packet, 14
    if (
        row.program not in ("from_pod", "to_pod")
        or row.mark
        or row.world.sockets
        or row.ingress_ifindex == POD_SIDE
    ):
        return False
    if packet[12:14] == IPV4:
        is_whole = packet[at] == 0x45 and not struct.unpack_from(">H", packet, at + 6)[0] & 0x3FFF
        protocol, flags_at = packet[at + 9], at + 20 + 13
    elif packet[12:14] == IPV6:
        is_whole, protocol, flags_at = True, packet[at + 6], at + 40 + 13
    else:
        return False
    return is_whole and protocol == TCP and len(packet) > flags_at and _is_bare_syn(packet, flags_at)


def _is_bare_syn(packet: bytes, flags_at: int) -> bool:
    """A SYN as systems send it: with FIN, RST or a header of no length it is only passed on."""
    header_bytes = packet[flags_at - 1] >> 4 << 2
    return packet[flags_at] & 0x17 == SYN and 20 <= header_bytes <= len(packet) - (flags_at - 13)


ROWS = [
    row
    for row in (
        *from_pod_rows.rows(),
        *to_pod_rows.rows(),
        *hold_rows.rows(),
        *bypass_rows.rows(),
        *glass_rows.rows(),
        *prefilter_rows.rows(),
    )
    if is_new_connection(row)
]


def iface(world: World) -> IfaceEntry | None:
    if not world.has_iface:
        return None
    addresses = (address_key(parse_ip(each)) if each else NO_ADDRESS for each in (world.addr4, world.addr6))
    return IfaceEntry(world.flags, *addresses, learnt_until_s=world.learnt_until_s)


def dial(row: Row) -> Dial:
    at = 14
    if row.packet[12:14] == IPV4:
        pair, ports_at = (
            [b"\0" * 10 + b"\xff\xff" + row.packet[at + n : at + n + 4] for n in (12, 16)],
            at + 20,
        )
    else:
        pair, ports_at = [row.packet[at + n : at + n + 16] for n in (8, 24)], at + 40
    world, number = row.world, 7 if row.world.has_conf else 0
    conf = Conf(
        number, number, 0, 0, bytes(6), owners=world.owners, is_plaintext_by_ports=world.plaintext_by_ports
    )
    slots = tuple(name in world.slots for name, _ in sorted(SLOTS.items(), key=lambda item: item[1]))
    return Dial(
        *map(address_of, pair), struct.unpack_from(">H", row.packet, ports_at + 2)[0], conf, slots, in_s(0)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_it_is_said_as_it_is(row: Row) -> None:
    packet, is_open = dial(row), row.world.opening in ("pod", "node")
    if row.program == "from_pod":
        said = leaving(packet, iface(row.world), is_open=is_open)
    else:
        others = [other.address for other in row.world.bridge.others] if row.world.bridge else []
        peers = {row.world.addr4, row.world.addr6, *others}
        said = arriving(
            packet,
            iface(row.world),
            is_hosts=row.ingress_ifindex == 0,
            is_local_peer=str(packet.source) in peers,
            is_open=is_open,
            is_denied=row.exit == "DENIED",
        )
    if row.program == "to_pod" and row.ingress_ifindex == 0 and row.exit == "NO_LISTENER":
        return  # of the node, and captured by whose process it is
    assert said.reason == OF_THE_PACKET.get(row.exit, row.exit)


def test_most_exits_of_a_new_connection_are_among_them() -> None:
    exits = {(row.program, row.exit) for row in ROWS}
    assert {exit for program, exit in exits if program == "from_pod"} >= {
        *("UNKNOWN_IFACE", "CLOSED", "SPOOFED", "NOT_ENROLLED", "NO_CONF", "DRAIN_PASS", "NO_LISTENER"),
        *("SYN_HELD", "SYN_TO_PROXY", "OPEN_SYN"),
    }
    assert {exit for program, exit in exits if program == "to_pod"} >= {
        *("UNKNOWN_IFACE", "NO_CONF", "NO_CONF_PASS", "HOST_SYN", "DRAIN_PASS", "NOT_ENROLLED", "BYPASS_SYN"),
        *("NO_LISTENER", "SYN_HELD", "SYN_TO_PROXY", "OPEN_SYN"),
    }
