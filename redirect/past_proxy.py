"""Connections that go past the proxy into a pod, ended with both of their ends told.

Once the pod is captured again its programs give such a connection to the proxy, which knows nothing of it: each packet
resets whoever sent it, and nobody the other end. A client that waits for an answer would wait for ever.
"""

from __future__ import annotations

from collections.abc import Collection

from redirect import netns, sock_diag
from redirect.layout import HOOK_TO_POD, IP, FlowKey
from redirect.locate import namespace_behind
from redirect.maps import Maps
from redirect.sock_diag import TcpSocket

_TCP = 6


def end(maps: Maps, ifindex: int, addresses: Collection[IP]) -> int:
    """Destroys the pod's sockets of connections that went past the proxy; how many. Raises OSError.

    To be called while their packets still pass: the resets go where the connections do. None where the pod's
    namespace is not found, or the kernel destroys no sockets: there each end learns of it when it sends.
    """
    namespace = namespace_behind(ifindex)
    if namespace is None:
        return 0
    with netns.entered(namespace):
        return sock_diag.destroy_where(lambda socket: _is_noted(maps, socket, addresses))


def _is_noted(maps: Maps, socket: TcpSocket, addresses: Collection[IP]) -> bool:
    if socket.local not in addresses:
        return False
    flow = FlowKey(socket.remote, socket.local, socket.remote_port, socket.local_port, _TCP, HOOK_TO_POD)
    noted = maps.host_flow(flow)
    return noted is not None and not noted.ifindex
