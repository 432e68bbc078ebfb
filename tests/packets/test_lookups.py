"""The two sk_lookup programs: which listener gets a connection, and that no listener means no connection."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

import pytest

from agent.model.listener import LISTENERS
from redirect import sys_bpf
from redirect.layout import SLOTS
from tests.packets.rig import NAMES, Rig
from tests.packets.sockets import cookie, listener
from tests.packets.world import V4, V6, Family, World
from tests.support.packets import TCP, UDP

SK_DROP, SK_PASS = 0, 1
CONTEXT = struct.Struct("=QIII16sHxxI16sII4x")
"""struct bpf_sk_lookup (linux/bpf.h): cookie, family, protocol, the remote end, the local end, ifindex."""
ALL = frozenset(SLOTS)
UNFIT = "UNFIT_LISTENER"


@dataclass(frozen=True, slots=True)
class Lookup:
    program: str
    protocol: int
    port: int
    exit: str
    verdict: int
    picked: str = ""
    slots: frozenset[str] = ALL

    @property
    def id(self) -> str:
        return f"{self.program}-{self.exit}-{self.protocol}-{self.port}-{len(self.slots)}"


LOOKUPS = [
    # The table of listeners: each is found on its side, by its port.
    *(
        Lookup(f"lookup_{row.side.value}_side", TCP, row.port, "PICKED", SK_PASS, row.name)
        for row in LISTENERS
    ),
    *(
        Lookup("lookup_pod_side", TCP, port, "PICKED", SK_PASS, "outbound", frozenset({"outbound"}))
        for port in (53, 80, 15001, 15006, 15008)
    ),
    Lookup("lookup_pod_side", TCP, 80, "NO_LISTENER", SK_DROP, slots=ALL - {"outbound"}),
    Lookup("lookup_pod_side", UDP, 53, "UDP_DNS", SK_PASS),
    Lookup("lookup_pod_side", UDP, 53, "UDP_DNS", SK_PASS, slots=frozenset()),
    *(Lookup("lookup_pod_side", UDP, port, "UDP_DROP", SK_DROP) for port in (52, 54, 443, 15001)),
    Lookup("lookup_net_side", TCP, 15008, "PICKED", SK_PASS, "hbone", frozenset({"hbone"})),
    *(
        Lookup("lookup_net_side", TCP, port, "PICKED", SK_PASS, "plaintext", frozenset({"plaintext"}))
        for port in (80, 15001, 15006, 15007, 15009)
    ),
    Lookup("lookup_net_side", TCP, 15008, "NO_LISTENER", SK_DROP, slots=ALL - {"hbone"}),
    Lookup("lookup_net_side", TCP, 80, "NO_LISTENER", SK_DROP, slots=ALL - {"plaintext"}),
    *(Lookup("lookup_net_side", UDP, port, "UDP_DROP", SK_DROP) for port in (53, 80, 15008)),
]


def look_up(rig: Rig, look: Lookup, net: Family, remote_port: int = 40004) -> tuple[int, int, dict[str, int]]:
    """Verdict, cookie of the socket that was picked (0: none) and the counters that moved."""
    family = socket.AF_INET if net.name == V4.name else socket.AF_INET6
    far, near = ipaddress.ip_address(net.peer).packed, ipaddress.ip_address(net.pod).packed
    if net.name == V4.name:
        ips = struct.unpack("=I", far)[0], bytes(16), struct.unpack("=I", near)[0], bytes(16)
    else:
        ips = 0, far, 0, near
    remote_port_be = socket.htons(remote_port)
    context = CONTEXT.pack(
        0, family, look.protocol, ips[0], ips[1], remote_port_be, ips[2], ips[3], look.port, 0
    )
    before = rig.counters()
    ran = sys_bpf.prog_test_run(rig.programs[look.program], b"", context)
    after = rig.counters()
    moved = {name: after[name] - before[name] for name in NAMES if after[name] != before[name]}
    return ran.verdict, CONTEXT.unpack(ran.context)[0], moved


@pytest.mark.kernel
@pytest.mark.parametrize("net", (V4, V6), ids=lambda net: net.name)
@pytest.mark.parametrize("look", LOOKUPS, ids=lambda look: look.id)
def test_a_lookup_picks_the_slot(rig: Rig, look: Lookup, net: Family) -> None:
    with rig.world(World(slots=look.slots)):
        verdict, picked, moved = look_up(rig, look, net)
    assert (verdict, moved) == (look.verdict, {f"{look.program}/{look.exit}": 1})
    assert picked == (cookie(rig.listeners[look.picked]) if look.picked else 0)


@pytest.mark.kernel
@pytest.mark.parametrize("program, slot", (("lookup_pod_side", "outbound"), ("lookup_net_side", "plaintext")))
def test_a_listener_of_the_wrong_family_serves_nobody(rig: Rig, program: str, slot: str) -> None:
    look = Lookup(program, TCP, 80, UNFIT, SK_DROP)
    with rig.world(World()), listener(("127.0.0.1", 0)) as v4_only:
        rig.set_slot(slot, v4_only)
        assert look_up(rig, look, V4) == (SK_PASS, cookie(v4_only), {f"{program}/PICKED": 1})
        assert look_up(rig, look, V6) == (SK_DROP, 0, {f"{program}/{UNFIT}": 1})


@pytest.mark.kernel
def test_a_closed_listener_leaves_its_slot_empty(rig: Rig) -> None:
    look = Lookup("lookup_pod_side", TCP, 80, "PICKED", SK_PASS)
    with rig.world(World()):
        with listener() as short_lived:
            rig.set_slot("outbound", short_lived)
            assert look_up(rig, look, V6)[0] == SK_PASS
        assert look_up(rig, look, V6) == (SK_DROP, 0, {"lookup_pod_side/NO_LISTENER": 1})
