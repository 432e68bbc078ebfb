"""The listeners of a node: the one table that control process, workers, channel and kernel side go by; and the socket
for datagrams beside them.

A row is added here, in the slots of bpf/include/ztun_types.h and in the handlers of `proxy.orders`, nowhere else;
tests/unit/model/test_listener.py and tests/packets hold the three against each other. `side` says in which private
namespace the listener lives, and so what reaches it: connections of pods (pod side) or to pods (net side).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Side(Enum):
    """The private namespaces, in the order of `redirect`'s pairs of them."""

    POD = "pod"
    NET = "net"


@dataclass(frozen=True, slots=True)
class Listener:
    """One row. `slot` is its index in the sockmap `socks`; the name goes over the channel beside each fd."""

    name: str
    port: int
    side: Side
    slot: int


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What takes datagrams: no slot names it, and who has it answers while the listeners' slots are filled."""

    name: str
    port: int
    side: Side


OUTBOUND = Listener("outbound", 15001, Side.POD, 0)
HBONE = Listener("hbone", 15008, Side.NET, 1)
"""Other nodes, waypoints and gateways take HBONE at the same port, on the address of the workload itself."""
PLAINTEXT = Listener("plaintext", 15006, Side.NET, 2)

LISTENERS = (OUTBOUND, HBONE, PLAINTEXT)
"""In the order of their slots."""
DNS = Datagrams("dns", 53, Side.POD)
"""Queries of pods whose DNS is captured. Those over TCP come by OUTBOUND, to the same port."""
ROWS: tuple[Listener | Datagrams, ...] = (*LISTENERS, DNS)
"""What an owner has a socket of each."""
SOCKS5_PORT = 15080
"""Of the proxy's own addresses. Connections of pods to it come by OUTBOUND too, and nothing else listens there."""
OWN_PORTS = frozenset(listener.port for listener in LISTENERS)
"""Nothing may be relayed to them, or it would loop."""
