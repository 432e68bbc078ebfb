"""Connections that the node itself has open to pods: noted as `to_pod` notes those that it sees begin.

For pods that ran in clear and are closed off: what the node asked them before (probes, scrapes) is answered. Call in
the node's namespace once `to_pod` is there, so that none is missed in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from redirect import sock_diag
from redirect.layout import HOOK_TO_POD, IP, FlowKey, HostFlow
from redirect.maps import Maps
from redirect.sock_diag import TcpSocket

_TCP = 6


def note(maps: Maps, owners: Mapping[IP, int]) -> None:
    """`owners`: address -> ifindex of its host veth. None are noted where the kernel lists no sockets. Raises OSError.

    What a pod opened to a service of the node is not among them: it is the pod's connection.
    """
    with suppress(FileNotFoundError):
        found = [s for s in sock_diag.tcp_sockets() if s.remote in owners and s.is_open]
        served = sock_diag.listening_ports({s.local_port for s in found})
        at_s = int(time.monotonic())
        opened = [s for s in found if s.local_port not in served]
        maps.put_host_flows({_flow(s): HostFlow(owners[s.remote], at_s) for s in opened})


def _flow(socket: TcpSocket) -> FlowKey:
    """As to_pod sees it."""
    return FlowKey(socket.local, socket.remote, socket.local_port, socket.remote_port, _TCP, HOOK_TO_POD)
